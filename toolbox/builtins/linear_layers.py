"""Which linear layers of a backbone may be changed: what adapters sit on, and what is quantised."""

from __future__ import annotations

from torch import nn

from toolbox.base import Backbone


def find_linear_layers(backbone: Backbone) -> list[nn.Linear]:
    """Linear layers inside `layers()`, less those whose weights torch's fused modules read past the layer."""
    modules = [module for layer in backbone.layers() for module in layer.modules()]
    fused = {
        id(part)
        for module in modules
        if isinstance(module, nn.MultiheadAttention | nn.TransformerEncoderLayer)
        for part in module.modules()
    }
    return [module for module in modules if isinstance(module, nn.Linear) and id(module) not in fused]
