"""The arguments of a component's constructor: the source of validation, of building and of the printed help."""

from __future__ import annotations

import inspect
import re
import types
import typing
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from toolbox.errors import Problem, ToolboxError
from toolbox.registry.catalog import get_catalog

EMPTY = inspect.Parameter.empty


@dataclass(frozen=True)
class Parameter:
    """One constructor argument.

    - `name`: its keyword.
    - `annotation`: the resolved type; the source text where it cannot be resolved; `EMPTY` without one.
    - `default`: its default, `EMPTY` when `required`.
    - `kind_of_component`: "loss", "backbone" ... when the annotation is or contains the class of that kind, else None.
    - `container`: "" for a single component, "list" for `list[Loss]`, "dict" for `dict[str, Backbone]`.
    - `doc`: its bullet in the class docstring, "" without one.
    """

    name: str
    annotation: Any
    default: Any
    required: bool
    kind_of_component: str | None = None
    container: str = ""
    doc: str = ""

    @property
    def accepts_string(self) -> bool:
        """Whether a plain string is a value of its own, as in `pool: Pool | str`."""
        return accepts(self.annotation, str)


def read_parameters(cls: type) -> list[Parameter]:
    """The constructor arguments of a component class, in order.

    Raises ToolboxError when the constructor takes *args or **kwargs: its recipes could not be checked.
    """
    owner = next(base for base in cls.__mro__ if "__init__" in vars(base))
    if owner is object or (owner.__module__, owner.__name__) == ("torch.nn.modules.module", "Module"):
        return []  # no constructor of its own: torch's takes *args and **kwargs that mean nothing here
    constructor = vars(owner)["__init__"]
    hints = _resolve_hints(constructor)
    documents = [base.__dict__.get("__doc__") for base in (cls, owner)] + [constructor.__doc__]
    bullets: dict[str, str] = {}
    for document in reversed(documents):
        bullets |= _read_bullets(document or "")

    arguments = []
    for item in list(inspect.signature(constructor).parameters.values())[1:]:
        if item.kind in (item.VAR_POSITIONAL, item.VAR_KEYWORD, item.POSITIONAL_ONLY):
            stars = "*" if item.kind == item.VAR_POSITIONAL else "**" if item.kind == item.VAR_KEYWORD else ""
            raise ToolboxError(
                f"the constructor of {cls.__module__}:{cls.__qualname__} takes {stars}{item.name}, "
                "so recipes that use it cannot be checked.",
                hint="Spell out its arguments as keywords.",
            )
        annotation = hints.get(item.name, item.annotation)
        kind, container = find_component_kind(annotation)
        arguments.append(
            Parameter(
                name=item.name,
                annotation=annotation,
                default=item.default,
                required=item.default is EMPTY,
                kind_of_component=kind,
                container=container,
                doc=bullets.get(item.name, ""),
            )
        )
    return arguments


def find_component_kind(annotation: Any) -> tuple[str | None, str]:
    """The kind of component that an annotation is or contains, as (kind, container); (None, "") without one."""
    if isinstance(annotation, str):
        kinds = [kind for kind in map(get_catalog().kinds.find_by_class_name, re.findall(r"\w+", annotation)) if kind]
        container = next((name for name in ("dict", "list", "tuple") if f"{name}[" in annotation.lower()), "")
        return (kinds[0], container.replace("tuple", "list")) if kinds else (None, "")
    if isinstance(annotation, type) and not typing.get_args(annotation):
        return get_catalog().kinds.find_by_class(annotation), ""
    origin = typing.get_origin(annotation)
    if origin is typing.Literal:
        return None, ""
    for argument in typing.get_args(annotation):
        kind, container = find_component_kind(argument)
        if kind:
            outer = "dict" if _is_named(origin, _MAPPINGS) else "list" if _is_named(origin, _SEQUENCES) else ""
            return kind, outer or container
    return None, ""


def check_plain(value: Any, parameter: Parameter, where: str) -> list[Problem]:
    """Why a component cannot be the value of an argument of no known kind; nothing where no component is given.

    Without this the constructor would get the plain dict. The annotation is the class of a kind whose plugin is
    switched off or broken, or that its plugin does not declare.
    """
    classes = [] if parameter.kind_of_component else _list_plain_classes(parameter.annotation)
    names_component = any(
        isinstance(item, Mapping) and isinstance(item.get("type"), str) and "." in item["type"]
        for item in _list_items(value)
    )
    if not classes or not names_component:
        return []
    names = " | ".join(describe(cls) for cls in classes)
    packages = {getattr(cls, "__module__", "").partition(".")[0] for cls in classes}
    owners = [p for p in get_catalog().plugins if p.error is not None and p.module_name.partition(".")[0] in packages]
    hint = " ".join(f"The plugin {owner.namespace!r} of {owner.owner}: {owner.reason}." for owner in owners)
    message = f"a component is given, and no usable plugin declares {names} as a kind of components."
    return [Problem(message, where, hint or "The hook toolbox_kinds of the plugin that has this class declares it.")]


