"""Tensors within nested structures: found wherever they stand, the structure itself kept."""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping, MutableMapping
from dataclasses import fields, is_dataclass
from typing import Any

from torch import Tensor
from torch.nn.utils.rnn import PackedSequence


def map_tensors(value: Any, function: Callable[[Any], Any]) -> Any:
    """A structure with `function` applied to each of its tensors, everything else kept, types included.

    - `value`: tensors in dicts and other mappings (a tokenizer's, say), lists, tuples, named tuples and dataclasses,
      nested in any way. What holds no tensor is returned as it is, and so is an object of any other type.
    - `function`: also called with a torch `PackedSequence`, which has a tensor's methods.
    """
    if isinstance(value, Tensor | PackedSequence):
        return function(value)
    if isinstance(value, Mapping):
        parts = {key: map_tensors(item, function) for key, item in value.items()}
        if all(parts[key] is item for key, item in value.items()):
            return value
        if type(value) is dict or not isinstance(value, MutableMapping):
            return parts
        mapped = copy.copy(value)  # the rest that it may know: a default, encodings
        for key, item in parts.items():
            mapped[key] = item
        return mapped
    if isinstance(value, list | tuple):
        items = [map_tensors(item, function) for item in value]
        if all(item is old for item, old in zip(items, value, strict=True)):
            return value
        if isinstance(value, list):
            if type(value) is list:
                return items
            changed_list = copy.copy(value)
            changed_list[:] = items
            return changed_list
        return type(value)(*items) if hasattr(value, "_fields") else type(value)(items)
    if is_dataclass(value) and not isinstance(value, type):
        parts = {field.name: getattr(value, field.name) for field in fields(value)}
        changed = {name: new for name, old in parts.items() if (new := map_tensors(old, function)) is not old}
        made = copy.copy(value) if changed else value
        for name, item in changed.items():
            object.__setattr__(made, name, item)  # also of a frozen one
        return made
    return value
