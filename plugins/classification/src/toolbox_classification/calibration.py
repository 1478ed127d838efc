"""Calibration of a classifier: whether it is right as often as it is sure."""

from __future__ import annotations

import torch
from torch import Tensor

from toolbox.base import Curve, Dataset, Histogram, ReportItem
from toolbox_classification.predictions import PredictionMetric, Predictions


class CalibrationError(PredictionMetric):
    """The expected calibration error: how far confidence and accuracy are apart (Guo et al., "On calibration of modern
    neural networks", 2017, arXiv:1706.04599).

    - `bins`: how many bins of equal width the items are put into by their confidence, the largest softmax probability.
      A bin holds its upper end and not its lower one.

    It is the mean over items of |accuracy - mean confidence| of their bin; 0 is perfect. Smaller bins show more, and
    make more noise where items are few. An item is right as in "top1" of classification.Accuracy: a tie is wrong. Reads
    logits, labels and ids as that metric does. Gives "calibration_error". Raises ValueError as it does, and for fewer
    than one bin.
    """

    title = "The calibration error"
    better = "less"

    def __init__(self, bins: int = 15):
        if bins < 1:
            raise ValueError(f"bins must be at least 1, not {bins}: try 15")
        self.bins = bins
        self.reset()

    def names(self) -> list[str]:
        return ["calibration_error"]

    def compute(self) -> dict[str, float]:
        items, right, confidence = self._sum_bins(self._gather_predictions())
        return {"calibration_error": float((right - confidence).abs().sum() / items.sum())}

    def _edges(self) -> Tensor:
        return torch.linspace(0, 1, self.bins + 1, dtype=torch.float64)

    def _sum_bins(self, predictions: Predictions) -> tuple[Tensor, Tensor, Tensor]:
        """(items, right ones, sum of confidence) of each bin, float64."""
        bins = torch.bucketize(predictions.confidence, self._edges()[1:-1].contiguous())
        items = torch.bincount(bins, minlength=self.bins).double()
        right = torch.bincount(bins, predictions.right.double(), minlength=self.bins)
        return items, right, torch.bincount(bins, predictions.confidence, minlength=self.bins)

    def report_items(self, dataset: Dataset) -> list[ReportItem]:
        if self._predictions is None:
            return []
        items, right, confidence = self._sum_bins(self._predictions)
        filled = items > 0
        points = zip((confidence / items)[filled].tolist(), (right / items)[filled].tolist(), strict=True)
        lines = {"accuracy": list(points), "calibrated": [(0.0, 0.0), (1.0, 1.0)]}
        shares = {
            name: (counts / counts.sum()).tolist()
            for name, counts in (("right", right), ("wrong", items - right))
            if counts.sum()
        }
        note = "Of the items of a bin. Below the diagonal the model is surer than it is right."
        sides = "Of right and of wrong predictions."
        return [
            Curve("Reliability", lines, x="confidence", y="accuracy", note=note),
            Histogram("How sure it is", self._edges().tolist(), shares, x="confidence", note=sides),
        ]
