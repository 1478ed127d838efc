"""What stored features are of: everything that, changed, gives other numbers. Its digest is the store's key.

Not in it: the device, the number of processes and the versions of libraries, which change features within rounding, or
are found when some items are computed again (`toolbox.engine.feature_extraction.verification`).
"""

from __future__ import annotations

import hashlib
import inspect
import json
import os
import pickle
import re
from collections.abc import Mapping, Sequence
from enum import Enum
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from toolbox.base import Augment, Dataset, PooledBackbone, Preprocess

FORMAT = 1
"""Of the numbers themselves: raised when the same key would give others."""

_NOT_NUMBERS = {
    "training",
    "from_recipe",
    "tune",
    "adapter",
    "gradient_checkpointing",
    "weights_id",
    "quantize",
    "quantized",
    "plain",
}


def describe_tower(
    tower: PooledBackbone, preprocess: Preprocess, *, input: str, dtype: str, precision: str
) -> dict[str, Any]:
    """What a tower makes of any data, readable and plain enough for JSON.

    - `input`: the name under which the model reads them; it chooses the field of a sample.
    - `dtype`: of the stored numbers; `precision`: "fp32", "bf16" or "fp16", of the forward pass.

    Raises ValueError for a conversion that cannot be described.
    """
    quantize = tower.backbone.quantize
    return {
        "format": FORMAT,
        "input": input,
        "field": tower.backbone.modality,
        "weights": digest_weights(tower),
        "structure": _describe_structure(tower),
        "preprocess": plain(preprocess),
        "pool": plain(tower.pool),
        "quantize": None if quantize is None else quantize.describe(),
        "precision": precision,
        "dtype": dtype,
    }


def describe_data(
    dataset: Dataset,
    arguments: Mapping[str, Any],
    augment: Augment | None = None,
    *,
    views: int = 1,
    seed: int = 0,
    stream: int = 0,
) -> dict[str, Any]:
    """Which items a tower sees, and which views of them.

    - `arguments`: the dataset's component and constructor arguments, as in a recipe.
    - `augment`: of the `views` random views, with the `seed` and the `stream` of its randomness; None for none.
    """
    random = {"views": views, "seed": seed, "stream": stream, "augment": plain(augment)} if augment else None
    return {"dataset": describe_dataset(dataset, arguments), "augment": random}


def digest(of: Any) -> str:
    """SHA-256 of an identity, or of any plain value."""
    return hashlib.sha256(json.dumps(of, sort_keys=True, ensure_ascii=False).encode(errors="surrogatepass")).hexdigest()


def describe_dataset(dataset: Dataset, arguments: Mapping[str, Any]) -> dict[str, Any]:
    """A dataset's class, arguments (defaults filled in), length, labels, classes, and its files' sizes and dates."""
    cls = type(dataset)
    defaults = {
        name: parameter.default
        for name, parameter in inspect.signature(cls).parameters.items()
        if parameter.default is not inspect.Parameter.empty
    }
    settings = {name: value for name, value in arguments.items() if name != "type"}
    labels = None if dataset.labels is None else [plain(label) for label in dataset.labels]
    return {
        "class": _name_class(cls),
        "arguments": plain({**defaults, **settings}),
        "items": len(dataset),
        "labels": None if labels is None else digest(labels),
        "classes": None if dataset.classes is None else digest([str(name) for name in dataset.classes]),
        "files": _digest_files(dataset.sources()),
        "fingerprint": dataset.fingerprint(),
    }


def digest_item_files(dataset: Dataset) -> list[str] | None:
    """Of each item its file's digest: path, size and time of the last change. None where items are not files."""
    files = dataset.item_files()
    return None if files is None else [_digest_file(os.fspath(path)) for path in files]


def digest_weights(tower: PooledBackbone) -> str:
    """SHA-256 over all tensors of a tower, names, types and shapes included, whatever they are packed in."""
    digest = hashlib.sha256()
    for name, module in (("backbone", tower.backbone), ("pool", tower.pool)):
        for key, tensor in sorted(_collect_tensors(module).items()):
            digest.update(f"{name}.{key}".encode())
            _add_tensor(digest, tensor)
    return digest.hexdigest()


