"""`the override a.b=c`: parse, give the value the type that the key wants, and set it."""

from __future__ import annotations

import ast
import copy
from collections.abc import Iterable, Mapping
from typing import Any

from toolbox.config.mmengine_config import ConfigDict
from toolbox.config.places import Places
from toolbox.config.references import look_up, target
from toolbox.config.schema import TOP_LEVEL
from toolbox.config.types import wants_string
from toolbox.errors import ToolboxError
from toolbox.registry import get_catalog
from toolbox.registry.signature import read_parameters

_WORDS = {"true": True, "false": False, "none": None, "null": None}


def apply_overrides(
    config: dict[str, Any], overrides: Mapping[str, Any] | Iterable[str], places: Places | None
) -> list[str]:
    """Set overrides in place; returns the key paths. Unknown keys are left to validation."""
    pairs = list(overrides.items()) if isinstance(overrides, Mapping) else [_split(text) for text in overrides]
    for path, _ in pairs:
        if path.startswith("_"):
            users = places.users(path.split(".")[0]) if places else []
            raise ToolboxError(
                f"'{path}' is a helper of the recipe, not a key.",
                where="overrides",
                hint=f"Set the keys that use it: {', '.join(users)}." if users else "No key uses it.",
            )
    # what lies below a reference is set last: by then the key that it refers to has its value
    for path, value in sorted(pairs, key=lambda pair: _leads_through_reference(config, pair[0])):
        _set(config, path, value)
    return [path for path, _ in pairs]


def _leads_through_reference(config: dict[str, Any], path: str) -> bool:
    node: Any = config
    for name in _split_path(path):
        if target(node) is not None:
            return True
        if isinstance(node, dict):
            node = node.get(name)
        elif isinstance(node, list) and name.isdecimal() and int(name) < len(node):
            node = node[int(name)]
        else:
            return False
    return False


def _copy_referenced(config: dict[str, Any], node: Any, name: Any) -> None:
    """Where the child `name` of a node refers to another key, put a copy of that one's value in its place."""
    visited: tuple[str, ...] = ()
    while (path := target(node[name])) is not None:
        node[name] = copy.deepcopy(look_up(config, path, "overrides", visited))
        visited = (*visited, path)


def _split(text: str) -> tuple[str, str]:
    path, equals, value = text.partition("=")
    if not equals or not path:
        raise ToolboxError(f"'{text}' is no override.", where="overrides", hint="Write key.path=value.")
    return path, value


def _set(config: dict[str, Any], path: str, value: Any) -> None:
    names = _split_path(path)
    node: Any = config
    for position, name in enumerate(names[:-1]):
        parent = ".".join(names[: position + 1])
        if isinstance(node, list):
            index = _read_index(node, name, parent)
            _copy_referenced(config, node, index)
            node = node[index]
        elif isinstance(node, dict):
            if node.get(name) is None:
                node[name] = ConfigDict()
            _copy_referenced(config, node, name)
            node = node[name]
        else:
            raise ToolboxError(f"'{parent}' has no keys: it lies below a plain value.", where=f"overrides {path}")
    name = names[-1]
    if isinstance(node, list):
        index = _read_index(node, name, path)
        node[index] = _convert(value, node[index], None)
    elif isinstance(node, dict):
        node[name] = _convert(value, node.get(name), _find_annotation(node, names))
    else:
        raise ToolboxError("The key lies below a plain value, which has no keys.", where=f"overrides {path}")


def _split_path(path: str) -> list[str]:
    """The keys of a path. In an open dict, as `optim_wrapper.parts`, all but the last name are one key with dots."""
    names, keys = path.split("."), TOP_LEVEL
    for position, name in enumerate(names):
        key = keys.get(name)
        if key is None:
            break
        if key.any_key is not None and len(names) > position + 2:
            return [*names[: position + 1], ".".join(names[position + 1 : -1]), names[-1]]
        keys = key.keys or {}
    return names


def _read_index(node: list, name: str, path: str) -> int:
    if not name.isdigit() or int(name) >= len(node):
        hint = f"Write an index from 0 to {len(node) - 1} in its place." if node else "The list is empty."
        raise ToolboxError(f"'{path}' names no item of a list of {len(node)}.", where="overrides", hint=hint)
    return int(name)


def _find_annotation(node: dict[str, Any], names: list[str]) -> Any:
    """The declared type of a key: a constructor's, or the schema's."""
    if isinstance(node.get("type"), str):
        try:
            parameters = [p for p in read_parameters(get_catalog().resolve(node["type"])) if p.name == names[-1]]
        except ToolboxError:
            return None  # validation reports the name
        return parameters[0].annotation if parameters else None
    keys = TOP_LEVEL
    for name in names[:-1]:
        keys = (keys[name].keys or {}) if name in keys else {}
    return keys[names[-1]].annotation if names[-1] in keys else None


def _convert(value: Any, present: Any, annotation: Any) -> Any:
    if not isinstance(value, str):
        return value
    if value.lower() in ("none", "null") and not (isinstance(present, str) and annotation is str):
        return None
    if (isinstance(present, str) and target(present) is None) or wants_string(annotation):
        parsed = _parse_literal(value) if value.startswith(("dict(", "{")) else None
        return parsed if isinstance(parsed, dict) and "type" in parsed else value  # a component where a name may stand
    parsed = _parse_literal(value)
    if isinstance(present, float) and isinstance(parsed, int) and not isinstance(parsed, bool):
        return float(parsed)
    return parsed


def _parse_literal(text: str) -> Any:
    """A Python literal, `dict(a=1)` included; bare words are strings, also in lists."""
    if text.lower() in _WORDS:
        return _WORDS[text.lower()]
    try:
        return _evaluate(ast.parse(text.strip(), mode="eval").body)
    except (SyntaxError, ValueError):
        return text


def _evaluate(node: ast.expr) -> Any:
    if isinstance(node, ast.Name):
        return _WORDS.get(node.id.lower(), node.id)
    if isinstance(node, ast.List | ast.Tuple):
        return [_evaluate(item) for item in node.elts]
    if isinstance(node, ast.Dict):
        keys = [key for key in node.keys if key is not None]
        if len(keys) < len(node.keys):
            raise ValueError("a literal unpacks no other dict")
        return ConfigDict({_evaluate(key): _evaluate(value) for key, value in zip(keys, node.values, strict=True)})
    if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == "dict" and not node.args:
        return ConfigDict({keyword.arg: _evaluate(keyword.value) for keyword in node.keywords})
    return ast.literal_eval(node)
