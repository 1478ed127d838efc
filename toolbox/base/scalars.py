"""Single values from plugins as plain Python: ids, labels and numbers, whatever library made them."""

from __future__ import annotations

import math
import os
from collections.abc import Mapping
from numbers import Integral, Real
from typing import Any

import numpy as np
from torch import Tensor


def as_id(value: Any) -> int | str:
    """An item's id as an int or a str.

    Whole numbers of NumPy and torch become ints; bytes in UTF-8 and paths become strings. Raises ValueError for
    anything else: fractions and truth values (1, 1.0 and True would be one id), None, and whole arrays.
    """
    if type(value) is int or type(value) is str:
        return value
    value = _unwrap(value)
    if isinstance(value, os.PathLike):
        value = os.fspath(value)
    if isinstance(value, bytes):
        try:
            return value.decode()
        except UnicodeDecodeError as error:
            raise ValueError(f"an id is an int or a str, and {value!r} is no text in UTF-8") from error
    if isinstance(value, str):
        return str(value)
    if isinstance(value, Integral) and not isinstance(value, bool):
        return int(value)
    raise ValueError(f"an id is an int or a str, not {_describe(value)}")


def as_label(value: Any) -> int | None:
    """An item's class as an int; None, for an item without one, stays None.

    Whole numbers of NumPy and torch become ints. Raises ValueError for fractions, truth values, text and arrays.
    """
    if type(value) is int or value is None:
        return value
    value = _unwrap(value)
    if isinstance(value, Integral) and not isinstance(value, bool):
        return int(value)
    raise ValueError(f"a label is an int, the number of a class, not {_describe(value)}")


def as_number(value: Any) -> int | float:
    """A number to log as an int or a float, NaN and infinity included.

    Numbers of NumPy and torch, arrays and tensors of one number included, become plain ones; True and False become 1
    and 0. Raises ValueError for anything else.
    """
    if type(value) is float or type(value) is int:
        return value
    value = _unwrap(value)
    if isinstance(value, Integral):
        return int(value)
    if isinstance(value, Real) or type(value).__name__ == "Decimal":
        return float(value)
    raise ValueError(f"a number is needed, not {_describe(value)}")


def as_numbers(values: Mapping[Any, Any]) -> dict[str, int | float]:
    """{name: number} with plain names and numbers. Raises ValueError that names the first which is none."""
    numbers: dict[str, int | float] = {}
    for name, value in values.items():
        if not isinstance(name, str):
            raise ValueError(f"a number under the name {name!r}, which is a {type(name).__name__} and no text")
        try:
            numbers[str(name)] = as_number(value)
        except ValueError as error:
            raise ValueError(f"'{name}', where {error}") from error
    return numbers


def as_plain(value: Any) -> Any:
    """A value that JSON can hold: dicts, lists, text, numbers and None.

    Numbers, arrays and tensors become plain ones, tuples become lists, paths become text, and numbers that are not
    finite become None, since JSON has none. Raises ValueError, naming the place in it, for anything else.
    """
    if value is None or isinstance(value, bool | str):
        return value if value is None or isinstance(value, bool) else str(value)
    if isinstance(value, dict):
        return {_convert_key(key): _convert_at(key, item) for key, item in value.items()}
    if isinstance(value, Tensor | np.ndarray) and value.ndim:
        value = value.tolist()
    if isinstance(value, list | tuple):
        return [_convert_at(place, item) for place, item in enumerate(value)]
    if isinstance(value, os.PathLike):
        return os.fspath(value)
    if isinstance(value, np.bool_):
        return bool(value)
    number = as_number(value)
    return number if math.isfinite(number) else None


def _convert_key(key: Any) -> str:
    if isinstance(key, str):
        return str(key)
    if isinstance(key, Integral) and not isinstance(key, bool):
        return str(int(key))
    raise ValueError(f"a key is text, not {_describe(key)}")


def _convert_at(place: Any, value: Any) -> Any:
    try:
        return as_plain(value)
    except ValueError as error:
        raise ValueError(f"at '{place}': {error}") from error


def _unwrap(value: Any) -> Any:
    """The Python value of a scalar of NumPy or torch, or of an array of one number; others as they are."""
    if isinstance(value, np.generic) or (isinstance(value, np.ndarray | Tensor) and math.prod(value.shape) == 1):
        return value.item()
    return value


def _describe(value: Any) -> str:
    if isinstance(value, np.ndarray | Tensor):
        return f"{type(value).__name__} of shape {tuple(value.shape)}"
    text = repr(value)
    return f"{text[:60]}{'...' if len(text) > 60 else ''} ({type(value).__name__})"
