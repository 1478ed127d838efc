"""What a run's config.py says, read as data: nothing in it is run, and no plugin needs to be there."""

from __future__ import annotations

import ast
from typing import Any

_NAMES = {"inf": float("inf"), "nan": float("nan")}


def read_recipe(text: str) -> dict[str, Any]:
    """The recipe that a run resolved and wrote. Raises ValueError where the text is anything but such data."""
    try:
        body = ast.parse(text).body
    except (SyntaxError, RecursionError) as error:
        raise ValueError(f"it is no valid Python: {error}") from error
    recipe: dict[str, Any] = {}
    for line in body:
        if isinstance(line, ast.Assign) and len(line.targets) == 1 and isinstance(line.targets[0], ast.Name):
            recipe[line.targets[0].id] = _read_value(line.value)
        elif not (isinstance(line, ast.Expr) and isinstance(line.value, ast.Constant)):  # a docstring says nothing
            raise ValueError(f"line {line.lineno} is no plain assignment")
    return recipe


def _read_value(node: ast.expr) -> Any:
    match node:
        case ast.Constant():
            return node.value
        case ast.Name(id=name) if name in _NAMES:
            return _NAMES[name]
        case ast.UnaryOp(op=ast.USub(), operand=operand) if isinstance(number := _read_value(operand), int | float):
            return -number
        case ast.List(elts=items) | ast.Tuple(elts=items):
            return [_read_value(item) for item in items]
        case ast.Dict(keys=keys, values=values) if None not in keys:
            return {
                _read_value(key): _read_value(value) for key, value in zip(keys, values, strict=True) if key is not None
            }
        case ast.Call(func=ast.Name(id="dict"), args=[], keywords=pairs) if all(pair.arg for pair in pairs):
            return {str(pair.arg): _read_value(pair.value) for pair in pairs}
    raise ValueError(f"line {node.lineno} holds more than plain data")
