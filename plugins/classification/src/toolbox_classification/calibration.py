"""Whether a classifier is right as often as it is sure."""

from __future__ import annotations

import torch
from torch import Tensor

from toolbox.base import Batch, Curve, Dataset, Histogram, Metric, ReportItem
from toolbox.plugin import Problem
from toolbox_classification.predictions import PredictionAccumulator, Predictions, check_classes, check_logits


class CalibrationError(Metric):
    """The expected calibration error: how far confidence and accuracy are apart (Guo et al., "On calibration of modern
    neural networks", 2017, arXiv:1706.04599).

    - `bins`: of equal width, into which items are put by their confidence, the largest softmax probability. A bin holds
      its upper end and not its lower one.

    The mean over items of |accuracy - mean confidence| of their bin; 0 is perfect. Smaller bins see more, and make more
    noise where items are few. Right is what classification.Accuracy counts for "top1": a tie is wrong. Reads logits,
    labels and ids as it does. Gives "calibration_error". Raises ValueError as it does, and for fewer than one bin.
    """

    better = "less"

    def __init__(self, bins: int = 15):
        if bins < 1:
            raise ValueError(f"bins must be at least 1, not {bins}: try 15")
        self.bins = bins
        self.reset()

    def reset(self) -> None:
        self._seen = PredictionAccumulator("The calibration error")
        self._answers: Predictions | None = None

    def names(self) -> list[str]:
        return ["calibration_error"]

    def check(self, dataset: Dataset) -> list[Problem]:
        return check_classes("The calibration error", dataset)

    def check_outputs(self, outputs: dict[str, Tensor]) -> list[Problem]:
        return check_logits("The calibration error", outputs)

    def update(self, outputs: dict[str, Tensor], batch: Batch) -> None:
        self._seen.add(outputs, batch)

    def compute(self) -> dict[str, float]:
        self._answers = answers = self._seen.all()
        items, right, confidence = self._binned(answers)
        return {"calibration_error": float((right - confidence).abs().sum() / items.sum())}

    def _edges(self) -> Tensor:
        return torch.linspace(0, 1, self.bins + 1, dtype=torch.float64)

    def _binned(self, answers: Predictions) -> tuple[Tensor, Tensor, Tensor]:
        """(items, right ones, sum of confidence) of each bin."""
        place = torch.bucketize(answers.confidence, self._edges()[1:-1].contiguous())
        weights = (None, answers.right.double(), answers.confidence)
        return tuple(torch.bincount(place, weights, minlength=self.bins).double() for weights in weights)

    def report_items(self, dataset: Dataset) -> list[ReportItem]:
        if self._answers is None:
            return []
        items, right, confidence = self._binned(self._answers)
        held = items > 0
        points = zip((confidence / items)[held].tolist(), (right / items)[held].tolist(), strict=True)
        shares = {
            name: (counts / counts.sum()).tolist()
            for name, counts in (("right", right), ("wrong", items - right))
            if counts.sum()
        }
        return [
            Curve(
                "Reliability",
                {"accuracy": list(points), "calibrated": [(0.0, 0.0), (1.0, 1.0)]},
                x="confidence",
                y="accuracy",
                note="Of the items of a bin. Below the diagonal the model is surer than it is right.",
            ),
            Histogram(
                "How sure it is", self._edges().tolist(), shares, x="confidence", note="Of right and of wrong answers."
            ),
        ]
