"""Whether a plain value fits an annotation."""

from __future__ import annotations

import types
from collections.abc import Mapping, Sequence
from typing import Any, Literal, Union, get_args, get_origin

_PLAIN: dict[Any, type | types.UnionType] = {bool: bool, int: int, float: int | float, str: str}
"""What a plain type takes; a truth value is no number."""


def fits(value: Any, annotation: Any) -> bool:
    """Whether `value` is of the annotated type. What the annotation does not say is accepted."""
    if annotation is None or annotation is Any or isinstance(annotation, str):
        return True
    origin, args = get_origin(annotation), get_args(annotation)
    if origin in (Union, types.UnionType):
        return any(fits(value, arg) for arg in args)
    if annotation is type(None):
        return value is None
    if origin is Literal:
        return value in args and any(type(value) is type(arg) for arg in args)
    if isinstance(annotation, type) and annotation in _PLAIN:
        return isinstance(value, _PLAIN[annotation]) and isinstance(value, bool) == (annotation is bool)
    target = origin or annotation
    if target in (list, tuple, Sequence):
        if not isinstance(value, list | tuple):
            return False
        if target is tuple and args and args[-1] is not Ellipsis:
            return len(value) == len(args) and all(map(fits, value, args))
        return all(fits(item, args[0]) for item in value) if args else True
    if target in (dict, Mapping):
        return isinstance(value, dict) and (not args or all(fits(item, args[1]) for item in value.values()))
    return True


def wants_string(annotation: Any) -> bool:
    """Whether a plain text is to be kept as it is: the type is str, str | None, or a choice of strings."""
    if annotation is str:
        return True
    origin, args = get_origin(annotation), get_args(annotation)
    if origin is Literal:
        return all(isinstance(arg, str) for arg in args)
    if origin in (Union, types.UnionType):
        others = [arg for arg in args if arg is not type(None)]
        return bool(others) and all(wants_string(arg) for arg in others)
    return False
