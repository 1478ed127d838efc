"""A plugin-based toolbox for vision encoders. Public names are loaded on first use, so importing this is instant."""

from __future__ import annotations

from importlib import import_module

TYPE_CHECKING = False  # as type checkers read it; `typing` is not imported for it
if TYPE_CHECKING:
    from typing import Any

_PUBLIC = {
    "ToolboxError": "toolbox.errors",
    "build": "toolbox.api",
    "check_config": "toolbox.api",
    "evaluate": "toolbox.api",
    "export": "toolbox.api",
    "extract": "toolbox.api",
    "list_components": "toolbox.api",
    "load": "toolbox.api",
    "load_config": "toolbox.api",
    "train": "toolbox.api",
}

_FOR_COMMANDS = {
    "Console": "toolbox.engine.console:Console",
    "FeatureStore": "toolbox.feature_cache.feature_store:FeatureStore",
    "HtmlPage": "toolbox.report.page:HtmlPage",
    "add_model_arguments": "toolbox.cli.model_commands:add_model_arguments",
    "add_recipe_arguments": "toolbox.cli.common:add_recipe_arguments",
    "collect_outputs": "toolbox.cli.model_commands:collect_outputs",
    "describe_model": "toolbox.cli.model_commands:describe_model",
    "embed_dataset": "toolbox.cli.model_commands:embed_dataset",
    "find_model_kind": "toolbox.loading:find_model_kind",
    "load_from_arguments": "toolbox.cli.model_commands:load_from_arguments",
    "load_images": "toolbox.cli.model_commands:load_images",
    "load_split": "toolbox.cli.model_commands:load_split",
    "new_command_parser": "toolbox.cli.common:new_parser",
    "print_table": "toolbox.cli.tables:print_table",
    "run_in_processes": "toolbox.cli.processes:run_in_processes",
    "run_over_items": "toolbox.inference.item_outputs:run_over_items",
    "shorten_list": "toolbox.cli.model_commands:shorten_list",
    "show_progress": "toolbox.cli.model_commands:show_progress",
    "whole_number": "toolbox.cli.model_commands:whole_number",
}
"""What sub-commands of plugins need beyond that, where it is."""

__all__ = [*_PUBLIC, *_FOR_COMMANDS]


def __getattr__(name: str) -> Any:
    if name == "__version__":
        from importlib.metadata import PackageNotFoundError, version

        try:
            return version("vision-encoder-toolbox")
        except PackageNotFoundError:  # the sources on sys.path, not installed
            return "0+unknown"
    if name in _PUBLIC:
        return getattr(import_module(_PUBLIC[name]), name)
    if name in _FOR_COMMANDS:
        module, _, attribute = _FOR_COMMANDS[name].partition(":")
        return getattr(import_module(module), attribute)
    raise AttributeError(f"module 'toolbox' has no attribute '{name}'")


def __dir__() -> list[str]:
    return [*__all__, "__version__"]
