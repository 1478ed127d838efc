"""A linear layer whose frozen weight is in 4 or 8 bits, and which computes the same whether it trains or not.

The libraries' own layers do not: on CPUs they compute otherwise in evaluation than in training, and one that has been
evaluated lets no gradient through any more.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from toolbox.base import without_autocast
from toolbox.builtins.quantizing.packed import Format


class QuantizedLinear(nn.Linear):
    """A linear layer's product with its weight unpacked for the time of it, forward and backward.

    - `linear`: the layer that it stands for; its bias is kept.
    - `format`: how its weight is packed.
    - `compute`: what the product is computed in; None for what a plain layer would: autocast's, else the input's.

    Raises ValueError for a weight that is not finite.
    """

    def __init__(self, linear: nn.Linear, format: Format, compute: torch.dtype | None = None):
        nn.Module.__init__(self)
        self.in_features, self.out_features = linear.in_features, linear.out_features
        self.format, self.compute = format, compute
        packed = format.pack(linear.weight)
        self._names = tuple(packed)
        for name, tensor in packed.items():
            self.register_parameter(name, nn.Parameter(tensor, requires_grad=False))
        bias = linear.bias
        self.register_parameter("bias", None if bias is None else nn.Parameter(bias.detach(), requires_grad=False))
        self.train(linear.training)

    @property
    def weight(self) -> Tensor:  # type: ignore[override]  # torch declares a parameter, and here it is computed
        """(out, in): the weight unpacked, float32. A copy: changing it changes nothing."""
        return self.format.unpack(self._get_packed(), self._shape, torch.float32)

    def forward(self, inputs: Tensor) -> Tensor:
        plain = _choose_dtype(inputs)
        dtype = self.compute or plain
        packed = self._get_packed()
        with without_autocast(inputs.device):
            product = _Product.apply(
                inputs.to(dtype), self.bias, self.format, self._shape, self._names, *packed.values()
            )
        return product.to(plain)

    def extra_repr(self) -> str:
        return f"{super().extra_repr()}, {self.format.kind}"

    @property
    def _shape(self) -> torch.Size:
        return torch.Size((self.out_features, self.in_features))

    def _get_packed(self) -> dict[str, Tensor]:
        return {name: getattr(self, name) for name in self._names}


class _Product(torch.autograd.Function):
    """inputs @ weight.T + bias. The weight is unpacked again in the backward pass instead of being kept for it."""

    @staticmethod
    def forward(
        ctx: Any,
        inputs: Tensor,
        bias: Tensor | None,
        format: Format,
        shape: torch.Size,
        names: tuple[str, ...],
        *packed: Tensor,
    ) -> Tensor:
        ctx.save_for_backward(*packed)
        ctx.format, ctx.shape, ctx.names = format, shape, names
        weight = format.unpack(dict(zip(names, packed, strict=True)), shape, inputs.dtype)
        return nn.functional.linear(inputs, weight, None if bias is None else bias.to(inputs.dtype))

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        input_gradient = None
        if ctx.needs_input_grad[0]:
            packed = dict(zip(ctx.names, ctx.saved_tensors, strict=True))
            input_gradient = gradient @ ctx.format.unpack(packed, ctx.shape, gradient.dtype)
        return (input_gradient, *[None] * (4 + len(ctx.names)))


def _choose_dtype(inputs: Tensor) -> torch.dtype:
    """What a plain linear layer would give for these inputs."""
    if not inputs.is_meta and torch.is_autocast_enabled(inputs.device.type):
        return torch.get_autocast_dtype(inputs.device.type)
    return inputs.dtype
