"""An image file -> an RGB image, or an error that names the file."""

from __future__ import annotations

import io
import os

import numpy as np
from PIL import Image, ImageOps, UnidentifiedImageError

MAX_IMAGE_PIXELS = 250_000_000
"""The largest image that is read, in pixels, unless a recipe says otherwise: phones take images of 108 and 200 MP."""

_PILLOW_LIMIT = 1024 * 1024 * 1024 // 4 // 3  # its own: a warning above it, an error above twice as much
if Image.MAX_IMAGE_PIXELS == _PILLOW_LIMIT:
    Image.MAX_IMAGE_PIXELS = MAX_IMAGE_PIXELS


def set_max_image_pixels(pixels: int | None) -> None:
    """Set the largest image that this process reads, Pillow's own limit included; None: `MAX_IMAGE_PIXELS`.

    Raises ValueError for less than 1.
    """
    if pixels is not None and pixels < 1:
        raise ValueError(f"max_image_pixels takes a number from 1 up, not {pixels}")
    Image.MAX_IMAGE_PIXELS = MAX_IMAGE_PIXELS if pixels is None else pixels


def read_image(path: str | os.PathLike[str]) -> Image.Image:
    """The image in `path`: fully decoded, turned as its EXIF orientation says, RGB.

    Gray, palette and CMYK images are converted; transparent parts become white; 16-bit values keep their upper bits; of
    several frames the first is taken. An orientation that cannot be read is none. Raises OSError naming the file if it
    is missing, truncated, no image, of pixels whose range is not known (float or 32-bit), or larger than the limit for
    images that are small on disk and huge in memory (the recipe's `env_cfg.max_image_pixels`).
    """
    return _decode(path, os.fspath(path))


def decode_image(data: bytes, name: str) -> Image.Image:
    """The image in the content of a file, as of `read_image`; errors call it `name`."""
    return _decode(io.BytesIO(data), name)


def _decode(file: str | os.PathLike[str] | io.BytesIO, name: str) -> Image.Image:
    limit = Image.MAX_IMAGE_PIXELS
    try:
        with Image.open(file) as image:
            too_large = limit is not None and image.width * image.height > limit
            if not too_large:
                image.load()
                is_gray16 = image.mode == "I" and image.format == "PNG"  # as Pillow before 11.3 opens it
                pixels = Image.fromarray(np.asarray(image).astype(np.uint16)) if is_gray16 else image
                return to_rgb(apply_orientation(pixels))
    except FileNotFoundError:
        raise
    except Exception as error:  # decoders raise SyntaxError, ValueError, struct.error and others on broken files
        too_large = isinstance(error, Image.DecompressionBombError | Image.DecompressionBombWarning)
        if not too_large:
            reason = str(error) or type(error).__name__
            if _is_empty(file):
                reason = "the file is empty"
            elif isinstance(error, UnidentifiedImageError):  # it would say the name again
                reason = "its content is of no format that is known here"
            raise OSError(f"{name} cannot be read as an image: {reason}") from error
    raise OSError(
        f"{name} is larger than {limit:,} pixels: shrink it, or raise env_cfg.max_image_pixels (memory per data worker "
        "grows with it, 3 bytes a pixel and more)"
    )


def _is_empty(file: str | os.PathLike[str] | io.BytesIO) -> bool:
    if isinstance(file, io.BytesIO):
        return not file.getbuffer().nbytes
    return os.path.isfile(file) and not os.path.getsize(file)


def apply_orientation(image: Image.Image) -> Image.Image:
    """`image` turned as its EXIF orientation says, as it is where that cannot be read."""
    try:
        return ImageOps.exif_transpose(image)
    except Exception:  # of a parser of TIFF: SyntaxError, struct.error and others
        return image


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
        image = Image.alpha_composite(Image.new("RGBA", image.size, "white"), image)
    return image.convert("RGB")
