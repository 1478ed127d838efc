"""Random views of an image."""

from __future__ import annotations

import math
import random
from collections.abc import Sequence
from typing import Any

from PIL import Image, ImageFilter

from toolbox.base import Augment
from toolbox.builtins.geometry import Box, crop_affine, draw_box

LUMA = (0.299, 0.587, 0.114)  # ITU-R BT.601, as in PIL's own conversion to gray


class RandomViews(Augment):
    """Random crop, flip, rotation, shear, color, blur and erasing; every view has exactly the backbone's size.

    - `scale`: smallest and largest share of the image's area that a crop shows, in (0, 1].
    - `ratio`: smallest and largest width / height of a crop, before it is resized to the backbone's size.
    - `flip`: probability of a horizontal flip; 0 for letters and other things that have a direction.
    - `rotate`: largest angle, either way, in degrees, 0 to 180.
    - `shear`: largest horizontal and vertical shear, either way, in degrees, 0 to 45.
    - `color`: strength c of the color jitter, 0 to 1: brightness, contrast and saturation each times a factor from
      1 - c to 1 + c.
    - `gray`: probability that the colors are taken away.
    - `blur`: probability of a Gaussian blur, of a standard deviation from 0.1 to 2 pixels at 224 and in proportion
      at other sizes (Chen et al., "A Simple Framework for Contrastive Learning", ICML 2020).
    - `erase`: probability that a rectangle of 2 to 33 % of the view gets one random color (Zhong et al.,
      "Random Erasing Data Augmentation", AAAI 2020).
    - `views`: views of an image; above 1 a list is returned.

    Which of these gain depends on the images. For letters and drawings, turning by 15 degrees and crops from 0.7 up
    were worth 2 to 5 points of Recall@1 on new kinds of them, and color jitter of 0.4 cost a point
    (docs/benchmarks.md). For photos the defaults, crops from 0.2 up and flips, are what published recipes use.

    What a rotation or shear brings in from outside the image has the mean color of the image's corners.
    Randomness is Python's `random` alone. Raises ValueError for values outside these ranges.
    """

    def __init__(
        self,
        scale: Sequence[float] = (0.2, 1.0),
        ratio: Sequence[float] = (3 / 4, 4 / 3),
        flip: float = 0.5,
        rotate: float = 0.0,
        shear: float = 0.0,
        color: float = 0.0,
        gray: float = 0.0,
        blur: float = 0.0,
        erase: float = 0.0,
        views: int = 1,
    ):
        if len(scale) != 2 or not 0 < scale[0] <= scale[1] <= 1:
            raise ValueError(f"scale={scale} must be two shares with 0 < smallest <= largest <= 1. Try (0.2, 1.0).")
        if len(ratio) != 2 or not 0 < ratio[0] <= ratio[1]:
            raise ValueError(f"ratio={ratio} must be two numbers with 0 < smallest <= largest. Try (0.75, 1.33).")
        for name, probability in {"flip": flip, "gray": gray, "blur": blur, "erase": erase}.items():
            if not 0 <= probability <= 1:
                raise ValueError(f"{name}={probability} is no probability. Try a number from 0 to 1.")
        for name, value, limit in (("rotate", rotate, 180), ("shear", shear, 45), ("color", color, 1)):
            if not 0 <= value <= limit:
                raise ValueError(f"{name}={value} is out of range. Try a number from 0 to {limit}.")
        if views < 1:
            raise ValueError(f"views={views}, and an image has at least 1 view.")
        self.scale, self.ratio = (scale[0], scale[1]), (ratio[0], ratio[1])
        self.flip, self.rotate, self.shear = flip, rotate, shear
        self.color, self.gray, self.blur, self.erase, self.views = color, gray, blur, erase, views

    def __call__(self, image: Image.Image, size: tuple[int, int]) -> Image.Image | list[Image.Image]:
        if image.mode != "RGB":
            image = image.convert("RGB")
        views = [self._make_view(image, size) for _ in range(self.views)]
        return views if self.views > 1 else views[0]

    def _make_view(self, image: Image.Image, size: tuple[int, int]) -> Image.Image:
        view = self._crop(image, size)
        if self.color or self.gray:
            view = self._recolor(view)
        if self.blur and random.random() < self.blur:
            view = view.filter(ImageFilter.GaussianBlur(random.uniform(0.1, 2.0) * min(size) / 224))
        if self.erase and random.random() < self.erase:
            color = tuple(random.choices(range(256), k=3))
            left, top, right, bottom = draw_box(view.size, (0.02, 0.33), (0.3, 1 / 0.3))
            view.paste(color, (math.floor(left), math.floor(top), math.ceil(right), math.ceil(bottom)))
        return view

    def _crop(self, image: Image.Image, size: tuple[int, int]) -> Image.Image:
        height, width = size
        box: Box = draw_box(image.size, self.scale, self.ratio)
        flip = random.random() < self.flip
        if self.rotate or self.shear:
            angle = random.uniform(-self.rotate, self.rotate)
            shear = random.uniform(-self.shear, self.shear), random.uniform(-self.shear, self.shear)
            return crop_affine(image, box, (width, height), flip=flip, angle=angle, shear=shear)
        view = image.resize((width, height), Image.Resampling.BICUBIC, box=box, reducing_gap=2.0)
        return view.transpose(Image.Transpose.FLIP_LEFT_RIGHT) if flip else view

    def _recolor(self, view: Image.Image) -> Image.Image:
        low, high = 1 - self.color, 1 + self.color
        brightness, contrast, saturation = (random.uniform(low, high) for _ in range(3))
        if random.random() < self.gray:
            saturation = 0.0
        elif not self.color:
            return view
        return recolor(view, brightness, contrast, saturation)


def recolor(image: Image.Image, brightness: float, contrast: float, saturation: float) -> Image.Image:
    """An RGB image with all three factors applied; 1 changes nothing, a saturation of 0 takes the colors away.

    Contrast keeps the mean luma of the image. All three being linear in a pixel's color, one matrix does them at once.
    """
    average: Any = image.resize((1, 1), Image.Resampling.BOX).getpixel((0, 0))  # of an RGB image three values
    mean = sum(weight * value for weight, value in zip(LUMA, average, strict=True))
    gain = brightness * contrast
    offset = brightness * (1 - contrast) * mean
    matrix: list[float] = []
    for row in range(3):
        matrix += [gain * (saturation * (row == column) + (1 - saturation) * LUMA[column]) for column in range(3)]
        matrix.append(offset)
    return image.convert("RGB", tuple(matrix))
