"""The base of metrics that classify the evaluated items by the training set's embeddings."""

from __future__ import annotations

from typing import Any, TypeVar

import torch
import torch.distributed as dist
from torch import Tensor

from toolbox.base import Batch, Curve, Dataset, Metric, ReportItem, get_dist_info
from toolbox.plugin import Problem
from toolbox.utils.accumulators import EmbeddingAccumulator, check_labelled
from toolbox.utils.ranking import check_finite, normalize_rows
from toolbox_classification.classifiers import FittedClassifier

Value = TypeVar("Value")


class TrainingRows:
    """The training set's embeddings, once for all metrics of a run, on the CPU in float32."""

    def __init__(self) -> None:
        self.clear()

    def clear(self) -> None:
        """Forget the embeddings."""
        # an accumulator, then its rows, so that they are kept once
        self._content: EmbeddingAccumulator | tuple[Tensor, Tensor] = EmbeddingAccumulator("", "embeddings")
        self._last: Batch | None = None

    def add(self, outputs: dict[str, Tensor], batch: Batch, metric: str) -> None:
        """Take in a batch; a batch that another metric has just added is not added again.

        - `metric`: the name of the metric that adds it, for messages.
        """
        if batch is self._last:
            return
        if isinstance(self._content, tuple):
            raise ValueError("embeddings of a training set cannot be added to those of a finished one: reset first")
        self._content.metric = metric
        _add_on_cpu(self._content, outputs, batch)
        self._last = batch

    def rows(self) -> tuple[Tensor, Tensor]:
        """(N, D) of length 1 and (N,) labels, of all processes, ordered by id.

        Raises ValueError where there are none, or some hold NaN or infinity.
        """
        if isinstance(self._content, EmbeddingAccumulator):
            items = self._content.items()
            check_finite(items.values, "training")
            self._last = None
            self._content = normalize_rows(items.values), items.labels
        return self._content


class TrainingSetMetric(Metric):
    """The base of metrics that learn from the training set, which they get first and without augmentation.

    - `name`: the metric's name, for messages; `symbol`, `title`: of the number that is chosen and of its curve.
    """

    name: str
    symbol: str
    title: str
    keeps_learned = True
    has_choice = True

    _shared = False

    def reset(self) -> None:
        self._evaluated = EmbeddingAccumulator(self.name, "embeddings")
        self._device = torch.device("cpu")
        self._lines: dict[str, list[tuple[float, float]]] = {}
        self._note = ""
        self._remarks: list[str] = []
        self._fitted: FittedClassifier | None = None
        if not self._shared:
            self._training = TrainingRows()

    def share(self, shared: dict[str, Any]) -> None:
        self._training = shared.setdefault("classification.TrainingRows", TrainingRows())
        self._shared = True

    def classifier(self) -> FittedClassifier | None:
        return self._fitted

    def remarks(self) -> list[str]:
        return self._remarks

    def report_items(self, dataset: Dataset) -> list[ReportItem]:
        if not self._note:
            return []
        return [Curve(self.title, self._lines, self.symbol, "accuracy", log_x=True, note=self._note)]

    def forget(self) -> None:
        self._training.clear()

    def wants_training(self) -> bool:
        return True

    def check(self, dataset: Dataset) -> list[Problem]:
        return check_labelled(self.name, dataset)

    def check_outputs(self, outputs: dict[str, Tensor]) -> list[Problem]:
        if "embeddings" in outputs:
            return []
        return [Problem(f"{self.name} reads the model's 'embeddings', and it gives {', '.join(sorted(outputs))}.")]

    def fit(self, outputs: dict[str, Tensor], batch: Batch) -> None:
        self._training.add(outputs, batch, self.name)

    def update(self, outputs: dict[str, Tensor], batch: Batch) -> None:
        if "embeddings" in outputs:
            self._device = outputs["embeddings"].device  # where to compute
        _add_on_cpu(self._evaluated, outputs, batch)

    def rows(self) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Training embeddings (N, D) of length 1 and their labels, then the evaluated ones, of all processes.

        All on the CPU, ordered by id. Raises ValueError where there are none, or some hold NaN or infinity.
        """
        x, labels = self._training.rows()
        items = self._evaluated.items()
        check_finite(items.values, "evaluated")
        if len(torch.unique(labels)) < 2:
            raise ValueError(f"{self.name} tells classes apart, and the training set has one class only")
        return x, labels, normalize_rows(items.values.clone()), items.labels


def _add_on_cpu(accumulator: EmbeddingAccumulator, outputs: dict[str, Tensor], batch: Batch) -> None:
    """Add embeddings on the CPU: at a million items they would fill a device that has other things to do."""
    values = {name: value.detach().cpu() for name, value in outputs.items() if name == "embeddings"}
    accumulator.add(values or outputs, batch)


def broadcast_from_main(value: Value) -> Value:
    """The value of the main process: others have computed the same, up to how their machines round."""
    if get_dist_info()[1] == 1:
        return value
    values = [value]
    dist.broadcast_object_list(values, src=0)
    return values[0]
