"""Pretrained weights into an encoder that stands already, and one clear message for every way that fails."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import torch

from toolbox_dinov3.hub import snapshot
from toolbox_dinov3.source import Source

if TYPE_CHECKING:
    from transformers import PreTrainedModel

_POINTER = b"version https://git-lfs"


def load(model: PreTrainedModel, source: Source, revision: str | None) -> None:
    """Replace the values of all parameters of `model` by those of `source`, in float32.

    Raises OSError when the weights cannot be had or read, ValueError when they do not fit the model.
    """
    folder = find(source, revision)
    if folder is None:
        return  # built from sizes: there are no weights to have
    with _quiet():
        loaded, report = type(model).from_pretrained(
            str(folder),
            config=model.config,
            dtype=torch.float32,
            local_files_only=True,
            use_safetensors=True,
            ignore_mismatched_sizes=True,
            output_loading_info=True,
        )
    _check_report(folder, report)
    _copy(loaded, model)


def find(source: Source, revision: str | None) -> Path | None:
    """The folder with the weights of `source`, downloaded if need be; None if it has none. Raises OSError."""
    folder = source.folder if source.known is None else snapshot(source.known, revision)
    if folder is not None:
        _check_files(folder)
    return folder


def _copy(loaded: PreTrainedModel, model: PreTrainedModel) -> None:
    meta = next(model.parameters()).is_meta
    model.load_state_dict(loaded.state_dict(), assign=meta)
    if meta:  # buffers outside the state dict, such as the rotary frequencies, have no values yet either
        for name, buffer in loaded.named_buffers():
            parent, _, leaf = name.rpartition(".")
            setattr(model.get_submodule(parent), leaf, buffer)


def _check_report(folder: Path, report: dict) -> None:
    problems = []
    for kind in ("missing", "unexpected", "mismatched"):
        keys = sorted(key if isinstance(key, str) else key[0] for key in report.get(f"{kind}_keys", ()))
        if keys:
            more = f" and {len(keys) - 6} more" if len(keys) > 6 else ""
            label = "of another shape" if kind == "mismatched" else kind
            problems.append(f"{label}: {', '.join(keys[:6])}{more}")
    if problems:
        raise ValueError(
            f"The weights in {folder} do not fit this encoder ({'; '.join(problems)}). "
            f"Download the folder again, or correct its config.json."
        )


def _check_files(folder: Path) -> None:
    from safetensors import SafetensorError, safe_open

    for file in _weight_files(folder):
        if not file.is_file():
            raise FileNotFoundError(f"{file} is missing, though the index beside it lists it. Download it again.")
        with file.open("rb") as stream:
            head = stream.read(len(_POINTER))
        if head == _POINTER:
            raise OSError(
                f"{file} is a Git LFS pointer, not the weights: run `git lfs pull` in {folder}, "
                f"or download it with `hf download`."
            )
        try:
            with safe_open(file, framework="pt"):
                pass
        except (SafetensorError, OSError, ValueError) as error:
            raise OSError(
                f"{file} is damaged or was cut short ({file.stat().st_size:,} bytes; {error}). Download it again."
            ) from error


def _weight_files(folder: Path) -> list[Path]:
    index = folder / "model.safetensors.index.json"
    if (folder / "model.safetensors").is_file():
        return [folder / "model.safetensors"]
    if index.is_file():
        try:
            return [folder / name for name in sorted(set(json.loads(index.read_text("utf-8"))["weight_map"].values()))]
        except (ValueError, KeyError, AttributeError, TypeError) as error:
            raise ValueError(f"{index} is no index of weight files ({error}). Download it again.") from error
    others = sorted(file.name for file in folder.iterdir() if file.suffix in (".bin", ".pth", ".pt", ".safetensors"))
    found = f" It has {', '.join(others)}, which is not read." if others else ""
    raise FileNotFoundError(
        f"{folder} has no model.safetensors.{found} Get it in Hugging Face format: hf download ID --local-dir {folder}"
    )


@contextmanager
def _quiet() -> Iterator[None]:
    """Without transformers' progress bar and table of keys: what matters of them becomes one message."""
    from transformers.utils import logging

    verbosity, bar = logging.get_verbosity(), logging.is_progress_bar_enabled()
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    try:
        yield
    finally:
        logging.set_verbosity(verbosity)
        if bar:
            logging.enable_progress_bar()
