"""Checks of the arguments that the encoders of all libraries take."""

from __future__ import annotations

from toolbox.base import check_crop, check_rate


def check_image_arguments(*, size: int | None, drop_path: float, crop: float) -> None:
    """Raise ValueError for a `size` below one pixel (None is the net's own), and for values that are no shares."""
    check_rate("drop_path", drop_path)
    check_crop(crop)
    if size is not None and size < 1:
        raise ValueError(f"size must be a positive number of pixels, not {size}.")
