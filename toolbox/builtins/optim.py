"""torch's optimizers as components."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch

from toolbox.base import Optimizer
from toolbox.builtins.quantizing import libraries


class AdamW(Optimizer):
    """Adam with decoupled weight decay (Loshchilov and Hutter, "Decoupled Weight Decay Regularization", ICLR 2019).

    - `lr`: learning rate of groups that set none.
    - `weight_decay`: of groups that set none.
    - `betas`: decay of the running means of the gradient and of its square, 0 <= beta < 1.
    - `eps`: added to the denominator.

    Raises ValueError for values outside these, and for negative ones.
    """

    def __init__(
        self,
        lr: float = 1e-4,
        weight_decay: float = 0.05,
        betas: Sequence[float] = (0.9, 0.999),
        eps: float = 1e-8,
    ):
        _check(lr=lr, weight_decay=weight_decay, eps=eps)
        if len(betas) != 2 or not all(0 <= beta < 1 for beta in betas):
            raise ValueError(f"betas={betas} must be two numbers with 0 <= beta < 1. Try (0.9, 0.999).")
        self.lr, self.weight_decay, self.eps = lr, weight_decay, eps
        self.betas = betas[0], betas[1]

    def build(self, groups: list[dict[str, Any]], fused: bool) -> torch.optim.Optimizer:
        return torch.optim.AdamW(
            groups, lr=self.lr, weight_decay=self.weight_decay, betas=self.betas, eps=self.eps, fused=fused
        )


class AdamW8bit(AdamW):
    """AdamW with its two running means in 8 bits, in blocks of 256 numbers (Dettmers et al. 2022, arXiv:2110.02861).

    Arguments as of core.AdamW. Tensors of fewer than 4096 numbers keep theirs in 32 bits. On a GPU the library waits
    for the device after each tensor. Its kernels cannot read tensors that are spread over processes: not with FSDP.
    """

    shardable = False

    def build(self, groups: list[dict[str, Any]], fused: bool) -> torch.optim.Optimizer:
        return libraries.import_bitsandbytes().optim.AdamW8bit(
            groups, lr=self.lr, weight_decay=self.weight_decay, betas=self.betas, eps=self.eps
        )


class SGD(Optimizer):
    """Stochastic gradient descent with momentum, weight decay being added to the gradient.

    - `lr`: learning rate of groups that set none.
    - `momentum`: share of the last update that is kept, 0 <= momentum < 1.
    - `weight_decay`: of groups that set none.
    - `nesterov`: whether the gradient is taken after the momentum; needs momentum above 0.

    Raises ValueError for values outside these, and for negative ones.
    """

    def __init__(self, lr: float = 0.1, momentum: float = 0.9, weight_decay: float = 0.0, nesterov: bool = False):
        _check(lr=lr, weight_decay=weight_decay)
        if not 0 <= momentum < 1:
            raise ValueError(f"momentum={momentum} is out of range. Try 0 <= momentum < 1.")
        if nesterov and momentum == 0:
            raise ValueError("nesterov=True needs momentum. Try momentum=0.9.")
        self.lr, self.momentum, self.weight_decay, self.nesterov = lr, momentum, weight_decay, nesterov

    def build(self, groups: list[dict[str, Any]], fused: bool) -> torch.optim.Optimizer:
        return torch.optim.SGD(
            groups,
            lr=self.lr,
            momentum=self.momentum,
            weight_decay=self.weight_decay,
            nesterov=self.nesterov,
            fused=fused,
        )


def _check(**values: float) -> None:
    for name, value in values.items():
        if not 0 <= value < float("inf"):
            raise ValueError(f"{name}={value} must be 0 or a positive number.")
