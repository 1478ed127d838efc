"""The training set's embeddings and those to be judged, for metrics that classify the second by the first."""

from __future__ import annotations

from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

from toolbox.base import Batch, Dataset, Metric, world
from toolbox.core.metrics.neighbours import unit_rows
from toolbox.core.metrics.ranking import check_finite
from toolbox.core.metrics.seen import Items, Seen, check_labelled
from toolbox.errors import Problem


class Learned(Metric):
    """Sees the training set first, without augmentation; `name` is the metric's, for messages."""

    name: str

    def reset(self) -> None:
        self._training, self._judged = Seen(self.name, "embeddings"), Seen(self.name, "embeddings")

    def wants_training(self) -> bool:
        return True

    def check(self, dataset: Dataset) -> list[Problem]:
        return check_labelled(self.name, dataset)

    def check_outputs(self, outputs: dict[str, Tensor]) -> list[Problem]:
        if "embeddings" in outputs:
            return []
        return [Problem(f"{self.name} reads the model's 'embeddings', and it gives {', '.join(sorted(outputs))}.")]

    def learn(self, outputs: dict[str, Tensor], batch: Batch) -> None:
        self._training.add(outputs, batch)

    def update(self, outputs: dict[str, Tensor], batch: Batch) -> None:
        self._judged.add(outputs, batch)

    def rows(self) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Training embeddings (N, D) of length 1 and their labels, then those that are judged, of all processes.

        Both are ordered by id. Raises ValueError where there are none, or some hold NaN or infinity.
        """
        found = []
        for seen, what in ((self._training, "training"), (self._judged, "judged")):
            items: Items = seen.items()
            check_finite(items.values, what)
            found += [unit_rows(items.values), items.labels]
        if len(torch.unique(found[1])) < 2:
            raise ValueError(f"{self.name} tells classes apart, and the training set has one class only")
        return tuple(found)


def of_main(found: Any) -> Any:
    """What the main process has found: others have computed the same, up to how their machines round."""
    if world()[1] == 1:
        return found
    box = [found]
    dist.broadcast_object_list(box, src=0)
    return box[0]
