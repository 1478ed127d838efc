"""How transformers and timm scale images: read as settings of `ImagePreprocess`, or refused."""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from toolbox.base.image_preprocess import ChannelOrder, ImagePreprocess, Interpolation
from toolbox.utils.hf_logging import quiet_transformers
from toolbox.utils.messages import shorten_error

PROCESSOR_FILES = ("preprocessor_config.json", "processor_config.json")
"""The files of a folder in Hugging Face format that say how its images are scaled."""

_RESAMPLE: dict[int, Interpolation] = {0: "nearest", 1: "lanczos", 2: "bilinear", 3: "bicubic"}  # PIL's numbers
_COLOUR = np.array([0.2, 0.4, 0.8])
_ANY_SIZE = (224, 224)
_LARGEST = 4096
_TIMM_DEFAULTS: dict[str, Any] = {
    "mean": (0.485, 0.456, 0.406),
    "std": (0.229, 0.224, 0.225),
    "interpolation": "bicubic",
}


@dataclass(frozen=True)
class ProcessorSettings:
    """Settings of an image processor.

    - `mean`, `std`: of RGB values in [0, 1]; `interpolation`, `channels`: as in `ImagePreprocess`.
    - `size`: (height, width) of the images that it makes of square ones; None if it leaves them as they are.
    """

    mean: tuple[float, ...]
    std: tuple[float, ...]
    interpolation: Interpolation = "bicubic"
    channels: ChannelOrder = "RGB"
    size: tuple[int, int] | None = None

    def preprocess(self, size: tuple[int, int], crop: float = 1.0) -> ImagePreprocess:
        """The conversion to images of `size`."""
        return ImagePreprocess(size, self.mean, self.std, self.interpolation, crop, self.channels)


def read_image_processor(folder: Path) -> ProcessorSettings:
    """Settings of the image processor in `folder`, as transformers builds it: what its file leaves out is the default
    of its class.

    They are compared with what the processor makes of images of one colour, so that whatever it does to colours
    (an offset, another order of the channels) is followed or refused.

    Raises FileNotFoundError without a processor file, ValueError for a processor that cannot be built or followed.
    """
    if not any((folder / name).is_file() for name in PROCESSOR_FILES):
        raise FileNotFoundError(
            f"{folder} has no {PROCESSOR_FILES[0]}, which says how images are scaled. There is no safe guess: DINOv3's "
            f"satellite weights have mean (0.430, 0.411, 0.296), its others (0.485, 0.456, 0.406). "
            f"Get the file from where the weights are from: hf download ID {PROCESSOR_FILES[0]} --local-dir {folder}"
        )
    from transformers import AutoImageProcessor

    try:
        # the CPU, though the encoder itself may be built on torch's meta device
        with warnings.catch_warnings(), torch.device("cpu"), quiet_transformers():
            warnings.simplefilter("ignore")
            processor = AutoImageProcessor.from_pretrained(str(folder), local_files_only=True, trust_remote_code=False)
            return _read_settings(processor)
    except _UnsupportedProcessor as error:
        name = type(processor).__name__
        raise ValueError(
            f"The images of {folder} cannot be made as its {name} makes them: {error}. Use another encoder, or correct "
            f"its {PROCESSOR_FILES[0]}."
        ) from None
    except Exception as error:  # the types of transformers' own complaints differ by version
        raise ValueError(
            f"transformers cannot read the image processor in {folder}: {shorten_error(error)}."
        ) from error


def read_timm_images(description: Mapping[str, Any]) -> ProcessorSettings:
    """Settings of the images in timm's `pretrained_cfg`; what it leaves out is timm's default.

    Raises ValueError for values that are not followed.
    """
    mean, std, interpolation = (description.get(key) or value for key, value in _TIMM_DEFAULTS.items())
    settings = ProcessorSettings(tuple(mean), tuple(std), interpolation)
    settings.preprocess((1, 1))  # refuses what it cannot do
    return settings


class _UnsupportedProcessor(Exception):
    """Why `ImagePreprocess` cannot make the same images."""


def _read_settings(processor: Any) -> ProcessorSettings:
    resizes, resample = bool(getattr(processor, "do_resize", False)), getattr(processor, "resample", None)
    if resizes and resample not in _RESAMPLE:
        raise _UnsupportedProcessor(
            f"it resizes by PIL's filter {resample!r}, which is none of {', '.join(_RESAMPLE.values())}"
        )
    size = _read_size(processor, resizes)
    mean, std, channels = _measure_colours(processor, size or _ANY_SIZE)
    stated = _read_colours(processor)
    # what a processor says has more digits than what is measured of it
    if stated is not None and np.allclose(stated, (mean, std), rtol=1e-4, atol=1e-5):
        mean, std = stated
    interpolation = "bicubic" if resample is None else _RESAMPLE.get(resample, "bicubic")
    settings = ProcessorSettings(tuple(map(float, mean)), tuple(map(float, std)), interpolation, channels, size)
    if resizes:
        _compare_resizing(processor, settings)
    return settings