def _list_plain_classes(annotation: Any) -> list[Any]:
    """The classes of an annotation that are none of Python's own; none where a plain dict may be meant."""
    if isinstance(annotation, str):
        words = re.findall(r"\w+", annotation)
        return [] if {"dict", "Mapping", "Any", "object"} & set(words) or not annotation else [annotation]
    if annotation in (Any, object, EMPTY, dict) or typing.get_origin(annotation) is typing.Literal:
        return []
    arguments = typing.get_args(annotation)
    if not arguments:
        is_own = isinstance(annotation, type) and annotation.__module__ not in ("builtins", "collections.abc")
        return [annotation] if is_own and not {dict, Mapping} & set(annotation.__mro__) else []
    if any(argument in (Any, object, dict) or typing.get_origin(argument) is dict for argument in arguments):
        return []
    return [cls for argument in arguments for cls in _list_plain_classes(argument)]


def _list_items(value: Any) -> list[Any]:
    if isinstance(value, Mapping) and "type" not in value:
        return list(value.values())
    return list(value) if isinstance(value, (list, tuple)) else [value]


def accepts(annotation: Any, cls: type) -> bool:
    """Whether `cls` (str, type(None) ...) is the annotation or one of its alternatives."""
    if isinstance(annotation, str):
        return ("None" if cls is type(None) else cls.__name__) in (word.strip() for word in annotation.split("|"))
    if annotation is cls or annotation is Any:
        return True
    origin = typing.get_origin(annotation)
    if origin is typing.Literal:
        return any(isinstance(value, cls) for value in typing.get_args(annotation))
    if origin in (typing.Union, types.UnionType, typing.Annotated):
        return any(accepts(argument, cls) for argument in typing.get_args(annotation))
    return False


def describe(annotation: Any) -> str:
    """An annotation as one would write it: `int`, `'cls' | 'mean'`, `list[Loss] | None`."""
    if annotation is EMPTY:
        return "any"
    if isinstance(annotation, str):
        return annotation
    if annotation is type(None) or annotation is None:
        return "None"
    origin, arguments = typing.get_origin(annotation), typing.get_args(annotation)
    if origin is typing.Literal:
        return " | ".join(map(repr, arguments))
    if origin in (typing.Union, types.UnionType):
        return " | ".join(map(describe, arguments))
    if origin is not None and arguments:
        return f"{describe(origin)}[{', '.join('...' if a is Ellipsis else describe(a) for a in arguments)}]"
    return getattr(annotation, "__name__", None) or str(annotation).replace("typing.", "")


_SEQUENCES = ("list", "tuple", "Sequence", "Iterable", "set")
_MAPPINGS = ("dict", "Mapping", "MutableMapping")


def _is_named(origin: Any, names: tuple[str, ...]) -> bool:
    return getattr(origin, "__name__", "") in names


def _resolve_hints(function: Any) -> dict[str, Any]:
    """Resolved annotations; one that cannot be resolved stays text and does not spoil the others."""
    function = inspect.unwrap(function)
    try:
        return typing.get_type_hints(function)
    except Exception:  # `check_plugin` names each one that stays text
        hints: dict[str, Any] = {}
        for name, annotation in getattr(function, "__annotations__", {}).items():
            holder = types.SimpleNamespace(__annotations__={name: annotation})
            try:
                hints |= typing.get_type_hints(holder, globalns=function.__globals__)
            except Exception:
                hints[name] = annotation
        return hints


def _read_bullets(document: str) -> dict[str, str]:
    """{name: text} of "- `name`: text", "- `a`, `b`: text" or "...; `b`: text", continued on deeper-indented lines."""
    bullets: dict[str, str] = {}
    names: list[str] = []
    for line in inspect.cleandoc(document).splitlines():
        if match := re.match(r"\s*[-*] ((?:`\w+`(?:, | and )?)+): (.*)", line):
            names = re.findall(r"`(\w+)`", match[1])
            bullets |= dict.fromkeys(names, match[2].strip())
        elif names and line.startswith("  ") and line.strip():
            bullets |= {name: f"{bullets[name]} {line.strip()}" for name in names}
        else:
            names = []
    for name, text in list(bullets.items()):
        first, *rest = re.split(r"; `(\w+)`: ", text)
        bullets[name] = first
        bullets |= {other: more for other, more in zip(rest[::2], rest[1::2], strict=True) if name != other}
    return bullets
