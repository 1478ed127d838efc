"""The extension point for how much of a backbone trains; the value of any backbone's `tune` key."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Literal

from toolbox.base.backbone import Backbone


class Tune(ABC):
    """Changes a backbone in place, once, after its weights are loaded.

    For example:

        class OnlyNorms(Tune):
            def apply(self, backbone):
                backbone.freeze()
                for module in backbone.modules():
                    if isinstance(module, nn.LayerNorm):
                        module.requires_grad_(True)

    - `norm_stats`: whether batch norms that train update their running statistics ("train") or keep them ("frozen");
      None keeps those of pretrained weights. The engine sees to it after `apply`.
    """

    norm_stats: Literal["train", "frozen"] | None = None

    @abstractmethod
    def apply(self, backbone: Backbone) -> None:
        """Freeze or add parameters. Raises ValueError when the request fits nothing in this backbone."""
