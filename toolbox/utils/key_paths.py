"""Key paths into recipes and other plain data: `train_cfg.max_steps`, `val_evaluator.0.ks`, `parts.model.head.lr`."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Any


def find_key(node: Any, names: list[str]) -> tuple[str | int, int] | None:
    """The first key of a path below a node, and how many of its names the key takes; None where there is no such key.

    - `node`: a dict, or a list, whose keys are indices; `names`: the path, split at its dots.

    A key may hold dots itself, as in `optim_wrapper.parts.model.head`: the longest one that is there counts.
    """
    if isinstance(node, list):
        return (int(names[0]), 1) if names[0].isdecimal() and int(names[0]) < len(node) else None
    if isinstance(node, Mapping):
        for count in range(len(names), 0, -1):
            if (key := ".".join(names[:count])) in node:
                return key, count
    return None


def has_key(data: Any, path: str) -> bool:
    """Whether there is a value at a key path."""
    return _find_value(data, path)[0]


def get_value(data: Any, path: str) -> Any:
    """The value at a key path; None where there is none."""
    return _find_value(data, path)[1]


def _find_value(node: Any, path: str) -> tuple[bool, Any]:
    names = path.split(".")
    while names:
        step = find_key(node, names)
        if step is None:
            return False, None
        key, count = step
        node, names = node[key], names[count:]
    return True, node


def set_value(data: dict[str, Any], path: str, value: Any) -> None:
    """Set a key path, in place; what is missing on the way, or None, becomes a dict."""
    *owners, name = path.split(".")
    for owner in owners:
        if data.get(owner) is None:
            data[owner] = {}
        data = data[owner]
    data[name] = value


def copy_plain(value: Any) -> Any:
    """A copy of mappings and lists, one within the other, as plain dicts and lists; what else they hold is the same."""
    if isinstance(value, Mapping):
        return {key: copy_plain(item) for key, item in value.items()}
    return [copy_plain(item) for item in value] if isinstance(value, list | tuple) else value


def is_within(path: str, parent: str) -> bool:
    """Whether a key path is `parent` or lies below it."""
    return path == parent or path.startswith(f"{parent}.")


def find_differences(before: Any, now: Any, *, ignored: Collection[str] = (), path: str = "") -> list[str]:
    """The key paths in which two plain values differ, sorted at each level; a missing key is as one of None.

    - `ignored`: key paths that are not compared; `path`: where the values lie, "" for the top.
    """
    if path in ignored:
        return []
    if isinstance(before, Mapping) and isinstance(now, Mapping):
        return [
            difference
            for key in sorted(before.keys() | now.keys())
            for difference in find_differences(
                before.get(key), now.get(key), ignored=ignored, path=f"{path}.{key}" if path else key
            )
        ]
    return [] if before == now else [path]


def flatten(data: Mapping[str, Any], path: str = "") -> dict[str, Any]:
    """{key path: value}, through dicts and lists of dicts; an empty dict is a value."""
    values: dict[str, Any] = {}
    for key, value in data.items():
        place = f"{path}.{key}" if path else str(key)
        if isinstance(value, list) and value and all(isinstance(item, dict) for item in value):
            value = dict(enumerate(value))
        if isinstance(value, Mapping) and value:
            values |= flatten(value, place)
        else:
            values[place] = value
    return values
