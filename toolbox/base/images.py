"""An image file -> an RGB image, or an error that names the file."""

from __future__ import annotations

import io
import os

import numpy as np
from PIL import Image, ImageOps


def read_image(path: str | os.PathLike[str]) -> Image.Image:
    """The image in `path`: fully decoded, turned as its EXIF orientation says, RGB.

    Gray, palette and CMYK images are converted; transparent parts become white; 16-bit values keep their upper bits; of
    several frames the first is taken. Raises OSError naming the file if it is missing, truncated, no image, of pixels
    whose range is not known (float or 32-bit), or larger than PIL's limit for pictures that are small on disk and huge
    in memory (`PIL.Image.MAX_IMAGE_PIXELS`).
    """
    return _decoded(path, os.fspath(path))


def decode_image(data: bytes, name: str) -> Image.Image:
    """The image in the content of a file, as of `read_image`; errors call it `name`."""
    return _decoded(io.BytesIO(data), name)


def _decoded(file: str | os.PathLike[str] | io.BytesIO, name: str) -> Image.Image:
    try:
        with Image.open(file) as image:
            too_large = image.width * image.height > Image.MAX_IMAGE_PIXELS
            if not too_large:
                image.load()
                if image.mode == "I" and image.format == "PNG":  # how Pillow before 11.3 opens 16-bit gray
                    image = Image.fromarray(np.asarray(image).astype(np.uint16))
                return to_rgb(ImageOps.exif_transpose(image))
    except FileNotFoundError:
        raise
    except Exception as error:  # decoders raise SyntaxError, ValueError, struct.error and others on broken files
        too_large = isinstance(error, Image.DecompressionBombError | Image.DecompressionBombWarning)
        if not too_large:
            raise OSError(f"{name} cannot be read as an image: {error}") from error
    raise OSError(f"{name} is larger than {Image.MAX_IMAGE_PIXELS:,} pixels: shrink it first")


def to_rgb(image: Image.Image) -> Image.Image:
    """`image` in mode RGB, on white where it is transparent.

    Raises ValueError for 32-bit and float pixels: PIL would cut off all above 255, and their range is not known.
    """
    if image.mode == "RGB" and "transparency" not in image.info:
        return image
    if image.mode.startswith("I;16"):
        image = Image.fromarray((np.asarray(image) >> 8).astype(np.uint8))
    if image.mode in ("I", "F"):
        raise ValueError(
            f"its pixels are {'32-bit' if image.mode == 'I' else 'float'} numbers: save it with 8 or 16 bits"
        )
    if image.has_transparency_data:
        image = image.convert("RGBA")
        ground = Image.new("RGBA", image.size, "white")
        image = Image.alpha_composite(ground, image)
    return image.convert("RGB")
