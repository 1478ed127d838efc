"""The projection of a tower of CLIP into the space that it shares with the other tower."""

from __future__ import annotations

from pathlib import Path

import torch
from safetensors.torch import save_file
from torch import nn

from toolbox_encoders.hf_source import HFSource, read_projection


def make_projection(source: HFSource, dim: int) -> nn.Linear | None:
    """The projection of tokens of width `dim`; None for SigLIP, whose towers end in the shared space by themselves.

    Raises ValueError for a model that is no tower of such a pair.
    """
    if source.config.model_type.startswith("siglip"):
        return None
    if source.shared is None:
        raise ValueError(
            f"{source.name!r} ({source.config.model_type}) is no tower of a pair such as CLIP, and has no projection "
            "into a space shared with another: set projection=False."
        )
    return nn.Linear(dim, source.shared, bias=False)


def load_projection(projection: nn.Linear | None, source: HFSource, key: str) -> None:
    """Fill in the values of a projection, if there is one. Raises OSError or ValueError where they cannot be had."""
    if projection is None:
        return
    weight = read_projection(source, key)
    if weight.shape != projection.weight.shape:
        raise ValueError(
            f"The weights of {source.name!r} do not fit its config.json: {key} has shape {tuple(weight.shape)}, not "
            f"{tuple(projection.weight.shape)}. Download it again."
        )
    with torch.no_grad():
        projection.weight.copy_(weight)


def save_projection(projection: nn.Linear, folder: Path) -> str:
    """Write a projection into a folder; returns the line that reads it as `projection`."""
    folder.mkdir(parents=True, exist_ok=True)
    tensors = {"projection": projection.weight.detach().cpu().contiguous()}
    save_file(tensors, folder / "projection.safetensors", metadata={"format": "pt"})
    return 'projection = load_file(f"{folder}/projection.safetensors")["projection"]'
