"""Files of pretrained weights: which there are, whether they are whole, and their tensors into a module."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

_POINTER = b"version https://git-lfs"


def list_weight_files(folder: Path) -> list[Path]:
    """The safetensors in a folder of Hugging Face format: model.safetensors, or the parts that its index lists.

    Raises FileNotFoundError where there are none, ValueError for an index that is none.
    """
    index = folder / "model.safetensors.index.json"
    if (folder / "model.safetensors").is_file():
        return [folder / "model.safetensors"]
    if index.is_file():
        try:
            return [folder / name for name in sorted(set(json.loads(index.read_text("utf-8"))["weight_map"].values()))]
        except (ValueError, KeyError, AttributeError, TypeError) as error:
            raise ValueError(f"{index} is no index of weight files ({error}). Download it again.") from error
    others = sorted(file.name for file in folder.iterdir() if file.suffix in (".bin", ".pth", ".pt", ".safetensors"))
    note = f" It has {', '.join(others)}, which is not read." if others else ""
    raise FileNotFoundError(
        f"{folder} has no model.safetensors.{note} Get it in Hugging Face format: hf download ID --local-dir {folder}"
    )


def read_config(file: Path, content: str) -> dict[str, Any]:
    """The JSON object in a folder's config.json.

    - `content`: what a folder of this format holds, the end of a sentence, for a folder without the file.

    Raises FileNotFoundError where there is none, ValueError for a file that holds no JSON object.
    """
    if not file.is_file():
        raise FileNotFoundError(
            f"{file.parent} has no {file.name}. A folder in Hugging Face format holds config.json{content}"
        )
    try:
        fields = json.loads(file.read_text(encoding="utf-8"))
    except (UnicodeDecodeError, json.JSONDecodeError) as error:
        raise ValueError(f"{file} is no valid JSON ({error}). Download it again.") from error
    if not isinstance(fields, dict):
        raise ValueError(f"{file} holds no JSON object. Download it again.")
    return fields


def check_config(content: Mapping[str, Any], file: Path) -> None:
    """Raise ValueError where a config.json, that of a part included, asks transformers for code from the Hub.

    - `content`: of `file`.
    """
    for key, value in content.items():
        if isinstance(value, Mapping):
            check_config(value, file)
        if key.removesuffix("_internal").endswith("_implementation"):  # the name of a kernel: ORGANISATION/REPOSITORY
            names = value.values() if isinstance(value, Mapping) else [value]
            if any(set(str(name)) & set("/:|") for name in names):
                raise ValueError(f"{file} asks for code of the Hub ({key}: {value!r}), which is not run: remove it.")


def check_no_adapter(folder: Path) -> None:
    """Raise ValueError for a folder with an adapter: transformers would load the weights that this names instead."""
    if (folder / "adapter_config.json").is_file():
        raise ValueError(
            f"{folder} holds an adapter of peft (adapter_config.json) and not only a model: remove that file, or give "
            "the folder of the model that it was trained on."
        )


def check_weight_file(file: Path) -> None:
    """Raises OSError, saying what to do, where a safetensors file is absent, a Git LFS pointer, or cut short."""
    from safetensors import SafetensorError, safe_open

    if not file.is_file():
        raise FileNotFoundError(f"{file} is missing, though the index beside it lists it. Download it again.")
    with file.open("rb") as stream:
        head = stream.read(len(_POINTER))
    if head == _POINTER:
        raise OSError(
            f"{file} is a Git LFS pointer, not the weights: run `git lfs pull` in {file.parent}, "
            f"or download it with `hf download`."
        )
    try:
        with safe_open(file, framework="pt"):
            pass
    except (SafetensorError, OSError, ValueError) as error:
        raise OSError(
            f"{file} is damaged or was cut short ({file.stat().st_size:,} bytes; {error}). Download it again."
        ) from error


def check_weight_files(folder: Path) -> None:
    """`check_weight_file` for each of `list_weight_files`. Raises ValueError for a folder with an adapter."""
    check_no_adapter(folder)
    for file in list_weight_files(folder):
        check_weight_file(file)


def read_weights(folder: Path) -> dict[str, Tensor]:
    """All tensors of `list_weight_files`, checked first."""
    from safetensors.torch import load_file

    check_weight_files(folder)
    return {key: tensor for file in list_weight_files(folder) for key, tensor in load_file(file).items()}


def read_weight_file(file: Path) -> dict[str, Tensor]:
    """The tensors of one file, by transformers; of a pickle (.pth, .pt, .bin) nothing else is made: no code of it runs.

    Raises OSError for a file that is absent, damaged, or holds something else.
    """
    from transformers.modeling_utils import load_state_dict

    if file.suffix == ".safetensors":
        check_weight_file(file)
    try:
        tensors = load_state_dict(str(file), map_location="cpu", weights_only=True)
    except Exception as error:  # pickle raises anything on a damaged file
        raise OSError(
            f"{file} cannot be read as a checkpoint of tensors alone: it is damaged, or holds objects whose code would "
            "have to run. Download it again, best as .safetensors."
        ) from error
    if not isinstance(tensors, dict):
        raise OSError(f"{file} holds {type(tensors).__name__}, no tensors by name.")
    if others := [key for key, value in tensors.items() if not isinstance(value, Tensor)]:
        what = ", ".join(map(repr, others[:3]))
        raise OSError(f"{file} holds something else than tensors: {what}. Save the tensors of one encoder alone.")
    return tensors


def fill_module(module: nn.Module, tensors: Mapping[str, Tensor], where: str | Path, hint: str) -> None:
    """Copy `tensors` into the state of `module`, which keeps its own precision; all or none.

    - `where`, `hint`: for the message: what the weights come from, and what to try.

    Raises ValueError, naming the keys, unless the keys and shapes are the same; also on the meta device, where values
    have no place.
    """
    state = module.state_dict()
    if any(tensor.is_meta for tensor in state.values()):
        raise ValueError("weights cannot be loaded on torch's meta device: build the backbone on another.")
    problems = {
        "missing": state.keys() - tensors.keys(),
        "unexpected": tensors.keys() - state.keys(),
        "of another shape": {key for key in state.keys() & tensors.keys() if state[key].shape != tensors[key].shape},
    }
    raise_misfit(problems, where, hint)
    with torch.no_grad():
        for key, tensor in state.items():
            tensor.copy_(tensors[key])


def raise_misfit(problems: Mapping[str, set[str] | list[str]], where: str | Path, hint: str) -> None:
    """Raise ValueError if there are any keys in `problems`, a mapping from what is wrong with keys to the keys."""
    parts = []
    for label, keys in problems.items():
        if keys:
            more = f" and {len(keys) - 6} more" if len(keys) > 6 else ""
            parts.append(f"{label}: {', '.join(sorted(keys)[:6])}{more}")
    if parts:
        raise ValueError(f"The weights in {where} do not fit this encoder ({'; '.join(parts)}). {hint}")
