"""What a run's config.py says, read as data: nothing in it is run, and no plugin needs to be there."""

from __future__ import annotations

import ast
from collections.abc import Callable, Mapping
from typing import Any

_NAMES = {"inf": float("inf"), "nan": float("nan")}
_NO_SETTINGS = ("work_dir", "resume")


def read_recipe(text: str) -> dict[str, Any]:
    """The recipe that a run resolved and wrote. Raises ValueError where the text is anything but such data."""
    try:
        body = ast.parse(text).body
    except (SyntaxError, RecursionError) as error:
        raise ValueError(f"it is no valid Python: {error}") from error
    recipe: dict[str, Any] = {}
    for line in body:
        if isinstance(line, ast.Assign) and len(line.targets) == 1 and isinstance(line.targets[0], ast.Name):
            recipe[line.targets[0].id] = _value(line.value)
        elif not (isinstance(line, ast.Expr) and isinstance(line.value, ast.Constant)):  # a docstring says nothing
            raise ValueError(f"line {line.lineno} is no plain assignment")
    return recipe


def _value(node: ast.expr) -> Any:
    match node:
        case ast.Constant():
            return node.value
        case ast.Name(id=name) if name in _NAMES:
            return _NAMES[name]
        case ast.UnaryOp(op=ast.USub(), operand=operand) if isinstance(number := _value(operand), int | float):
            return -number
        case ast.List(elts=items) | ast.Tuple(elts=items):
            return [_value(item) for item in items]
        case ast.Dict(keys=keys, values=values) if None not in keys:
            return {_value(key): _value(value) for key, value in zip(keys, values, strict=True) if key is not None}
        case ast.Call(func=ast.Name(id="dict"), args=[], keywords=pairs) if all(pair.arg for pair in pairs):
            return {str(pair.arg): _value(pair.value) for pair in pairs}
    raise ValueError(f"line {node.lineno} holds more than plain data")


def judged_split(recipe: Mapping[str, Any]) -> str:
    """The set that a run is judged on in the end: "test" where there is one, else "val"; empty for none."""
    for name in ("test", "val"):
        if recipe.get(f"{name}_dataloader") is not None and recipe.get(f"{name}_evaluator") is not None:
            return name
    return ""


def flat(recipe: Mapping[str, Any], path: str = "") -> dict[str, Any]:
    """{key path: value}, through dicts and lists of dicts; an empty dict is a value."""
    found: dict[str, Any] = {}
    for key, value in recipe.items():
        place = f"{path}.{key}" if path else str(key)
        if isinstance(value, list) and value and all(isinstance(item, dict) for item in value):
            value = dict(enumerate(value))
        if isinstance(value, Mapping) and value:
            found |= flat(value, place)
        else:
            found[place] = value
    return found


def differing(
    recipes: list[Mapping[str, Any] | None], *, text: Callable[[Any], str] = repr
) -> list[tuple[str, list[str]]]:
    """(key path, what each recipe sets it to) of the keys that are not the same in all.

    The text is empty where a recipe does not set the key, and "?" where a recipe is None: not known. The folder of a
    run is no setting.

    - `text`: how a value is written.
    """
    keys = [None if recipe is None else flat(recipe) for recipe in recipes]
    known = [found for found in keys if found is not None]
    names = dict.fromkeys(name for found in known for name in found if name not in _NO_SETTINGS)
    rows = []
    for name in names:
        texts = ["?" if found is None else text(found[name]) if name in found else "" for found in keys]
        if len({shown for shown, found in zip(texts, keys, strict=True) if found is not None}) > 1:
            rows.append((name, texts))
    return rows
