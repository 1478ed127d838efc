"""The extension point for weights in fewer bits; the value of any backbone's `quantize` key."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Any

import torch

from toolbox.base.backbone import Backbone


class Quantize(ABC):
    """Changes a backbone in place, once, after its weights are loaded and before its `tune`.

    For example:

        class HalfBlocks(Quantize):
            def apply(self, backbone):
                for layer in backbone.layers():
                    layer.bfloat16()
                return len(backbone.layers())
            def describe(self):
                return {"bits": 16}

    What is quantised cannot be trained: a backbone that has it is frozen, or trains adapters.

    - `compute`: "bf16", "fp16" or "fp32" where products with the weights are computed in that, whatever the recipe's
      precision; None where they follow it.
    """

    compute: str | None = None

    @abstractmethod
    def apply(self, backbone: Backbone) -> int:
        """Replace layers inside `backbone.layers()`; norms, patch embedding and heads stay as they are.

        Returns how many were replaced. Their new tensors are parameters without gradient, of names that differ where
        their meaning does. Also called on torch's meta device, where it must give layers of the same names and sizes.
        Raises ValueError when a library is missing, or when the request fits nothing in this backbone.
        """

    @abstractmethod
    def describe(self) -> dict[str, Any]:
        """What decides the numbers, as JSON values: part of the identity of checkpoints and of stored features."""

    def try_on(self, device: torch.device) -> None:
        """Raise ValueError where what `apply` makes cannot compute on a device; asked before weights are loaded."""

    def __repr__(self) -> str:
        return f"{type(self).__name__}({', '.join(f'{name}={value!r}' for name, value in self.describe().items())})"
