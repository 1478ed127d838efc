"""The extension point for encoders: pixels or token ids in, tokens out."""

from __future__ import annotations

from abc import ABC, abstractmethod
from pathlib import Path
from typing import TYPE_CHECKING, Any

from torch import Tensor, nn

from toolbox.base.features import Features
from toolbox.base.preprocess import Preprocess
from toolbox.base.tunable import Tunable
from toolbox.base.weight_decay import list_undecayed

if TYPE_CHECKING:
    from toolbox.base.exported_backbone import ExportedBackbone


class Backbone(Tunable, ABC):
    """An encoder. `__init__` builds structure only: no download, no weights from disk.

        class Patches(Backbone):
            modality, dim = "image", 64
            def __init__(self, patch: int = 8):
                super().__init__()
                self.embed = nn.Conv2d(3, 64, patch, patch)
            def forward(self, inputs, *, layers=1, mask=None):
                grid = self.embed(inputs)
                return Features(grid.flatten(2).transpose(1, 2), grid=grid.shape[-2:])
            def layers(self):
                return [self.embed]
            def preprocess(self):
                return MyPreprocess(size=(32, 32))

    - `modality`: "image" or "text"; which field of a sample it reads.
    - `dim`: D, the width of its tokens.
    - `abilities`: what its `forward` and constructor can do beyond the minimum, of "layers" (several blocks),
      "mask" (masked input), "checkpointing" (gradient checkpointing). Asking for an absent one is an error.
    - `takes_any_name`: its argument `name` is any name of a whole library: what an id means is asked of others first.
    - `weights_id`: what `load_weights` will load, None for random weights; part of a checkpoint's identity.
    """

    modality: str = "image"
    dim: int
    abilities: frozenset[str] = frozenset()
    takes_any_name: bool = False
    weights_id: str | None = None

    @abstractmethod
    def forward(self, inputs: Any, *, layers: int = 1, mask: Tensor | None = None) -> Features:
        """Encode a batch.

        - `inputs`: what `preprocess().finish` returns, on the backbone's device.
        - `layers`: how many last blocks to return in `Features.blocks` (ability "layers").
        - `mask`: (B, N) bool, True where a patch is replaced by the mask token (ability "mask").
        """

    @abstractmethod
    def preprocess(self) -> Preprocess:
        """The conversion that belongs to these weights: size, mean and std, or the tokenizer."""

    @abstractmethod
    def layers(self) -> list[nn.Module]:
        """Blocks from input to output: the order for layer-wise decay and `last`, the reach of adapters."""

    def no_weight_decay(self) -> set[str]:
        """Names, as in `named_parameters()`, of what weight decay leaves alone by default, as it does vectors."""
        return list_undecayed(self)

    def find_weights(self) -> None:
        """Make sure that `load_weights` will find its files; called first, on torch's meta device.

        May download them. Raises OSError or ValueError, with the steps that mend it, when they cannot be had.
        """

    def load_weights(self) -> None:
        """Fill in the weights of `weights_id`. The engine calls it once, and not when a checkpoint follows.

        Raises OSError or ValueError, with the steps that mend it, when the weights cannot be had.
        """

    def adapter_root(self) -> nn.Module:
        """The module whose names an adapter's keys use, so that peft can load it on that module alone."""
        return self

    def export(self, folder: Path, *, as_base: bool = False) -> ExportedBackbone:
        """Write this encoder into `folder` in the format of the library that it belongs to.

        - `as_base`: it is what an adapter belongs to. Weights that anyone may load by a public name are then left out,
          and named.

        Its adapter, if any, is off meanwhile, or, of an encoder of texts, merged, so that tensors have their plain
        names. Raises ValueError for an encoder that no library knows, or that its library cannot describe.
        """
        raise ValueError(f"{type(self).__name__} has no export: it belongs to no library that could load it")

    def enable_checkpointing(self) -> None:
        """Recompute activations in the backward pass (ability "checkpointing")."""
        raise ValueError(f"{type(self).__name__} has no gradient checkpointing")
