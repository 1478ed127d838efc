"""A frozen backbone's linear layers in 4 or 8 bits."""

from __future__ import annotations

from typing import Any, Literal

import torch
from torch import nn

from toolbox.base import Backbone, Quantize
from toolbox.builtins.linear_layers import find_linear_layers
from toolbox.builtins.quantizing import libraries
from toolbox.builtins.quantizing.packed import Format
from toolbox.builtins.quantizing.quantized_linear import QuantizedLinear

_DTYPES = {"bf16": torch.bfloat16, "fp16": torch.float16, "fp32": torch.float32}
_LIBRARIES = {4: ("bitsandbytes",), 8: ("bitsandbytes", "torchao")}  # which can do how many bits, the first preferred


class LinearQuantization(Quantize):
    """The value of a backbone's `quantize` key: linear layers inside its blocks hold their weights in fewer bits.

    Norms, LayerScale, patch embedding, biases, pools and heads stay as they are. Weights are unpacked for each product,
    in training as in evaluation; activations are never quantised. The backbone must be frozen, or train adapters
    (`tune=dict(mode='lora')`).

    - `bits`: 4 or 8.
    - `kind`: of 4 bits: "nf4", for weights that are normally distributed (None: this one), or "fp4".
    - `nested`: of 4 bits: the scales of blocks are in 8 bits too (0.52 instead of 0.56 bytes a weight).
    - `compute`: what the product with a weight is computed in: "bf16", "fp16" or "fp32". None: in what a plain layer
      would: the recipe's `optim_wrapper.precision`.
    - `library`: "bitsandbytes" (4 and 8 bits), "torchao" (8 bits), or "auto": the first of them that is installed.
      8 bits are one scale a row in both.

    Raises ValueError for an argument that the bits would ignore. Dettmers et al. 2023, arXiv:2305.14314.
    """

    def __init__(
        self,
        bits: Literal[4, 8] = 4,
        kind: Literal["nf4", "fp4"] | None = None,
        nested: bool = False,
        compute: Literal["bf16", "fp16", "fp32"] | None = None,
        library: Literal["auto", "bitsandbytes", "torchao"] = "auto",
    ):
        if isinstance(bits, bool) or bits not in _LIBRARIES:
            raise ValueError(f"bits is 4 or 8, not {bits!r}.")
        if kind not in (None, "nf4", "fp4"):
            raise ValueError(f"kind is 'nf4' or 'fp4', not {kind!r}.")
        if bits == 8 and (kind is not None or nested):
            raise ValueError("8 bits have no kind and no nested scales: remove them, or set bits to 4.")
        if compute not in (None, *_DTYPES):
            raise ValueError(f"compute is one of {', '.join(map(repr, _DTYPES))}, not {compute!r}.")
        if library != "auto" and library not in _LIBRARIES[8]:
            raise ValueError(f"library is 'auto', 'bitsandbytes' or 'torchao', not {library!r}.")
        if library != "auto" and library not in _LIBRARIES[bits]:
            raise ValueError(f"{library} is used for 8 bits only: set library to 'bitsandbytes'.")
        self.bits, self.kind, self.nested = bits, "int8" if bits == 8 else kind or "nf4", nested
        self.compute, self.library = compute, library

    def apply(self, backbone: Backbone) -> int:
        format = self._format()
        chosen = {id(layer): layer for layer in find_linear_layers(backbone) if _is_plain(layer)}
        if not chosen:
            raise ValueError(f"{type(backbone).__name__} has no plain linear layers inside layers(): remove quantize.")
        compute = None if self.compute is None else _DTYPES[self.compute]
        quantized: dict[int, QuantizedLinear] = {}
        for parent in list(backbone.modules()):
            for name, child in list(parent._modules.items()):
                layer = chosen.get(id(child))
                if layer is not None:
                    if id(layer) not in quantized:
                        quantized[id(layer)] = QuantizedLinear(layer, format, compute)
                    setattr(parent, name, quantized[id(layer)])
        return len(quantized)

    def describe(self) -> dict[str, Any]:
        settings = {"library": self._choose_library(), "bits": self.bits, "kind": self.kind}
        return settings | ({"nested": self.nested} if self.bits == 4 else {}) | {"compute": self.compute}

    def try_on(self, device: torch.device) -> None:
        format, weight = self._format(), torch.linspace(-1, 1, 128).view(2, 64)
        packed = {name: tensor.to(device) for name, tensor in format.pack(weight).items()}
        try:
            unpacked = format.unpack(packed, weight.shape, torch.float32).cpu()
        except Exception as error:  # every library has its own way to fail
            raise ValueError(f"{format.library} has no {self.bits} bits on {device.type}: {error}") from error
        if not torch.allclose(unpacked, weight, atol=0.2):
            raise ValueError(f"{format.library} computes wrong numbers with {self.bits} bits on {device.type}.")

    def _choose_library(self) -> str:
        """The library that is used: the one asked for, or the first that is installed, or the preferred one."""
        able = _LIBRARIES[self.bits] if self.library == "auto" else (self.library,)
        return next((name for name in able if libraries.is_installed(name)), able[0])

    def _format(self) -> Format:
        """Raises ValueError, with the command that mends it, where the library cannot be used."""
        library = self._choose_library()
        getattr(libraries, f"import_{library}")()
        return Format(self.kind, self.nested, library)


def _is_plain(layer: nn.Linear) -> bool:
    """Whether a layer computes what its weight and bias say, and nothing else."""
    return type(layer).forward is nn.Linear.forward and not (layer._forward_hooks or layer._forward_pre_hooks)
