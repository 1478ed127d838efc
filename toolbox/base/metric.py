"""The extension point for evaluation."""

from __future__ import annotations

import re
from abc import ABC, abstractmethod
from typing import Literal, final

from torch import Tensor

from toolbox.base.batch import Batch
from toolbox.base.dataset import Dataset
from toolbox.base.learning_metric import LearningMetric
from toolbox.base.report_items import ReportItem
from toolbox.base.text_metric import TextMetric
from toolbox.errors import Problem

Direction = Literal["greater", "less"]

_LESS = frozenset({"loss", "error", "errors", "nll", "perplexity", "mae", "mse", "rmse", "ece", "brier"})


def is_better(value: float, other: float, direction: str | None) -> bool:
    """Whether a number is better than another one.

    - `direction`: "greater" or "less" is better; None, where it is not known, means "greater".
    """
    return value < other if direction == "less" else value > other


class Metric(LearningMetric, TextMetric, ABC):
    """Sees every item of a dataset once, in any order and split over any number of processes.

    For example:

        class MeanError(Metric):
            better = "less"
            def reset(self):
                self.errors = []
            def update(self, outputs, batch):
                self.errors.append((outputs["value"] - batch.labels).abs())
            def compute(self):
                return {"error": gather(torch.cat(self.errors)).mean().item()}

    - `better`: whether its numbers are better when they are "greater" or "less"; or {name: which} where it gives both
      kinds. What a class does not say is "less" for names with a word such as "loss" or "error", else "greater".
    """

    better: Direction | dict[str, Direction] = "greater"

    @abstractmethod
    def reset(self) -> None:
        """Forget all batches."""

    @abstractmethod
    def update(self, outputs: dict[str, Tensor], batch: Batch) -> None:
        """Take in the model's `predict` of one batch, whose tensors are on the device of the outputs."""

    def names(self) -> list[str] | None:
        """The names that `compute` will give, None if they are not known before."""
        return None

    @abstractmethod
    def compute(self) -> dict[str, float]:
        """{name: number} over all items of all processes."""

    @final
    def direction(self, name: str) -> Direction:
        """Whether the number `name` is better when it is "greater" or "less".

        A bound ("top1_low") is as its number is. Raises ValueError where `better` says neither.
        """
        name = name.removesuffix("_low").removesuffix("_high")
        declared: object = None
        if "better" in vars(self) or any("better" in vars(kind) for kind in type(self).__mro__ if kind is not Metric):
            declared = self.better.get(name) if isinstance(self.better, dict) else self.better
        if declared is None:
            return "less" if _LESS & set(re.split("[^a-z]+", name.lower())) else "greater"
        if declared == "greater" or declared == "less":
            return declared
        raise ValueError(f"{type(self).__name__}.better must be 'greater' or 'less', not {declared!r}")

    def report_items(self, dataset: Dataset) -> list[ReportItem]:
        """After `compute`: what a report shows beside the numbers, of the items of `dataset`."""
        return []

    def check(self, dataset: Dataset) -> list[Problem]:
        """Problems that make this metric meaningless on `dataset`; called before a run starts."""
        return []

    def check_outputs(self, outputs: dict[str, Tensor]) -> list[Problem]:
        """Problems of a model's outputs, such as a missing one; shapes count, values may not be there yet."""
        return []

    def notes(self, training: int | None) -> list[str]:
        """Notes for the reader of the numbers, before the run; `training`: items of the training set, if known."""
        return []

    def remarks(self) -> list[str]:
        """After `compute`: notes that belong to the numbers, such as how many items they leave out."""
        return []
