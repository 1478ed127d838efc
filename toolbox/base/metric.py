"""The extension point for evaluation."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Literal

from torch import Tensor

from toolbox.base.dataset import Dataset
from toolbox.base.findings import Finding
from toolbox.base.model import Batch
from toolbox.errors import Problem


class Metric(ABC):
    """Sees every item of a dataset once, in any order and split over any number of processes.

    For example:

        class MeanError(Metric):
            def reset(self):
                self.errors = []
            def update(self, outputs, batch):
                self.errors.append((outputs["value"] - batch["labels"]).abs())
            def compute(self):
                return {"error": gather(torch.cat(self.errors)).mean().item()}

    - `better`: whether its numbers are better when they are "greater" or "less".
    """

    better: Literal["greater", "less"] = "greater"

    @abstractmethod
    def reset(self) -> None:
        """Forget what was seen."""

    @abstractmethod
    def update(self, outputs: dict[str, Tensor], batch: Batch) -> None:
        """Take in the model's `predict` of one batch."""

    def names(self) -> list[str] | None:
        """The names that `compute` will give, None if they are not known before."""
        return None

    @abstractmethod
    def compute(self) -> dict[str, float]:
        """{name: number} over all items of all processes."""

    def findings(self, dataset: Dataset) -> list[Finding]:
        """After `compute`: what a report shows beside the numbers, of the items of `dataset`."""
        return []

    def check(self, dataset: Dataset) -> list[Problem]:
        """What makes this metric meaningless on `dataset`; called before a run starts."""
        return []

    def check_outputs(self, outputs: dict[str, Tensor]) -> list[Problem]:
        """What this metric misses in a model's outputs; their shapes count, their values may not be there yet."""
        return []

    def wants_training(self) -> bool:
        """Whether `learn` must see the training set, without augmentation, before `compute`."""
        return False

    def notes(self, training: int | None) -> list[str]:
        """What a reader of the numbers should be told beforehand; `training`: items of the training set, if known."""
        return []

    def remarks(self) -> list[str]:
        """After `compute`: what must be said with the numbers, such as items that they leave out, with counts."""
        return []

    def learn(self, outputs: dict[str, Tensor], batch: Batch) -> None:
        """Take in the model's `predict` of a batch of the training set; `reset` forgets it."""
