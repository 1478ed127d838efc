"""The base of encoders that a library has under many names: what their arguments, structure and output share."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeVar

import torch
from torch import nn

from toolbox.base import Backbone, ImagePreprocess, check_crop, check_rate
from toolbox.utils.image_processor import ProcessorSettings
from toolbox_encoders.find_blocks import find_blocks


@dataclass(frozen=True)
class TokenLayout:
    """How the output of a net becomes tokens.

    - `name`: of the net, for messages; `dim`: width of the tokens; `abilities`: as of `Backbone`.
    - `prefix_tokens`: how many there are in the output; `pooled`: whether the pooled output is put before them.
    """

    name: str
    dim: int = 0
    prefix_tokens: int = 0
    pooled: bool = False
    abilities: frozenset[str] = frozenset()

    @property
    def prefix(self) -> int:
        return self.prefix_tokens + self.pooled


Net = TypeVar("Net", bound=nn.Module)
Layout = TypeVar("Layout", bound=TokenLayout)


class LibraryBackbone(Backbone):
    """An encoder of images that a library builds by name.

    - `model`: the library's module; `size`: (height, width) of its images; `crop`: share of the sides that they show.
    """

    modality = "image"
    takes_any_name = True
    model: nn.Module
    size: tuple[int, int]
    prefix: int
    _layout: TokenLayout
    _images: ProcessorSettings

    def __init__(self, *, size: int | None, drop_path: float, crop: float):
        super().__init__()
        check_rate("drop_path", drop_path)
        self.crop = check_crop(crop)
        if size is not None and size < 1:
            raise ValueError(f"size must be a positive number of pixels, not {size}.")

    def _build(self, create: Callable[[], Net], find_layout: Callable[[Net], Layout]) -> tuple[Net, Layout]:
        """The model, and its layout, which is found out on the meta device."""
        with torch.device("meta"):
            draft = create()
        layout = find_layout(draft)
        self.dim, self.prefix, self.abilities = layout.dim, layout.prefix, layout.abilities
        return draft if torch.empty(0).is_meta else create(), layout

    def _check_layers(self, layers: int) -> None:
        depth = len(self.layers()) if "layers" in self.abilities else 1
        if not 1 <= layers <= depth:
            raise ValueError(f"layers must be between 1 and {depth} for {self._layout.name!r}, not {layers}.")

    def preprocess(self) -> ImagePreprocess:
        return self._images.preprocess(self.size, self.crop)

    def layers(self) -> list[nn.Module]:
        return find_blocks(self.model)

    def adapter_root(self) -> nn.Module:
        return self.model

    def enable_checkpointing(self) -> None:
        if "checkpointing" not in self.abilities:
            raise ValueError(f"{self._layout.name!r} has no gradient checkpointing.")
