"""Accuracy of a classifier: top-1, top-5, and the mean over classes."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from toolbox.base import Dataset, ReportItem
from toolbox.plugin import Problem
from toolbox.utils.resampling import bootstrap_counts
from toolbox_classification.predictions import PredictionMetric, Predictions
from toolbox_classification.report_items import make_report_items

_KS = [1, 5]


class Accuracy(PredictionMetric):
    """The share of items whose class stands among the first K of those that the model may choose from.

    - `ks`: the K, e.g. [1,5]; None for 1 and 5, of which 5 is left out for five classes or fewer. Each K must be
      smaller than the number of classes, since any answer would be right otherwise.
    - `intervals`: how many times to resample the items for 95 % confidence intervals, e.g. 1000; 0 for none.

    Reads `outputs["logits"]` (B, C), `batch.labels` (B,) from 0 to C - 1, and `batch.ids`; an id seen twice
    counts once. The rank of an item is 1 + the number of other classes whose logit is as large as that of its own, or
    larger: a tie counts against it, so a model that predicts the same of everything scores 0. Of an item a few numbers
    are kept, not its logits, and the numbers are the same for any number of processes and any batch size.

    `compute` gives "top1", "top5" ... (0 to 1), and "balanced_accuracy": the mean over classes of the share of their
    items at rank 1, classes without items left out. Then, where asked for, bounds: "top1_low", "top1_high" ...
    Raises ValueError for arguments that make no sense, for batches without labels or ids, labels that the model cannot
    choose, and logits that are not finite.
    """

    title = "Accuracy"

    def __init__(self, ks: list[int] | None = None, intervals: int = 0):
        if ks is not None and (not ks or min(ks) < 1 or len(set(ks)) < len(ks)):
            raise ValueError(f"ks must be different numbers from 1 up, not {ks}: try ks=[1,5]")
        if intervals < 0:
            raise ValueError(f"intervals must be at least 0, not {intervals}: try 1000")
        self.ks, self.intervals = ks, intervals
        self.reset()

    def names(self) -> list[str]:
        means = [*(f"top{k}" for k in sorted(self.ks or _KS)), "balanced_accuracy"]
        return means + [f"{name}_{end}" for name in means for end in ("low", "high") if self.intervals]

    def check(self, dataset: Dataset) -> list[Problem]:
        return super().check(dataset) or ([] if dataset.classes is None else self._check_ks(len(dataset.classes)))

    def check_outputs(self, outputs: dict[str, Tensor]) -> list[Problem]:
        return super().check_outputs(outputs) or self._check_ks(outputs["logits"].shape[1])

    def _check_ks(self, classes: int) -> list[Problem]:
        if self.ks is None or max(self.ks) < classes:
            return []
        message = f"top{max(self.ks)} would be 1 for any answer among {classes} classes."
        fitting = [k for k in self.ks if k < classes] or [1]
        return [Problem(message, "ks", f"use ks=[{','.join(map(str, fitting))}]")]

    def compute(self) -> dict[str, float]:
        predictions = self._gather_predictions()
        if problems := self._check_ks(predictions.classes):
            raise ValueError(f"{problems[0].message} {problems[0].hint}")
        counts, compute_numbers = self._count(predictions)
        means = {name: float(values[0]) for name, values in compute_numbers(counts[None]).items()}
        if not self.intervals:
            return means
        bounds = bootstrap_counts(counts, compute_numbers, self.intervals)
        return means | {f"{name}_{end}": bounds[name][i] for name in means for i, end in enumerate(("low", "high"))}

    def _count(self, predictions: Predictions) -> tuple[Tensor, Callable[[Tensor], dict[str, Tensor]]]:
        """How many items there are of each class, by rank, and a function from such counts to the numbers."""
        ks = sorted(k for k in self.ks or _KS if k < predictions.classes)
        limits = sorted({1, *ks})
        present, row = predictions.labels.unique(return_inverse=True)
        columns = len(limits) + 1
        column = torch.bucketize(predictions.rank, torch.tensor(limits))
        counts = torch.bincount(row * columns + column, minlength=len(present) * columns)

        def compute_numbers(counts: Tensor) -> dict[str, Tensor]:
            within = counts.sum(dim=1).cumsum(dim=1)
            top_k = {f"top{k}": within[:, limits.index(k)] / within[:, -1] for k in ks}
            items = counts.sum(dim=2)
            recalls = counts[:, :, 0] / items.clamp(min=1)
            return top_k | {"balanced_accuracy": recalls.sum(dim=1) / (items > 0).sum(dim=1)}

        return counts.view(len(present), columns).double(), compute_numbers

    def report_items(self, dataset: Dataset) -> list[ReportItem]:
        if self._predictions is None:
            return []
        left_out = [k for k in _KS if k >= self._predictions.classes] if self.ks is None else []
        return make_report_items(self._predictions, dataset, left_out)
