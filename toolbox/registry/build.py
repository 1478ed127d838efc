"""A recipe's dict -> the object that it describes."""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import Any

from toolbox.errors import Problem, ToolboxError, place_backbone_keys
from toolbox.registry.catalog import get_catalog
from toolbox.registry.messages import list_names, suggest_nearest
from toolbox.registry.signature import Parameter, check_plain, read_parameters

SLOT_KEYS: dict[str, dict[str, type | str]] = {
    "backbone": {"quantize": "quantize", "tune": "tune", "gradient_checkpointing": bool}
}
"""Keys that every component of a kind takes beside its constructor's: {kind: {key: a kind of component or a type}}."""


def build(config: Any, kind: str | None = None, *, where: str = "") -> Any:
    """Build a component, those nested in it first.

    - `config`: a dict with `type`, which may be absent where the kind has a default component, or a list of such dicts;
      an object that is built already is returned as it is.
    - `kind`: what the place expects, None for anything.
    - `where`: the key path of `config` in the recipe, for messages.

    A backbone's `quantize`, `tune` and `gradient_checkpointing` are no constructor arguments: they become attributes of
    the built backbone, for the engine to apply once its weights are loaded.

    Raises ToolboxError for a name or an argument that does not fit, and for what a constructor refuses, with the key
    path and the original exception chained.
    """
    if isinstance(config, (list, tuple)):
        return [build(item, kind, where=_join(where, str(i))) for i, item in enumerate(config)]
    if isinstance(config, str) or config is None:
        expected = f"a {kind}" if kind else "a component"
        raise ToolboxError(f"{expected} is a dict with 'type', not {config!r}.", where=where)
    if not isinstance(config, Mapping):
        return config
    arguments = dict(config)
    fullname = arguments.pop("type", None) or get_catalog().default(kind)
    if fullname is None:
        raise ToolboxError("a component needs 'type', the name of one as in type='core.AdamW'.", where=where)
    entry = get_catalog().get(fullname, kind, where=where)
    cls = get_catalog().resolve(fullname, kind, where=where)
    slots = {
        key: _build_slot(key, arguments.pop(key, None), expected, where)
        for key, expected in SLOT_KEYS.get(entry.kind, {}).items()
    }
    accepted = {parameter.name: parameter for parameter in read_parameters(cls)}
    if problems := check_names(fullname, accepted, arguments, where):
        raise ToolboxError.from_problems(problems)
    arguments = {name: _build_argument(value, accepted[name], _join(where, name)) for name, value in arguments.items()}
    try:
        built = cls(**arguments)
    except ToolboxError:
        raise
    except (ValueError, TypeError, OSError) as error:
        message = str(error) or type(error).__name__
        if entry.kind == "backbone":
            message = place_backbone_keys(message, where)
        raise ToolboxError(message, where=where or fullname) from error
    for key, value in slots.items():
        setattr(built, key, value)
    if entry.kind == "backbone":
        built.from_recipe = id(built)
    return built


def check_names(
    fullname: str, accepted: Mapping[str, Parameter], arguments: Mapping[str, Any], where: str
) -> list[Problem]:
    """Arguments that the component does not have, each with the nearest one, and required ones that are absent."""
    unknown = [
        Problem(
            f"{fullname} has no argument {name!r}.",
            _join(where, name),
            suggest_nearest(name, accepted) or list_names("Its arguments", accepted),
        )
        for name in arguments
        if name not in accepted
    ]
    return unknown + [
        Problem(f"{fullname} needs the argument {name!r}.", where, parameter.doc)
        for name, parameter in accepted.items()
        if parameter.required and name not in arguments
    ]


def expand_home(value: Any) -> Any:
    """A value of a recipe, in which every text that starts with `~/` or `~name/` is a path at home.

    A text that names nobody's home stays as it is, and so does `~` alone, which may be a label.
    """
    if isinstance(value, str):
        return os.path.expanduser(value) if value.startswith("~") and "/" in value else value
    if isinstance(value, dict):
        return {key: expand_home(item) for key, item in value.items()}
    return [expand_home(item) for item in value] if isinstance(value, list) else value


def _build_argument(value: Any, parameter: Parameter, where: str) -> Any:
    """A constructor argument; components are built where the annotation names an extension point."""
    kind = parameter.kind_of_component
    if kind is None or value is None or (isinstance(value, str) and parameter.accepts_string):
        if problems := check_plain(value, parameter, where):
            raise ToolboxError.from_problems(problems)
        return expand_home(value)
    if parameter.container == "dict" and isinstance(value, Mapping) and "type" not in value:
        return {name: build(item, kind, where=_join(where, name)) for name, item in value.items()}
    return build(value, kind, where=where)


def _build_slot(key: str, value: Any, expected: type | str, where: str) -> Any:
    """The value of a key that the slot itself takes; `expected`: as in SLOT_KEYS."""
    if isinstance(expected, str):
        return None if value is None else build(value, expected, where=_join(where, key))
    if value is not None and not isinstance(value, bool):
        raise ToolboxError(f"{key} is True or False, not {value!r}.", where=_join(where, key))
    return bool(value)


def _join(where: str, key: str) -> str:
    return f"{where}.{key}" if where else key
