"""The extension point for evaluation."""

from __future__ import annotations

from abc import ABC, abstractmethod

from torch import Tensor

from toolbox.base.dataset import Dataset
from toolbox.base.model import Batch
from toolbox.errors import Problem


class Metric(ABC):
    """Sees every item of a dataset once, in any order and split over any number of processes.

        class MeanError(Metric):
            def reset(self):
                self.errors = []
            def update(self, outputs, batch):
                self.errors.append((outputs["value"] - batch["labels"]).abs())
            def compute(self):
                return {"error": gather(torch.cat(self.errors)).mean().item()}
    """

    @abstractmethod
    def reset(self) -> None:
        """Forget what was seen."""

    @abstractmethod
    def update(self, outputs: dict[str, Tensor], batch: Batch) -> None:
        """Take in the model's `predict` of one batch."""

    @abstractmethod
    def compute(self) -> dict[str, float]:
        """{name: number} over all items of all processes."""

    def check(self, dataset: Dataset) -> list[Problem]:
        """What makes this metric meaningless on `dataset`; called before a run starts."""
        return []
