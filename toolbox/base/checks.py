"""Checks of arguments that many components have."""

from __future__ import annotations

from torch import Tensor


def check_images(pixels: Tensor) -> None:
    """Raise ValueError unless it is a batch of images, (B, 3, H, W)."""
    if pixels.ndim != 4 or pixels.shape[1] != 3:
        raise ValueError(f"images must have shape (B, 3, H, W), not {tuple(pixels.shape)}.")


def check_rate(name: str, value: float) -> float:
    """`value` itself. Raises ValueError unless it is a probability below 1."""
    if not 0 <= value < 1:
        raise ValueError(f"{name} must be at least 0 and below 1, not {value}.")
    return value
