"""The training set's embeddings and those to be judged, for metrics that classify the second by the first."""

from __future__ import annotations

from collections.abc import Hashable
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

from toolbox.base import Batch, Dataset, Metric, world
from toolbox.plugin import Problem
from toolbox.utils.accumulators import EmbeddingAccumulator, check_labelled
from toolbox.utils.ranking import check_finite, normalize_rows


class TrainingRows:
    """The training set's embeddings, once for all metrics of a run, on the CPU in float32.

    - `fits`: what metrics have fitted to them, by a key of their own; dropped with the embeddings.
    """

    def __init__(self) -> None:
        self.clear()

    def clear(self) -> None:
        """Forget all."""
        self._seen: EmbeddingAccumulator | None = EmbeddingAccumulator("", "embeddings")
        self._last: Batch | None = None
        self._rows: tuple[Tensor, Tensor] | None = None
        self.fits: dict[Hashable, Any] = {}

    def add(self, outputs: dict[str, Tensor], batch: Batch, metric: str) -> None:
        """Take in a batch; one that another metric has just added is not added again.

        - `metric`: the name of the one that adds it, for messages.
        """
        if batch is self._last:
            return
        if self._seen is None:
            raise ValueError("embeddings of a training set cannot be added to those of a finished one: reset first")
        self._seen.metric = metric
        _add_on_cpu(self._seen, outputs, batch)
        self._last = batch

    def rows(self) -> tuple[Tensor, Tensor]:
        """(N, D) of length 1 and (N,) labels, of all processes, ordered by id.

        Raises ValueError where there are none, some hold NaN or infinity, or all are of one class.
        """
        if self._rows is None:
            items = self._seen.items()
            check_finite(items.values, "training")
            self._seen, self._last = None, None  # so that the rows are kept once
            self._rows = normalize_rows(items.values), items.labels
        return self._rows


class Learned(Metric):
    """Sees the training set first, without augmentation; `name` is the metric's, for messages."""

    name: str
    keeps_learned = True
    has_choice = True

    _shared = False

    def reset(self) -> None:
        self._judged = EmbeddingAccumulator(self.name, "embeddings")
        self._device = torch.device("cpu")
        if not self._shared:
            self._training = TrainingRows()

    def share(self, shared: dict[str, Any]) -> None:
        self._training = shared.setdefault("core.TrainingRows", TrainingRows())
        self._shared = True

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
        _add_on_cpu(self._judged, outputs, batch)

    def rows(self) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Training embeddings (N, D) of length 1 and their labels, then those that are judged, of all processes.

        All on the CPU, ordered by id. Raises ValueError where there are none, or some hold NaN or infinity.
        """
        x, labels = self._training.rows()
        items = self._judged.items()
        check_finite(items.values, "judged")
        if len(torch.unique(labels)) < 2:
            raise ValueError(f"{self.name} tells classes apart, and the training set has one class only")
        return x, labels, normalize_rows(items.values.clone()), items.labels


def _add_on_cpu(seen: EmbeddingAccumulator, outputs: dict[str, Tensor], batch: Batch) -> None:
    """Embeddings wait on the CPU: at a million items they would fill a device that has other things to do."""
    values = {name: value.detach().cpu() for name, value in outputs.items() if name == "embeddings"}
    seen.add(values or outputs, batch)


def of_main(found: Any) -> Any:
    """What the main process has found: others have computed the same, up to how their machines round."""
    if world()[1] == 1:
        return found
    box = [found]
    dist.broadcast_object_list(box, src=0)
    return box[0]
