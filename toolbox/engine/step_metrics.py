"""The numbers of a run's steps, on their way to the log."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

from toolbox.base import get_dist_info

Scalars = dict[str, Tensor]
_Parts = dict[str, dict[int, tuple[float, int]]]  # of a step: {name: {batch: (value, items)}}
_STEP = -1  # in the place of a batch's number: what is of the whole step


class StepMetrics:
    """Collects the scalars that a model returns with its loss; they stay on the device until they are read.

    Of several processes each sees its share of a batch. What is read is the mean over all items of a batch, as one
    process would have it, then over the batches of a step, then over the steps.
    """

    def __init__(self) -> None:
        self._waiting: list[tuple[list[tuple[int, Scalars]], Scalars, Tensor | None]] = []
        self._steps: list[dict[str, float]] = []  # what is known of earlier steps, the same in every process

    def add(self, batches: list[tuple[int, Scalars]], whole: Scalars, left_out: Tensor | None) -> None:
        """Take in a step; nothing waits for the device.

        - `batches`: of each, how many of its items this process has, and its scalars.
        - `whole`: scalars of the step; where one is not finite, fp16's scaler makes no update, and it is in no mean.
        - `left_out`: 1.0 where the loss was not finite and the update was left out: the step is in no mean.
        """
        self._waiting.append((batches, whole, left_out))

    def settle(self) -> None:
        """Bring what was added to the host, with what other processes have: one collective call, if there are any."""
        if not self._waiting:  # the same in every process
            return
        rows: list[tuple[int, str, int, int]] = []  # step, name, batch, items
        tensors: list[Tensor] = []
        for step, (batches, whole, left_out) in enumerate(self._waiting):
            for number, (items, scalars) in [*enumerate(batches), (_STEP, (1, whole))]:
                rows += [(step, name, number, items) for name in scalars]
                tensors += scalars.values()
            if left_out is not None:
                rows.append((step, "", _STEP, 0))
                tensors.append(left_out)
        values = torch.stack([tensor.detach().reshape(()).float() for tensor in tensors]).tolist()
        steps: list[_Parts] = [{} for _ in self._waiting]
        for (step, name, number, items), value in zip(rows, values, strict=True):
            if number != _STEP or math.isfinite(value):
                steps[step].setdefault(name, {})[number] = (value, items)
        everyone: list[Any] = [steps]
        if get_dist_info()[1] > 1:
            everyone *= get_dist_info()[1]
            dist.all_gather_object(everyone, steps)
        self._steps += map(_joined, zip(*everyone, strict=True))
        self._waiting = []

    def read(self) -> dict[str, float]:
        """Means over the steps since the last call that have the number. Waits for the device."""
        self.settle()
        by_name: dict[str, list[float]] = {}
        for step in self._steps:
            for name, value in step.items():
                by_name.setdefault(name, []).append(value)
        self._steps = []
        return {name: sum(values) / len(values) for name, values in by_name.items()}

    def state_dict(self) -> list[dict[str, float]]:
        """What will be read. Every process must ask."""
        self.settle()
        return self._steps

    def load_state_dict(self, saved: list[dict[str, float]]) -> None:
        """Take back `state_dict`."""
        self._waiting, self._steps = [], list(saved)


def _joined(processes: Sequence[_Parts]) -> dict[str, float]:
    """A step's numbers from what each process has of them."""
    if any(parts.get("", {}).get(_STEP, (0.0, 0))[0] for parts in processes):
        return {}
    names = {name: None for parts in processes for name in parts if name}  # in the order of the model
    return {name: _mean([parts[name] for parts in processes if name in parts]) for name in names}


def _mean(processes: list[dict[int, tuple[float, int]]]) -> float:
    """Over the batches of a step the mean, each being the mean over its items."""
    numbers = sorted({number for parts in processes for number in parts})
    batches = [[parts[number] for parts in processes if number in parts] for number in numbers]
    means = [
        batch[0][0] if len(batch) == 1 else sum(v * n for v, n in batch) / max(1, sum(n for _, n in batch))
        for batch in batches
    ]
    return sum(means) / len(means)
