"""Folders that transformers and timm load alone, and the lines that ask them for the same tokens."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import nn

from toolbox.base import ExportedBackbone, ImagePreprocess

_RESAMPLE = {"nearest": 0, "lanczos": 1, "bilinear": 2, "bicubic": 3}  # PIL's numbers, as transformers writes them
_IMAGES = (
    "The toolbox cuts out {part} of an image and resizes it in one pass, by PIL. {library} resizes the whole image "
    "first and then cuts its centre out, at whole pixels{more}. The toolbox also turns images as their EXIF data say "
    "and puts transparent ones on white: do so before, if yours need it."
)


def save_processor(folder: Path, preprocess: ImagePreprocess) -> tuple[list[str], list[str]]:
    """Write preprocessor_config.json, for transformers; returns the lines `ExportedBackbone.pixels`, and notes.

    Raises ValueError for an encoder that takes blue first: no plain processor swaps channels and scales them.
    """
    if preprocess.channels != "RGB":
        raise ValueError(f"it takes {preprocess.channels} images, and none of transformers' plain processors does that")
    height, width = preprocess.size
    content = {
        "image_processor_type": "CLIPImageProcessor",  # the plainest that cuts: every version has it
        "do_convert_rgb": True,
        "do_resize": True,
        "size": {"shortest_edge": round(max(height, width) / preprocess.crop)},
        "resample": _RESAMPLE[preprocess.interpolation],
        "do_center_crop": True,
        "crop_size": {"height": height, "width": width},
        "do_rescale": True,
        "rescale_factor": 1 / 255,
        "do_normalize": True,
        "image_mean": list(preprocess.mean),
        "image_std": list(preprocess.std),
    }
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "preprocessor_config.json").write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")
    lines = [
        "processor = AutoImageProcessor.from_pretrained(folder, trust_remote_code=False)",
        'pixels = processor(images=images, return_tensors="pt")["pixel_values"]',
    ]
    more = "" if height == width else ", and of a shape that is not square it keeps less"
    return lines, [_on_images("transformers", preprocess, more)]


def save_timm(
    net: nn.Module,
    folder: Path,
    architecture: str,
    arguments: Mapping[str, Any],
    cfg: Mapping[str, Any],
    preprocess: ImagePreprocess,
) -> None:
    """Write config.json and model.safetensors, as timm's `local-dir:` reads them.

    - `architecture`, `arguments`: what timm's `create_model` makes the same structure of.
    - `cfg`: further entries of its description of weights and images.
    """
    from safetensors.torch import save_file

    described = {
        **{key: value for key, value in cfg.items() if value is not None},
        "input_size": [3, *preprocess.size],
        **_describe_timm_images(preprocess),
        "num_classes": 0,
        "custom_load": False,
    }
    for key in ("test_input_size", "test_crop_pct", "label_offset", "label_names", "label_descriptions", "pool_size"):
        described.pop(key, None)
    content = {
        "architecture": architecture,
        "num_classes": 0,
        "num_features": net.num_features,
        "model_args": {**arguments, "num_classes": 0},
        "pretrained_cfg": described,
    }
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "config.json").write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")
    tensors = {key: tensor.detach().cpu().contiguous().clone() for key, tensor in net.state_dict().items()}
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})


def write_timm_code(
    preprocess: ImagePreprocess,
    tokens: list[str],
    prefix: int,
    hub: str | None = None,
    arguments: Mapping[str, Any] | None = None,
) -> ExportedBackbone:
    """The lines for a folder of `save_timm`; with `hub` for timm's own weights of that name and `arguments`."""
    height, width = preprocess.size
    if hub is None:
        load = 'model = timm.create_model(f"local-dir:{folder}", pretrained=True).eval()'
        images = "transform = create_transform(**resolve_data_config({}, model=model))"
    else:
        named = {**(arguments or {}), "num_classes": 0}
        if not all(key.isidentifier() for key in named):  # the line is run
            raise ValueError(f"these are no keywords of timm's create_model: {', '.join(map(repr, named))}")
        more = "".join(f", {key}={value!r}" for key, value in named.items())
        load = f"model = timm.create_model({hub!r}, pretrained=True{more}).eval()"
        settings = {"input_size": (3, height, width), **_describe_timm_images(preprocess)}
        images = f"transform = create_transform({', '.join(f'{key}={value!r}' for key, value in settings.items())})"
    return ExportedBackbone(
        library="timm",
        imports=["import timm", "import torch", "from timm.data import create_transform, resolve_data_config"],
        load=[load],
        pixels=[images, "pixels = torch.stack([transform(image) for image in images])"],
        tokens=tokens,
        prefix=prefix,
        hub=hub,
        notes=[_on_images("timm", preprocess)],
    )


def _on_images(library: str, preprocess: ImagePreprocess, more: str = "") -> str:
    """How a library's images differ from ours; `more` is added to what is said of its cut."""
    height, width = preprocess.size
    part = "the largest centred part"
    if preprocess.crop == 1:
        note = f" Images of exactly {height} x {width} pixels are the same in both."
        return _IMAGES.format(part=part, library=library, more=more) + note
    return _IMAGES.format(part=f"the centre, {preprocess.crop:g} of the sides of {part},", library=library, more=more)


def _describe_timm_images(preprocess: ImagePreprocess) -> dict[str, Any]:
    return {
        "interpolation": preprocess.interpolation,
        "crop_pct": preprocess.crop,
        "crop_mode": "center",
        "mean": list(preprocess.mean),
        "std": list(preprocess.std),
    }
