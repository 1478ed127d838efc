"""From a PIL image to the normalized tensor that an image encoder takes."""

from __future__ import annotations

import copy
from functools import lru_cache
from typing import Literal, get_args

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from toolbox.base.preprocess import Preprocess

Interpolation = Literal["nearest", "bilinear", "bicubic", "lanczos"]
ChannelOrder = Literal["RGB", "BGR"]


class ImagePreprocess(Preprocess):
    """PIL image -> (3, H, W) bytes -> collated and normalized, float32 (B, 3, H, W).

    An image of another size is resized with antialiased interpolation until it just covers the wanted size, and its
    centre is cut out: nothing is squashed. Both happen in one pass, so what is cut off is never computed. An image that
    already has the size keeps its pixels, unless `crop` is below 1.

    - `size`: (height, width) in pixels.
    - `mean`, `std`: of RGB values in [0, 1].
    - `interpolation`: "bicubic" unless the encoder was trained with another.
    - `crop`: share of height and width of that centre which is kept: 0.875 for 224 pixels is what "resize the short
      side to 256, cut 224 out of the centre" shows, the usual protocol on ImageNet.
    """

    size: tuple[int, int]

    def __init__(
        self,
        size: tuple[int, int],
        mean: tuple[float, ...],
        std: tuple[float, ...],
        interpolation: Interpolation = "bicubic",
        crop: float = 1.0,
        channels: ChannelOrder = "RGB",
    ):
        if len(mean) != 3 or len(std) != 3 or min(std) <= 0:
            raise ValueError(f"mean and std need three numbers each, std positive; got {tuple(mean)} and {tuple(std)}.")
        if interpolation not in get_args(Interpolation):
            raise ValueError(
                f"interpolation must be one of {', '.join(get_args(Interpolation))}, not {interpolation!r}."
            )
        if channels not in get_args(ChannelOrder):
            raise ValueError(f"channels must be 'RGB' or 'BGR', not {channels!r}.")
        self.size, self.crop = (int(size[0]), int(size[1])), check_crop(crop)
        self.mean, self.std, self.interpolation = tuple(mean), tuple(std), interpolation
        self.channels = channels

    def __call__(self, value: Image.Image) -> Tensor:
        if not isinstance(value, Image.Image):
            raise ValueError(f"an image backbone reads PIL images, not {type(value).__name__}.")
        image = value if value.mode == "RGB" else value.convert("RGB")
        height, width = self.size
        if image.size != (width, height) or self.crop < 1:
            filter = Image.Resampling[self.interpolation.upper()]
            image = image.resize((width, height), filter, box=_find_center(image.size, self.size, self.crop))
        # NumPy, because torch would start threads for each image, and wait for them where no worker forbids it
        pixels = np.asarray(image).transpose(2, 0, 1)
        return torch.from_numpy(np.ascontiguousarray(pixels if self.channels == "RGB" else pixels[::-1]))

    def uncut(self) -> ImagePreprocess:
        if self.crop == 1:
            return self
        whole = copy.copy(self)
        whole.crop = 1.0
        return whole

    def finish(self, batch: Tensor) -> Tensor:
        step = 1 if self.channels == "RGB" else -1
        factor, offset = _get_constants(self.mean[::step], self.std[::step], batch.device)
        return batch.float().mul_(factor).sub_(offset)


def check_crop(crop: float) -> float:
    """`crop` itself. Raises ValueError unless it is a share of a side."""
    if not 0 < crop <= 1:
        raise ValueError(f"crop must be a share above 0 and at most 1, not {crop}: try 0.875.")
    return crop


@lru_cache
def _get_constants(mean: tuple[float, ...], std: tuple[float, ...], device: torch.device) -> tuple[Tensor, Tensor]:
    """The factor of bytes and the offset that is then subtracted; cached, as a copy to a device waits for it."""
    with torch.inference_mode(False):
        means, stds = torch.tensor(mean).view(3, 1, 1), torch.tensor(std).view(3, 1, 1)
        return (1 / (255 * stds)).to(device), (means / stds).to(device)


def _find_center(have: tuple[int, int], want: tuple[int, int], crop: float) -> tuple[float, float, float, float]:
    """(left, top, right, bottom) of a centred box of `want`'s (h, w) shape in an image of `have` (w, h).

    - `crop`: its size, as a share of the sides of the largest one.
    """
    factor = crop * min(have[0] / want[1], have[1] / want[0])
    box_width, box_height = min(have[0], want[1] * factor), min(have[1], want[0] * factor)
    left, top = (have[0] - box_width) / 2, (have[1] - box_height) / 2
    return (left, top, left + box_width, top + box_height)