def _read_size(processor: Any, resizes: bool) -> tuple[int, int] | None:
    """(height, width) of the images that a processor makes of square ones, where it says so."""
    names = ["crop_size"] * bool(getattr(processor, "do_center_crop", False)) + ["size"] * resizes
    for size in (getattr(processor, name, None) for name in names):
        if isinstance(size, int):
            return size, size
        sides = {} if size is None else dict(size)
        edge = sides.get("shortest_edge") or sides.get("longest_edge")
        height, width = sides.get("height") or edge, sides.get("width") or edge
        if height and width:
            if max(height, width) > _LARGEST:
                raise _UnsupportedProcessor(f"its images have {height} x {width} pixels")
            return height, width
    return None


def _measure_colours(processor: Any, size: tuple[int, int]) -> tuple[np.ndarray, np.ndarray, ChannelOrder]:
    """Mean and std of RGB values in [0, 1], and the order of the channels, by what becomes of three colours."""
    black, white, colour = (_process_colour(processor, value, size) for value in (0, 1, _COLOUR))
    slope = white - black
    if (slope <= 0).any():
        raise _UnsupportedProcessor("it does not multiply colours by a positive factor")
    orders: tuple[tuple[ChannelOrder, int], ...] = (("RGB", 1), ("BGR", -1))
    for channels, step in orders:
        if np.allclose((colour - black) / slope, _COLOUR[::step], atol=1e-3):
            return (-black / slope)[::step], (1 / slope)[::step], channels
    raise _UnsupportedProcessor("it mixes or bends colours")


def _read_colours(processor: Any) -> tuple[Any, Any] | None:
    """Mean and std of values in [0, 1] by the attributes of a processor; None where they are no three numbers."""
    factor = 255 * processor.rescale_factor if getattr(processor, "do_rescale", True) else 255.0
    mean, std = (0.0,) * 3, (1.0,) * 3
    if getattr(processor, "do_normalize", True):
        mean, std = processor.image_mean, processor.image_std
    if not all(isinstance(numbers, list | tuple) and len(numbers) == 3 for numbers in (mean, std)):
        return None
    return tuple(value / factor for value in mean), tuple(value / factor for value in std)


def _compare_resizing(processor: Any, settings: ProcessorSettings) -> None:
    """Raise unless a larger and a smaller image are resized as `ImagePreprocess` does. What is cut off is left out:
    every backbone here cuts alike."""
    whole = {"do_center_crop": False, "crop_pct": 1.0}
    options = {name: value for name, value in whole.items() if getattr(processor, name, None)}
    height, width = settings.size or _ANY_SIZE
    for scale in (1.5, 0.75):
        shape = (round(scale * height), round(scale * width), 3)
        image = Image.fromarray(np.random.default_rng(0).integers(0, 256, shape, dtype=np.uint8))
        theirs = _process(processor, image, **options)
        preprocess = settings.preprocess((theirs.shape[-2], theirs.shape[-1]))
        ours = preprocess.finish(preprocess(image)[None])
        # in steps of one byte: libraries round differently, other filters differ by more
        levels = ((ours - theirs) * 255 * torch.tensor(settings.std).view(3, 1, 1)).abs()
        if levels.max() > 3 or levels.mean() > 0.5:
            raise _UnsupportedProcessor(
                f"it resizes {shape[0]} x {shape[1]} pixels to {theirs.shape[-2]} x {theirs.shape[-1]} otherwise than "
                f"by an antialiased {settings.interpolation} filter"
            )


def _process_colour(processor: Any, colour: Any, size: tuple[int, int]) -> np.ndarray:
    """The three numbers that a processor makes of an image of `colour`, RGB in [0, 1]."""
    rgb = np.round(255 * np.asarray(colour)).astype(np.uint8)
    outputs = _process(processor, Image.fromarray(np.ascontiguousarray(np.broadcast_to(rgb, (*size, 3)))))
    if tuple(outputs.shape[-2:]) != size:
        raise _UnsupportedProcessor(
            f"of {size[0]} x {size[1]} pixels it makes {outputs.shape[-2]} x {outputs.shape[-1]}"
        )
    values = outputs[0].double().flatten(1)
    low, high = values.amin(1), values.amax(1)
    if ((high - low) > 1e-3 * high.abs().clamp(min=1)).any():
        raise _UnsupportedProcessor("it pads images, or changes colours from place to place")
    return values.mean(1).numpy()


def _process(processor: Any, image: Image.Image, **options: Any) -> Tensor:
    """(1, 3, H, W) pixel values of one image."""
    try:
        pixels = processor(images=[image], return_tensors="pt", **options)["pixel_values"]
    except Exception as error:  # every processor has its own way to refuse
        raise _UnsupportedProcessor(f"of one image it makes no pixel_values ({shorten_error(error)})") from None
    if not isinstance(pixels, Tensor) or pixels.ndim != 4 or pixels.shape[:2] != (1, 3):
        shape = tuple(pixels.shape) if isinstance(pixels, Tensor) else type(pixels).__name__
        raise _UnsupportedProcessor(f"of one image it makes pixel_values of shape {shape}, not (1, 3, height, width)")
    return pixels
