"""Pretrained weights into an encoder that stands already, and one clear message for every way that fails."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import torch
from torch import nn

from toolbox.utils import weight_files
from toolbox.utils.hf_logging import quiet_transformers
from toolbox_dinov3.convert import to_timm
from toolbox_dinov3.hub import snapshot
from toolbox_dinov3.ids import Family
from toolbox_dinov3.source import Source

if TYPE_CHECKING:
    from transformers import PreTrainedModel

_HINT = "Download the folder again, or correct its config.json."


def load(model: nn.Module, family: Family, source: Source, revision: str | None) -> None:
    """Replace the values of all parameters of `model` by those of `source`, in float32.

    Raises OSError when the weights cannot be had or read, ValueError when they do not fit the model.
    """
    folder = find(source, revision)
    if folder is None:
        return  # built from sizes: there are no weights to have
    if source.library == "transformers":
        _load_transformers(model, folder)
        return
    tensors = weight_files.read_weights(folder)
    if source.known is None and source.architecture is None:
        tensors = to_timm(family, tensors)
    # a net that was trained to classify leaves its classifier behind
    tensors = {
        key: tensor for key, tensor in tensors.items() if not key.startswith(("head.fc.", "head.weight", "head.b"))
    }
    weight_files.fill(model, tensors, folder, _HINT)


def find(source: Source, revision: str | None) -> Path | None:
    """The folder with the weights of `source`, downloaded if need be; None if it has none. Raises OSError."""
    folder = source.folder
    if source.known is not None:
        folder = snapshot(source.known, revision, timm=source.library == "timm")
    if folder is not None:
        weight_files.check_weight_files(folder)
    return folder


def _load_transformers(model: PreTrainedModel, folder: Path) -> None:
    with quiet_transformers():
        loaded, report = type(model).from_pretrained(
            str(folder),
            config=model.config,
            dtype=torch.float32,
            local_files_only=True,
            use_safetensors=True,
            trust_remote_code=False,
            ignore_mismatched_sizes=True,
            output_loading_info=True,
        )
    kinds = {"missing": "missing", "unexpected": "unexpected", "mismatched": "of another shape"}
    problems = {
        label: [key if isinstance(key, str) else key[0] for key in report.get(f"{kind}_keys", ())]
        for kind, label in kinds.items()
    }
    weight_files.raise_misfit(problems, folder, _HINT)
    _copy(loaded, model)


def _copy(loaded: PreTrainedModel, model: PreTrainedModel) -> None:
    meta = next(model.parameters()).is_meta
    model.load_state_dict(loaded.state_dict(), assign=meta)
    if meta:  # buffers outside the state dict, such as the rotary frequencies, have no values yet either
        for name, buffer in loaded.named_buffers():
            parent, _, leaf = name.rpartition(".")
            setattr(model.get_submodule(parent), leaf, buffer)
