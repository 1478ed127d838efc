"""Nested training state as JSON plus named tensors: nothing that could run code when it is read."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from torch import Tensor
from torch.distributed.tensor import DTensor

_TENSOR = "$tensor"
_TUPLE = "$tuple"
_FLOAT = "$float"  # NaN and infinities, for which JSON has no word


def split(tree: Any, path: str = "") -> tuple[Any, dict[str, Tensor]]:
    """A tree of dicts, lists, tuples, numbers, strings and tensors -> (JSON value, tensors by path).

    Tensors are copied to the CPU, unless they are spread over processes.

    Raises TypeError, naming the place, for anything else.
    """
    if isinstance(tree, DTensor):
        return {_TENSOR: path}, {path: tree.detach()}
    if isinstance(tree, Tensor):
        # a copy of its own storage, since safetensors refuses shared memory
        return {_TENSOR: path}, {path: tree.detach().cpu().contiguous().clone()}
    if isinstance(tree, dict):
        parts = {key: split(value, f"{path}/{key}" if path else str(key)) for key, value in tree.items()}
        if not all(isinstance(key, str) for key in parts):
            raise TypeError(f"the keys of '{path}' must be strings")
        return {key: value for key, (value, _) in parts.items()}, _merged(found for _, found in parts.values())
    if isinstance(tree, list | tuple):
        items = [split(value, f"{path}/{index}") for index, value in enumerate(tree)]
        values = [value for value, _ in items]
        tensors = _merged(found for _, found in items)
        return ({_TUPLE: values} if isinstance(tree, tuple) else values), tensors
    if isinstance(tree, np.generic):
        tree = tree.item()
    if isinstance(tree, float) and not math.isfinite(tree):
        return {_FLOAT: str(tree)}, {}
    if tree is None or isinstance(tree, bool | int | float | str):
        return tree, {}
    raise TypeError(f"'{path}' holds a {type(tree).__name__}, which a checkpoint cannot hold")


def join(value: Any, tensors: dict[str, Tensor]) -> Any:
    """The inverse of `split`."""
    if isinstance(value, dict):
        if set(value) == {_TENSOR}:
            return tensors[value[_TENSOR]]
        if set(value) == {_TUPLE}:
            return tuple(join(item, tensors) for item in value[_TUPLE])
        if set(value) == {_FLOAT}:
            return float(value[_FLOAT])
        return {key: join(item, tensors) for key, item in value.items()}
    if isinstance(value, list):
        return [join(item, tensors) for item in value]
    return value


def _merged(parts: Any) -> dict[str, Tensor]:
    merged: dict[str, Tensor] = {}
    for part in parts:
        merged |= part
    return merged
