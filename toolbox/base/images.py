"""An image file -> an RGB image, or an error that names the file."""

from __future__ import annotations

import os

import numpy as np
from PIL import Image, ImageOps

IMAGE_SUFFIXES = (".jpg", ".jpeg", ".png", ".webp", ".bmp", ".gif", ".tif", ".tiff")
"""What the names of image files end in, in lower case."""


def read_image(path: str | os.PathLike[str]) -> Image.Image:
    """The image in `path`: fully decoded, turned as its EXIF orientation says, RGB.

    Gray, palette and CMYK images are converted; transparent parts become white; 16-bit values keep their upper bits.
    Raises OSError naming the file if it is missing, truncated, no image, or larger than PIL's limit for pictures that
    are small on disk and huge in memory (`PIL.Image.MAX_IMAGE_PIXELS`).
    """
    try:
        with Image.open(path) as image:
            too_large = image.width * image.height > Image.MAX_IMAGE_PIXELS
            if not too_large:
                image.load()
                return to_rgb(ImageOps.exif_transpose(image))
    except FileNotFoundError:
        raise
    except Exception as error:  # decoders raise SyntaxError, ValueError, struct.error and others on broken files
        too_large = isinstance(error, Image.DecompressionBombError | Image.DecompressionBombWarning)
        if not too_large:
            raise OSError(f"{os.fspath(path)} cannot be read as an image: {error}") from error
    raise OSError(f"{os.fspath(path)} is larger than {Image.MAX_IMAGE_PIXELS:,} pixels: shrink it first")


def to_rgb(image: Image.Image) -> Image.Image:
    """`image` in mode RGB, on white where it is transparent."""
    if image.mode == "RGB" and "transparency" not in image.info:
        return image
    if image.mode.startswith("I;16"):
        image = Image.fromarray((np.asarray(image) >> 8).astype(np.uint8))
    if image.has_transparency_data:
        image = image.convert("RGBA")
        ground = Image.new("RGBA", image.size, "white")
        image = Image.alpha_composite(ground, image)
    return image.convert("RGB")
