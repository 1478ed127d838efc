"""Pretrained weights of an encoder: from a file, the local cache or the Hub, and into a model."""

from __future__ import annotations

from functools import partial
from pathlib import Path

import torch
from torch import Tensor, nn

from toolbox.utils import hub, weight_files
from toolbox_dinov3.convert import has_mask_token, to_transformers
from toolbox_dinov3.ids import COMPONENTS, Family, ReleasedModel
from toolbox_dinov3.source import Source

_HUB_FILES = ("config.json", "preprocessor_config.json", "model*.safetensors", "model.safetensors.index.json")


def load_weights(model: nn.Module, family: Family, source: Source) -> bool:
    """Replace the values of all parameters of `model` by those of `source`, in float32.

    Returns whether there was a mask token among them: timm's files have none, and it is zero then.
    Raises OSError when the weights cannot be had or read, ValueError when they do not fit the model.
    """
    where = find_weights(source)
    if where is None:
        return True  # built from sizes: there are no weights to have
    tensors = weight_files.read_weight_file(where) if where.is_file() else weight_files.read_weights(where)
    if next(model.parameters()).is_meta:
        with torch.device("cpu"):
            whole = type(model)(model.config)
        _fill(whole, family, tensors, source, where)
        _assign_values(model, whole)
    else:
        _fill(model, family, tensors, source, where)
    return has_mask_token(tensors)


def find_weights(source: Source) -> Path | None:
    """The file or folder with the weights of `source`, downloaded if need be; None if it has none. Raises OSError."""
    if source.file is not None:
        if not source.file.is_file():
            raise FileNotFoundError(f"the checkpoint {source.file} does not exist (looked in {Path.cwd()}).")
        if source.file.suffix == ".safetensors":
            weight_files.check_weight_file(source.file)
        return source.file
    folder = source.folder if source.known is None else _download(source.known, source)
    if folder is not None:
        weight_files.check_weight_files(folder)
    return folder


def _download(known: ReleasedModel, source: Source) -> Path:
    """The folder with released weights, downloaded unless the cache has it. Raises OSError, with the steps to take."""
    repository, folder = known.timm_id if source.by_timm else known.id, f"weights/{known.short}"
    access, alternatives = [], [hub.RANDOM_WEIGHTS]
    if source.by_timm:  # which can be downloaded by anyone
        folder += "-timm"
    else:
        access = [f"Accept the licence, signed in, at https://huggingface.co/{repository}", "hf auth login"]
        copy = f"Or take timm's copy, which anyone can download: the override model.backbone.name=timm/{known.timm}"
        alternatives.insert(0, copy)
    subject, revision = f"The weights of {COMPONENTS[known.family]} {known.short!r} ({repository}) are", source.revision
    steps = partial(
        hub.format_download_steps,
        subject,
        repository,
        folder,
        revision=revision,
        access=access,
        alternatives=alternatives,
    )

    def is_complete(folder: Path) -> bool:
        return (folder / "config.json").is_file() and any(folder.glob("model*.safetensors"))

    return hub.snapshot(repository, _HUB_FILES, is_complete, steps, revision)


def _fill(model: nn.Module, family: Family, tensors: dict[str, Tensor], source: Source, where: Path) -> None:
    hint = "Download the folder again, or correct its config.json."
    if source.file is not None:
        hint = "Name the encoder that they are of."
    _check_positions(model, tensors, where)
    names = {key.removeprefix("model."): key for key in model.state_dict()}
    converted = to_transformers(family, tensors)
    weight_files.fill_module(model, {names.get(key, key): tensor for key, tensor in converted.items()}, where, hint)


def _check_positions(model: nn.Module, tensors: dict[str, Tensor], where: Path) -> None:
    """Raise ValueError where the authors' file has rotary positions of other frequencies than the model."""
    periods = tensors.get("rope_embed.periods")
    frequencies = next((buffer for name, buffer in model.named_buffers() if name.endswith("inv_freq")), None)
    if periods is None or frequencies is None:
        return
    expected = 1 / frequencies.float().cpu()
    if periods.shape != expected.shape or not torch.allclose(periods.float(), expected, rtol=0.01):
        raise ValueError(
            f"The rotary positions in {where} have other frequencies: say their base as arch's rope_theta."
        )


def _assign_values(model: nn.Module, whole: nn.Module) -> None:
    """Move a model from torch's meta device to the values of `whole`."""
    model.load_state_dict(whole.state_dict(), assign=True)
    for name, buffer in whole.named_buffers():  # such as rotary frequencies, which no state dict has
        parent, _, leaf = name.rpartition(".")
        setattr(model.get_submodule(parent), leaf, buffer)
