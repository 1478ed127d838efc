"""Drawing a letter: a face, a random pose, random colors."""

from __future__ import annotations

import functools
import math

import numpy as np
from PIL import Image, ImageFilter, ImageFont

from toolbox_glyphs.letters import FACES, Letter, draw_mask, find_font_file

CONTRAST = 0.35
"""How much brighter (luma, 0 to 1) the ground is than the letter, at least."""

LUMA = np.array([0.299, 0.587, 0.114])


def render(letter: Letter, face: str, size: int, rng: np.random.Generator) -> Image.Image:
    """Draw `letter` rotated, sheared, scaled and shifted; in two colors, a gradient, noise, sometimes blur.

    - `letter`: what is drawn.
    - `face`: one of `FACES`.
    - `size`: height and width of the image, in pixels; at least 8.
    - `rng`: every random choice comes from it, so an equal generator gives an equal image.

    Rotation stays within 12 degrees, so that letters which are each other's turned copies (n, u) remain distinct.
    Raises ValueError for an unknown face or a size below 8.
    """
    if face not in FACES:
        raise ValueError(f"there is no face {face!r}: use one of {', '.join(FACES)}")
    if size < 8:
        raise ValueError(f"size must be at least 8 pixels, not {size}")
    mask, box = draw_mask(load_font(face, size), letter.char)
    coverage = mask.transform(
        (size, size), Image.Transform.AFFINE, draw_pose(box, size, rng), resample=Image.Resampling.BILINEAR
    )
    if rng.random() < 0.25:
        coverage = coverage.filter(ImageFilter.GaussianBlur(size / 32 * rng.uniform(0.3, 0.8)))
    ink, ground = draw_colors(rng)
    weight = np.frombuffer(coverage.tobytes(), dtype=np.uint8).reshape(size, size, 1) * np.float32(1 / 255)
    pixels = ground + weight * (ink - ground)
    pixels += draw_gradient(size, rng)[..., None]
    if rng.random() < 0.5:
        pixels += rng.standard_normal((size, size, 1), dtype=np.float32) * np.float32(rng.uniform(0.0, 0.05))
    return Image.fromarray((pixels.clip(0, 1) * 255 + 0.5).astype(np.uint8))


def draw_pose(box: tuple[int, int, int, int], size: int, rng: np.random.Generator) -> tuple[float, ...]:
    """A random affine map from pixels of the image to pixels of the mask, as `Image.transform` takes it.

    - `box`: left, top, right, bottom of the letter's ink in the mask, which has `size` pixels per em.
    - `size`: of the image.

    Scale is relative to the em, so capitals stay larger than small letters; a letter that would not fit is shrunk.
    """
    width, height = box[2] - box[0], box[3] - box[1]
    scale = min(rng.uniform(0.7, 1.0), 0.9 * size / max(width, height))
    stretch = math.exp(rng.uniform(-0.1, 0.1))
    angle = math.radians(rng.uniform(-12, 12))
    shear = rng.uniform(-0.12, 0.12)
    cos, sin = math.cos(angle), math.sin(angle)
    # rotation times (stretch and shear): x' = a x + b y, y' = c x + d y, seen from the letter's middle
    a, b = cos * scale * stretch, cos * shear * scale - sin * scale / stretch
    c, d = sin * scale * stretch, sin * shear * scale + cos * scale / stretch
    center_x = size / 2 + draw_shift(size, abs(a) * width + abs(b) * height, rng)
    center_y = size / 2 + draw_shift(size, abs(c) * width + abs(d) * height, rng)
    determinant = a * d - b * c
    a, b, c, d = d / determinant, -b / determinant, -c / determinant, a / determinant
    origin_x = (box[0] + box[2]) / 2 - a * center_x - b * center_y
    origin_y = (box[1] + box[3]) / 2 - c * center_x - d * center_y
    return a, b, origin_x, c, d, origin_y


def draw_shift(size: int, extent: float, rng: np.random.Generator) -> float:
    """How far a letter of `extent` pixels moves from the middle: at most a tenth, and not out of the image."""
    return rng.uniform(-1, 1) * min(max(size - extent, 0) / 2, size / 10)


def draw_colors(rng: np.random.Generator) -> np.ndarray:
    """(2, 3) float32: ink and ground, uniform over all pairs whose ground is brighter by at least `CONTRAST`.

    Ink is the darker one, as on paper: a small network from scratch, given both, did not leave the collapsed state.
    """
    while True:
        pair = rng.random((2, 3))
        if (pair[1] - pair[0]) @ LUMA >= CONTRAST:
            return pair.astype(np.float32)


def draw_gradient(size: int, rng: np.random.Generator) -> np.ndarray:
    """(size, size) float32: a slope of light across the image, of at most 0.1 from its middle to a corner."""
    across, down = rng.uniform(-0.05, 0.05, 2)
    line = np.linspace(-1, 1, size, dtype=np.float32)
    return np.float32(across) * line[None, :] + np.float32(down) * line[:, None]


@functools.lru_cache(maxsize=64)
def load_font(face: str, size: int) -> ImageFont.FreeTypeFont:
    """`face` at `size` pixels per em."""
    return ImageFont.truetype(find_font_file(face), size, layout_engine=ImageFont.Layout.BASIC)
