"""Functions that the two families share: building a model from plain data, checking sizes."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import Tensor, nn

from toolbox.base import check_images


def build_model(model_class: Any, config_class: Any, fields: Mapping[str, Any], settings: Mapping[str, Any]) -> Any:
    """A model of random weights.

    Raises ValueError, with the sizes, when they do not go together.
    """
    _check_fields(fields)
    try:
        return model_class(config_class(**fields, **settings))
    except Exception as error:  # the types of transformers' own complaints differ by version
        sizes = ", ".join(f"{key}={value!r}" for key, value in fields.items())
        reason = " ".join(str(error).split())
        raise ValueError(f"These sizes make no encoder: {sizes} ({type(error).__name__}: {reason}).") from error


def find_trunk(model: nn.Module) -> Any:
    """The module of transformers that holds the blocks: version 5 nests it one level deeper than 4."""
    return getattr(model, "model", model)


def check_size(size: int, patch: int) -> int:
    """`size` itself, when it is a positive multiple of `patch` pixels."""
    if size < patch or size % patch:
        below = max(size // patch, 1) * patch
        raise ValueError(f"size must be a multiple of {patch} pixels, not {size}: try {below} or {below + patch}.")
    return size


def check_pixels(pixels: Tensor, patch: int) -> tuple[int, int]:
    """The (rows, columns) of patches in a batch of images."""
    check_images(pixels)
    height, width = pixels.shape[-2:]
    if height < patch or width < patch or height % patch or width % patch:
        raise ValueError(f"image height and width must be multiples of {patch} pixels, not {height} x {width}.")
    return height // patch, width // patch


def _check_fields(fields: Mapping[str, Any]) -> None:
    for key, value in fields.items():
        numbers = value if isinstance(value, (list, tuple)) else [value]
        least = 0 if key == "num_register_tokens" else 1
        if key.startswith(("hidden_size", "depths", "num_", "intermediate", "patch")) and any(
            not isinstance(number, int) or number < least for number in numbers
        ):
            raise ValueError(f"{key} must be made of integers of at least {least}, not {value!r}.")
    width, heads = fields.get("hidden_size", 384), fields.get("num_attention_heads", 6)
    if width % heads or (width // heads) % 4:
        raise ValueError(
            f"hidden_size {width} with num_attention_heads {heads}: each head's width must be a multiple of 4 "
            f"(rotary positions); try {4 * heads * max(1, round(width / heads / 4))}."
        )
    if len(fields.get("hidden_sizes", "1234")) != len(fields.get("depths", "1234")):
        raise ValueError("hidden_sizes and depths need one number a stage each, so equally many.")
