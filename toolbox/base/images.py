"""Reading pictures, for datasets and for encoding."""

from __future__ import annotations

from pathlib import Path

from PIL import Image, ImageOps


def read_image(path: str | Path) -> Image.Image:
    """A picture as RGB, fully read, turned as its EXIF orientation says.

    Raises OSError naming the file when it is missing, truncated, too large or no picture.
    """
    try:
        with Image.open(path) as image:
            image.load()
            return ImageOps.exif_transpose(image).convert("RGB")
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError) as error:
        reason = error.strerror if isinstance(error, OSError) and error.strerror else str(error)
        raise OSError(f"{path}: {reason}") from error
