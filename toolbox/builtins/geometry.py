"""Where a random view lies in an image, and one resampling that gets it."""

from __future__ import annotations

import math
import random

from PIL import Image

Box = tuple[float, float, float, float]
"""(left, top, right, bottom) in pixels, with fractions."""


def draw_box(size: tuple[int, int], scale: tuple[float, float], ratio: tuple[float, float]) -> Box:
    """A random part of an image (Szegedy et al., "Going Deeper with Convolutions", CVPR 2015).

    - `size`: (width, height) of the image.
    - `scale`: smallest and largest share of its area, drawn uniformly.
    - `ratio`: smallest and largest width / height, drawn uniformly in the logarithm.

    A side longer than the image is cut to the image.
    """
    width, height = size
    area = width * height * random.uniform(*scale)
    shape = math.exp(random.uniform(math.log(ratio[0]), math.log(ratio[1])))
    box_width = min(math.sqrt(area * shape), width)
    box_height = min(math.sqrt(area / shape), height)
    left = random.uniform(0, width - box_width)
    top = random.uniform(0, height - box_height)
    # Rounding may lead a hair past the border, which PIL refuses.
    return left, top, min(left + box_width, width), min(top + box_height, height)


def crop_affine(
    image: Image.Image,
    box: Box,
    size: tuple[int, int],
    *,
    flip: bool = False,
    angle: float = 0.0,
    shear: tuple[float, float] = (0.0, 0.0),
) -> Image.Image:
    """`box` turned about its center, sheared, flipped and resampled to `size` in one step.

    - `size`: (width, height) of the result.
    - `flip`: whether left and right change places.
    - `angle`: degrees, clockwise as seen.
    - `shear`: (horizontal, vertical) degrees.

    Outside the image the result has the mean color of the image's corners.
    """
    fill = _average_corners(image)
    factor = max(1, math.floor(min((box[2] - box[0]) / size[0], (box[3] - box[1]) / size[1])))
    if factor > 1:
        # A bicubic transform reads 4 x 4 pixels wherever it samples: a finer image must be averaged first.
        image = image.reduce(factor)
        left, top, right, bottom = box
        box = left / factor, top / factor, right / factor, bottom / factor
    sine, cosine = math.sin(math.radians(angle)), math.cos(math.radians(angle))
    across, down = math.tan(math.radians(shear[0])), math.tan(math.radians(shear[1]))
    # From the result's pixels, measured from its center, to the image's: scale, then shear, then turn.
    x_scale = (box[2] - box[0]) / size[0] * (-1 if flip else 1)
    y_scale = (box[3] - box[1]) / size[1]
    a, b = (cosine + sine * down) * x_scale, (cosine * across + sine) * y_scale
    d, e = (cosine * down - sine) * x_scale, (cosine - sine * across) * y_scale
    c = (box[0] + box[2]) / 2 - (a * size[0] + b * size[1]) / 2
    f = (box[1] + box[3]) / 2 - (d * size[0] + e * size[1]) / 2
    return image.transform(size, Image.Transform.AFFINE, (a, b, c, d, e, f), Image.Resampling.BICUBIC, fillcolor=fill)


def _average_corners(image: Image.Image) -> tuple[int, ...]:
    right, bottom = image.width - 1, image.height - 1
    corners = [image.getpixel(corner) for corner in ((0, 0), (right, 0), (0, bottom), (right, bottom))]
    return tuple(sum(channel) // 4 for channel in zip(*corners, strict=True))
