"""`'{train_dataloader.dataset.root}'`: a key whose value is that of another key, after inheritance and overrides.

`'{train_dataloader.dataset.root}/val.jsonl'` is a path below the folder that another key names.
"""

from __future__ import annotations

import difflib
import re
from typing import Any

from toolbox.config.schema import TOP_LEVEL
from toolbox.errors import ToolboxError
from toolbox.utils.key_paths import find_key

_FORM = re.compile(r"\{(\w+(?:\.[\w-]+)*)\}(/.+)?")


def target(value: Any, where: str = "") -> str | None:
    """The key path that a value refers to; None for a value that is no reference.

    A reference is a whole string in braces that begins with a top-level key, maybe with a path after it: other texts in
    braces are left alone. Raises ToolboxError where it begins with a misspelled one.
    """
    match = _FORM.fullmatch(value) if isinstance(value, str) else None
    if match is None:
        return None
    first, dot, _ = match[1].partition(".")
    if first in TOP_LEVEL:
        return match[1]
    near = difflib.get_close_matches(first, TOP_LEVEL, n=1, cutoff=0.7)
    if dot and near:
        raise ToolboxError(
            f"'{value}' refers to no key: there is no '{first}'.", where=where, hint=f"Did you mean '{near[0]}'?"
        )
    return None


def resolve(recipe: dict[str, Any]) -> dict[str, Any]:
    """A copy of a plain recipe in which every reference is replaced by the value that it refers to.

    Raises ToolboxError for a reference to a key that the recipe does not set, or that leads back to itself.
    """
    return _resolve(recipe, recipe, "", ())


def _resolve(value: Any, recipe: dict[str, Any], where: str, visited: tuple[str, ...]) -> Any:
    if isinstance(value, dict):
        below = f"{where}." if where else ""
        return {key: _resolve(item, recipe, f"{below}{key}", visited) for key, item in value.items()}
    if isinstance(value, list):
        return [_resolve(item, recipe, f"{where}.{index}", visited) for index, item in enumerate(value)]
    path = target(value, where)
    if path is None:
        return value
    found = _resolve(look_up(recipe, path, where, visited), recipe, where, (*visited, path))
    below = value.removeprefix(f"{{{path}}}")
    if below and not isinstance(found, str):
        message = f"'{value}' is a path below that of {path}, which is {found!r} and no text."
        raise ToolboxError(message, where=where, hint="Write the path in full.")
    return f"{found.rstrip('/')}{below}" if below else found


def look_up(recipe: dict[str, Any], path: str, where: str, visited: tuple[str, ...] = ()) -> Any:
    """The value of a key path, through references on the way to it.

    - `where`: the key whose value refers to it, for messages.
    - `visited`: the paths that are being looked up for that key.

    Raises ToolboxError when the recipe does not set the key, or when looking it up needs itself.
    """
    if path in visited:
        raise ToolboxError(f"'{{{path}}}' leads back to itself.", where=where, hint="Write the value in one place.")
    names = path.split(".")
    node: Any = recipe
    depth = 0
    while depth < len(names):
        if inner := target(node, where):
            node = look_up(recipe, inner, where, (*visited, path))
            continue
        step = find_key(node, names[depth:])
        if step is None:
            keys = list(node) if isinstance(node, dict) else list(range(len(node))) if isinstance(node, list) else []
            hint = f"Set below '{'.'.join(names[:depth])}': {', '.join(map(str, keys)) or 'none'}." if depth else ""
            raise ToolboxError(f"'{{{path}}}' refers to a key that the recipe does not set.", where=where, hint=hint)
        key, count = step
        node, depth = node[key], depth + count
    return node
