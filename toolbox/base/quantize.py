"""The extension point for weights in fewer bits; the value of any backbone's `quantize` key."""

from __future__ import annotations

from abc import ABC, abstractmethod

from toolbox.base.backbone import Backbone


class Quantize(ABC):
    """Changes a backbone in place, once, after its weights are loaded and before its `tune`.

    For example:

        class HalfBlocks(Quantize):
            def apply(self, backbone):
                for layer in backbone.layers():
                    layer.bfloat16()

    What is quantised cannot be trained: a backbone that has it is frozen, or trains adapters.
    """

    @abstractmethod
    def apply(self, backbone: Backbone) -> None:
        """Replace layers inside `backbone.layers()`; norms, patch embedding and heads stay as they are.

        Also called on torch's meta device, where it must give layers of the same names and sizes. Raises ValueError
        when a library is missing, or when the request fits nothing in this backbone.
        """
