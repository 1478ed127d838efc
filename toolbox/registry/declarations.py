"""What a plugin module declares, checked as far as one plugin can be by itself; nothing that it names is imported."""

from __future__ import annotations

import re
from collections.abc import Iterable
from types import ModuleType
from typing import Any

import pluggy

import toolbox.plugin
from toolbox.plugin import KINDS, Command, Component, Kind

HOOKS = tuple(name for name in dir(toolbox.plugin) if name.startswith("toolbox_"))


def read_declarations(namespace: str, module: ModuleType) -> dict[str, Any]:
    """The components, kinds, commands and hook relay of a plugin module, by their names in `Plugin`.

    Raises an exception that says what is wrong with the module.
    """
    if not namespace.isidentifier():
        raise ValueError(f"the namespace {namespace!r} is no plain word: letters, digits and _ only")
    manager = pluggy.PluginManager("toolbox")
    manager.add_hookspecs(toolbox.plugin)
    manager.register(module, name=namespace)
    manager.check_pending()
    unmarked = [name for name in HOOKS if hasattr(module, name) and not hasattr(getattr(module, name), "toolbox_impl")]
    if unmarked:
        raise ValueError(f"{module.__name__}.{unmarked[0]} is not marked with @hookimpl")
    if not manager.get_hookcallers(module):
        raise ValueError(f"{module.__name__} implements no hook: one of {', '.join(HOOKS)}, marked with @hookimpl")
    declared: dict[str, Any] = {"hook": manager.hook}
    for field, item_type in (("components", Component), ("kinds", Kind), ("commands", Command)):
        hook = f"toolbox_{field}"
        answers = [
            item for answer in getattr(manager.hook, hook)() for item in _as_list(answer, hook, item_type, module)
        ]
        declared[field] = tuple(answers)
        _check_items(answers, item_type)
    for component in declared["components"]:
        if isinstance(component.requires, str) or not all(isinstance(name, str) for name in component.requires):
            raise TypeError(f"component {component.name!r}: requires must be a tuple of module names, e.g. ('peft',)")
    for kind in declared["kinds"]:
        if kind.name in KINDS:
            raise ValueError(f"kind {kind.name!r} is one of the toolbox's own; give yours another name")
    kinds = [*(KINDS if namespace == "core" else ()), *(kind.name for kind in declared["kinds"])]
    _check_defaults([component for component in declared["components"] if component.default], kinds)
    return declared


def _check_defaults(components: Iterable[Component], kinds: Iterable[str]) -> None:
    """Each is the only default of its kind, which is one of `kinds`, those of its plugin."""
    names: dict[str, str] = {}
    for component in components:
        if component.kind not in kinds:
            raise ValueError(
                f"component {component.name!r} is declared as the default of the kind {component.kind!r}, "
                "which belongs to another plugin; leave default=True out"
            )
        if component.kind in names:
            raise ValueError(f"{names[component.kind]!r} and {component.name!r} are both the default {component.kind}")
        names[component.kind] = component.name


def _as_list(answer: Any, hook: str, item_type: type, module: ModuleType) -> list[Any]:
    if not isinstance(answer, (list, tuple)):
        raise TypeError(f"{module.__name__}.{hook} must return a list of {item_type.__name__}, not {answer!r}")
    for item in answer:
        if not isinstance(item, item_type):
            raise TypeError(f"{hook} returned {item!r}, which is no toolbox.plugin.{item_type.__name__}")
    return list(answer)


def _check_items(items: Iterable[Any], item_type: type) -> None:
    """Names and targets; names of kinds and commands are lower case, since that is how they are typed and matched."""
    word = item_type.__name__.lower()
    form = "module:function" if item_type is Command else "module:Class"
    names = set()
    for item in items:
        if not (isinstance(item.name, str) and item.name.isidentifier()):
            raise ValueError(f"{word} {item.name!r}: a name is one plain word: letters, digits and _ only")
        if item_type is not Component and item.name != item.name.lower():
            raise ValueError(f"{word} {item.name!r}: its name is lower case: {item.name.lower()!r}")
        if item.name in names:
            raise ValueError(f"{word} {item.name!r} is declared twice")
        if not (isinstance(item.target, str) and re.fullmatch(r"[\w.]+:[\w.]+", item.target)):
            raise ValueError(f"{word} {item.name!r}: target must be {form!r}, not {item.target!r}")
        names.add(item.name)
