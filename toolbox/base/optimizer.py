"""The extension points for the update rule: optimizer and schedule."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Any

import torch


class Optimizer(ABC):
    """Makes a torch optimizer from parameter groups.

        class SGD(Optimizer):
            def __init__(self, lr: float = 0.1, weight_decay: float = 0.0):
                self.lr, self.weight_decay = lr, weight_decay
            def build(self, groups, fused):
                return torch.optim.SGD(groups, lr=self.lr, fused=fused)

    - `lr`, `weight_decay`: what a group gets that sets none of its own.
    - `shardable`: whether it can update tensors that are spread over processes (`env_cfg.parallel.mode=fsdp`).
    """

    lr: float
    weight_decay: float = 0.0
    shardable: bool = True

    @abstractmethod
    def build(self, groups: list[dict[str, Any]], fused: bool) -> torch.optim.Optimizer:
        """The optimizer of `groups` (each with `params`, `lr`, `weight_decay`); `fused`: the device can do it."""


class Schedule(ABC):
    """A factor on every group's learning rate, as a pure function of the step: nothing to save or resume.

        class Constant(Schedule):
            def factor(self, step, steps):
                return 1.0

    - `key`: the setting of a group that is scheduled: "lr" or "weight_decay".
    """

    key: str = "lr"

    @abstractmethod
    def factor(self, step: int, steps: int) -> float:
        """The factor for update `step` (0 is the first) of `steps`."""