def plain(value: Any, inside: tuple[int, ...] = ()) -> Any:
    """A value as JSON has it: plain ones as they are, objects as their class and attributes.

    Of what a library keeps to itself, such as a tokenizer's tables, the digest of its pickle.

    - `inside`: the objects that it is part of.

    Raises ValueError for what cannot be pickled.
    """
    if value is None or isinstance(value, bool | int | float | str):
        return value
    if isinstance(value, Enum):
        return value.name
    if isinstance(value, np.generic):
        return value.item()
    if isinstance(value, Tensor | np.ndarray):
        return {"numbers": hashlib.sha256(_get_bytes(torch.as_tensor(value))).hexdigest()}
    if isinstance(value, os.PathLike):
        return os.fspath(value)
    if id(value) in inside:
        return "..."
    inside = (*inside, id(value))
    if isinstance(value, Mapping):
        return {str(key): plain(item, inside) for key, item in value.items()}
    if isinstance(value, set | frozenset):
        return sorted((plain(item, inside) for item in value), key=repr)
    if isinstance(value, list | tuple | range):
        return [plain(item, inside) for item in value]
    if isinstance(value, nn.Module):  # the weights and the structure identify its tensors and parts
        public = {name: item for name, item in vars(value).items() if name[0] != "_" and name not in _NOT_NUMBERS}
        return {"class": _name_class(type(value))} | {
            name: plain(item, inside) for name, item in sorted(public.items())
        }
    if _is_open(value):
        return {"class": _name_class(type(value))} | {
            name: plain(item, inside) for name, item in sorted(vars(value).items())
        }
    try:
        return {"class": _name_class(type(value)), "pickle": hashlib.sha256(pickle.dumps(value)).hexdigest()}
    except Exception as error:
        raise ValueError(
            f"what a {_name_class(type(value))} does cannot be told: it cannot be pickled ({error})"
        ) from error


def _is_open(value: Any) -> bool:
    """Whether all that an object is stands in its attributes."""
    cls = type(value)
    ways = ("__reduce_ex__", "__reduce__", "__getstate__")
    usual = all(getattr(cls, name, None) is getattr(object, name) for name in ways)
    return usual and hasattr(value, "__dict__") and not inspect.isroutine(value) and not isinstance(value, type)


def _describe_structure(tower: PooledBackbone) -> dict[str, Any]:
    text = re.sub(r" at 0x[0-9a-f]+", "", f"{tower.backbone!r}\n{tower.pool!r}")
    return plain(tower.backbone) | {"modules": hashlib.sha256(text.encode()).hexdigest()}


def _collect_tensors(module: nn.Module) -> dict[str, Any]:
    """What `state_dict` holds, and buffers that it leaves out: tables of positions, for example."""
    return dict(module.named_buffers(remove_duplicate=False)) | module.state_dict()


def _add_tensor(digest: Any, value: Any) -> None:
    if not isinstance(value, Tensor):  # extra state of a module
        digest.update(pickle.dumps(value))
        return
    digest.update(f"{type(value).__name__}{value.dtype}{tuple(value.shape)}".encode())
    if hasattr(value, "__tensor_flatten__"):  # a packed tensor of a library: its parts
        names, rest = value.__tensor_flatten__()
        digest.update(repr(rest).encode())
        for name in names:
            _add_tensor(digest, getattr(value, name))
    else:
        digest.update(_get_bytes(value))


def _get_bytes(tensor: Tensor) -> Any:
    return tensor.detach().cpu().contiguous().view(-1).view(torch.uint8).numpy()


def _digest_files(paths: Sequence[str | os.PathLike[str]] | None) -> str | None:
    """Of every file once, in order: its path, size and time of the last change."""
    if paths is None:
        return None
    digest = hashlib.sha256()
    for path in dict.fromkeys(os.fspath(path) for path in paths):
        digest.update(_digest_file(path).encode())
    return digest.hexdigest()


def _digest_file(path: str) -> str:
    try:
        status = os.stat(path)
        state = f"{path}\0{status.st_size}\0{status.st_mtime_ns}"
    except OSError:
        state = f"{path}\0absent"
    return hashlib.blake2b(state.encode(errors="surrogateescape"), digest_size=16).hexdigest()


def _name_class(cls: type) -> str:
    return f"{cls.__module__}.{cls.__qualname__}"
