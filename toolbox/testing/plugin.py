"""Checks by name: a whole plugin, or one of its components."""

from __future__ import annotations

import inspect
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from toolbox.errors import ToolboxError
from toolbox.registry.build import build
from toolbox.registry.catalog import get_catalog
from toolbox.registry.discovery import Plugin
from toolbox.registry.foreign_keys import read_foreign_keys
from toolbox.registry.signature import EMPTY, read_parameters
from toolbox.testing.backbone import check_backbone
from toolbox.testing.data import check_augment, check_dataset, check_mix, check_sampler
from toolbox.testing.loss import check_loss
from toolbox.testing.material import require
from toolbox.testing.model import check_model
from toolbox.testing.modules import check_head, check_pool
from toolbox.testing.training import check_metric, check_optimizer, check_schedule

HEAVY = ("torch", "numpy", "PIL", "transformers", "timm", "peft", "mmengine", "matplotlib")
CHECKS: dict[str, Callable[[Callable[[], Any]], None]] = {
    "backbone": check_backbone,
    "model": check_model,
    "loss": check_loss,
    "head": check_head,
    "pool": check_pool,
    "dataset": check_dataset,
    "sampler": check_sampler,
    "augment": check_augment,
    "mix": check_mix,
    "metric": check_metric,
    "schedule": check_schedule,
    "optimizer": check_optimizer,
}


def check_plugin(namespace: str) -> None:
    """Check what can be said of a plugin without arguments; raises AssertionError that names the broken contract.

    It is found and usable, declares something, with a one-line summary each, its module imports nothing heavy, its
    recipe folders exist, its tables of foreign keys can be read, each class can be imported (unless a requirement is
    missing), is of its kind, is documented and takes annotated keywords; its kinds are abstract and documented classes,
    and its commands can be imported.

    - `namespace`: the plugin's, as in `namespace.Name`.
    """
    plugins = get_catalog()
    with _require_success(f"the plugin {namespace!r} must be found and usable"):
        plugin = plugins.plugin(namespace)
    for hook in (plugin.hook.toolbox_config_dirs, plugin.hook.toolbox_foreign_keys):
        with _require_success(f"{namespace}: {hook.name} must return paths", Exception):
            for paths in hook():
                list(paths)
    require(
        plugin.components or plugin.kinds or plugin.commands,
        f"{namespace}: its hooks must declare at least one component, kind or command.",
    )
    _check_light(plugin)
    for folder in plugins.config_dirs().get(namespace, []):
        require(folder.is_dir(), f"{namespace}: toolbox_config_dirs names {folder}, which is no folder.")
    for path in plugins.foreign_key_files().get(namespace, []):
        with _require_success(f"{namespace}: {path} is no table of foreign keys", (OSError, ValueError)):
            read_foreign_keys(path)
    _check_kinds(plugin)
    for command in plugins.commands():
        if command.plugin is plugin:
            _check_summary(f"the command {command.name}", command.summary)
            with _require_success(namespace):
                command.load()
    for entry in plugins.entries:
        if entry.plugin is not plugin:
            continue
        _check_summary(entry.fullname, entry.summary)
        if entry.missing:
            continue
        with _require_success(f"{entry.fullname} must be importable and checkable"):
            cls = plugins.resolve(entry.fullname)
            arguments = read_parameters(cls)
        require(vars(cls).get("__doc__"), f"{entry.fullname}: the class needs a docstring.")
        for argument in arguments:
            require(
                argument.annotation is not EMPTY,
                f"{entry.fullname}: the argument {argument.name!r} needs an annotation; recipes rely on it.",
            )
            require(
                not isinstance(argument.annotation, str),
                f"{entry.fullname}: the annotation {argument.annotation!r} of {argument.name!r} must be importable at "
                "run time: keep it out of `if TYPE_CHECKING`.",
            )


def check_component(fullname: str, **arguments: Any) -> None:
    """Build a component as a recipe would, and check the contract of its kind; raises AssertionError if it is broken.

    Tunes and hooks have no check of their own: they are built, nothing more.

    - `fullname`: `namespace.Name`.
    - `arguments`: of its constructor, as in a recipe: `check_component("acme.PatchMixer", dim=16, depth=1)`.
    """
    entry = get_catalog().get(fullname)

    def make() -> Any:
        return build({"type": fullname, **arguments}, entry.kind, where=fullname)

    make()
    if entry.kind in CHECKS:
        CHECKS[entry.kind](make)


@contextmanager
def _require_success(
    sentence: str, errors: type[Exception] | tuple[type[Exception], ...] = ToolboxError
) -> Iterator[None]:
    """Raise AssertionError with `sentence` for an error of these types inside."""
    try:
        yield
    except errors as error:
        raise AssertionError(f"{sentence}: {error}") from error


def _check_kinds(plugin: Plugin) -> None:
    for kind in plugin.kinds:
        _check_summary(f"the kind {kind.name}", kind.summary)
        with _require_success(plugin.namespace):
            cls = get_catalog().kinds.import_base(kind.name)
        is_component = any(component.target == kind.target for component in plugin.components)
        require(
            is_component or inspect.isabstract(cls),
            f"the kind {kind.name}: {kind.target} must be abstract, and say what is needed, or be a component.",
        )
        require(vars(cls).get("__doc__"), f"the kind {kind.name}: its class needs a docstring.")


def _check_summary(name: str, summary: str) -> None:
    require(summary.strip() and "\n" not in summary, f"{name}: the summary must be one line that says what it is.")


def _check_light(plugin: Plugin) -> None:
    """Listing components must not cost the import of their libraries."""
    if plugin.module is None:
        raise AssertionError(f"{plugin.namespace}: its module is not loaded.")
    code = f"import sys, {plugin.module.__name__}; print(*(m for m in {HEAVY!r} if m in sys.modules))"
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(path for path in sys.path if path)}
    process = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=environment)
    require(
        process.returncode == 0, f"{plugin.namespace}: its module cannot be imported alone: {process.stderr[-500:]}"
    )
    heavy = process.stdout.split()
    require(not heavy, f"{plugin.namespace}: its plugin module must import nothing but toolbox.plugin, not {heavy}.")
