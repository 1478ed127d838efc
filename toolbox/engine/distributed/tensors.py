"""Tensors that are spread over processes (DTensor), and the same code for tensors that are not."""

from __future__ import annotations

import inspect
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
import torch.distributed.checkpoint as dcp
from torch import Tensor
from torch.distributed.checkpoint.metadata import TensorStorageMetadata
from torch.distributed.tensor import DTensor, distribute_tensor

_EACH_ITS_OWN = next(  # "every process writes its part", as torch calls it by version
    name
    for name in ("save_distributed", "save_sharded")
    if name in inspect.signature(dcp.HuggingFaceStorageWriter.__init__).parameters
)


def whole(tensor: Tensor) -> Tensor:
    """All of a tensor, in this process. Every process must call it, in the same order."""
    return tensor.full_tensor() if isinstance(tensor, DTensor) else tensor


def local(tensor: Tensor) -> Tensor:
    """This process's part of a tensor; shares its storage."""
    return tensor.to_local() if isinstance(tensor, DTensor) else tensor


def placed_like(tensor: Tensor, other: Tensor) -> Tensor:
    """A whole tensor, cut as `other` is; unchanged where that is whole too, or where it is cut already."""
    if not isinstance(other, DTensor) or isinstance(tensor, DTensor):
        return tensor
    # every process has the same values: none has to send them
    return distribute_tensor(tensor.to(other.device), other.device_mesh, other.placements, src_data_rank=None)


def rejoined(part: Tensor, other: Tensor) -> Tensor:
    """The tensor of which `part` is this process's part, cut as `other` is."""
    if not isinstance(other, DTensor):
        return part
    return DTensor.from_local(
        part, other.device_mesh, other.placements, run_check=False, shape=other.shape, stride=other.stride()
    )


def are_sharded(tensors: Mapping[str, Tensor]) -> bool:
    """Whether any of these tensors is spread over processes."""
    return any(isinstance(tensor, DTensor) for tensor in tensors.values())


def save_shards(tensors: Mapping[str, Tensor], folder: Path) -> None:
    """Write each process's parts to safetensors files in `folder`. Every process must call it."""
    options: dict[str, Any] = {_EACH_ITS_OWN: True}
    writer = dcp.HuggingFaceStorageWriter(str(folder), **options)
    try:
        dcp.save(dict(tensors), storage_writer=writer)
    except dcp.CheckpointException as error:
        failures = list(error.failures.values())
        raise failures[0][0] if failures else OSError("the shards cannot be written") from error


def load_shards(folder: Path, into: Mapping[str, Tensor] | None = None) -> dict[str, Tensor]:
    """The tensors of `save_shards`.

    - `into`: sharded tensors to read into, by name; this process then reads its parts alone, and all processes must
      call it. What is not named comes whole.
    """
    into = into or {}
    state = {
        name: into[name] if name in into else torch.empty(shape, dtype=kind)
        for name, (shape, kind) in _read_shapes(folder)
    }
    reader = dcp.HuggingFaceStorageReader(str(folder))
    with warnings.catch_warnings():  # that one process reads alone is meant
        warnings.filterwarnings("ignore", message="torch.distributed is disabled")
        dcp.load(state, storage_reader=reader, no_dist=not into)
    return state


def shard_shapes(folder: Path) -> dict[str, torch.Size]:
    """The shapes of whole tensors, from the headers of their shards."""
    return {name: shape for name, (shape, _) in _read_shapes(folder)}


def _read_shapes(folder: Path) -> list[tuple[str, tuple[torch.Size, torch.dtype]]]:
    metadata = dcp.HuggingFaceStorageReader(str(folder)).read_metadata().state_dict_metadata
    tensors = {name: entry for name, entry in metadata.items() if isinstance(entry, TensorStorageMetadata)}
    return [(name, (entry.size, entry.properties.dtype)) for name, entry in tensors.items()]
