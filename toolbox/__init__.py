"""A plugin-based toolbox for vision encoders. Public names are loaded on first use, so importing this is instant."""

from __future__ import annotations

from importlib import import_module

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
    "FeatureStore": "toolbox.features.store:Store",
    "add_model_arguments": "toolbox.cli.sources:add_model_arguments",
    "add_recipe_arguments": "toolbox.cli.common:add_recipe_arguments",
    "embed_dataset": "toolbox.cli.sources:run",
    "load_from_arguments": "toolbox.cli.sources:load_from_arguments",
    "load_split": "toolbox.cli.sources:load_split",
    "new_command_parser": "toolbox.cli.common:new_parser",
    "run_in_processes": "toolbox.cli.processes:run_in_processes",
    "run_over_images": "toolbox.engine.judging.image_outputs:run_over_images",
    "show_progress": "toolbox.cli.sources:progress",
    "whole_number": "toolbox.cli.sources:from_least",
}
"""What sub-commands of plugins need beyond that, where it is."""

__all__ = [*_PUBLIC, *_FOR_COMMANDS]


def __getattr__(name: str) -> object:
    if name == "__version__":
        return _version()
    if name in _PUBLIC:
        return getattr(import_module(_PUBLIC[name]), name)
    if name in _FOR_COMMANDS:
        module, _, attribute = _FOR_COMMANDS[name].partition(":")
        return getattr(import_module(module), attribute)
    raise AttributeError(f"module 'toolbox' has no attribute '{name}'")


def __dir__() -> list[str]:
    return [*__all__, "__version__"]


def _version() -> str:
    from importlib.metadata import PackageNotFoundError, version

    try:
        return version("vision-encoder-toolbox")
    except PackageNotFoundError:  # the sources on sys.path, not installed
        return "0+unknown"
