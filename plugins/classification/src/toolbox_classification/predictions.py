"""The predictions of a classifier: of every item the rank of its class, the predicted class and its confidence."""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from torch import Tensor

from toolbox.base import Batch, Dataset, Metric
from toolbox.plugin import Problem
from toolbox.utils.accumulators import EmbeddingAccumulator, check_labelled


@dataclass
class Predictions:
    """Predictions for N items in the order of their ids, each item once, on the CPU.

    - `labels`: (N,) their classes; `classes`: how many there are to choose from.
    - `rank`: (N,) 1 + the number of other classes with as large a logit or a larger one: a tie counts against the item.
    - `predicted`: (N,) the class itself at rank 1, else the other class with the largest logit.
    - `confidence`: (N,) the largest softmax probability, float64.
    - `names`: their ids as they came; `indices`: in the dataset, empty where batches do not hold them.
    """

    labels: Tensor
    rank: Tensor
    predicted: Tensor
    confidence: Tensor
    classes: int
    names: list[int | str]
    indices: list[int]

    @property
    def right(self) -> Tensor:
        """(N,) whether an item's class is first, alone."""
        return self.rank == 1


class PredictionMetric(Metric):
    """The base of metrics of a classifier's predictions; of an item they keep four numbers and its id, not its logits.

    - `title`: the metric's name, for messages.
    """

    title: str

    def reset(self) -> None:
        self._summaries = EmbeddingAccumulator(self.title, "summaries")
        self._predictions: Predictions | None = None

    def check(self, dataset: Dataset) -> list[Problem]:
        if problems := check_labelled(self.title, dataset):
            return problems
        if dataset.classes is not None and len(dataset.classes) < 2:
            message = f"{self.title} is about choosing between classes, and this dataset has {len(dataset.classes)}."
            return [Problem(message, hint="Use data with two classes or more.")]
        return []

    def check_outputs(self, outputs: dict[str, Tensor]) -> list[Problem]:
        logits = outputs.get("logits")
        if logits is not None and logits.ndim == 2:
            return []
        outputs_text = ", ".join(sorted(outputs)) if logits is None else f"'logits' of shape {tuple(logits.shape)}"
        message = f"{self.title} reads the model's 'logits', one for each class, and it gives {outputs_text}."
        return [Problem(message, hint="Use a model that classifies, or another metric.")]

    def update(self, outputs: dict[str, Tensor], batch: Batch) -> None:
        batch = Batch.from_fields(batch)
        logits, labels = outputs.get("logits"), batch.labels
        if logits is None or logits.ndim != 2:
            raise ValueError(f"{self.title} reads the model's 'logits' (B, C), and it gives {sorted(outputs)}")
        if labels is None or len(labels) != len(logits):
            raise ValueError(
                f"{self.title} needs a label for each item, and there are {0 if labels is None else len(labels)} "
                f"labels for {len(logits)} items: use a labelled dataset"
            )
        classes = logits.shape[1]
        if len(labels) and not 0 <= int(labels.min()) <= int(labels.max()) < classes:
            unknown = next(int(label) for label in labels if not 0 <= label < classes)
            raise ValueError(
                f"there is an item of class number {unknown}, and the model chooses from {classes}, counted from 0: "
                "these data have other classes than those that it was trained on"
            )
        summaries = _summarize(logits.detach(), labels.to(logits.device))
        # every item is classified, so it counts once, whatever roles retrieval would give it
        self._summaries.add({"summaries": summaries}, replace(batch, roles=None))

    def _gather_predictions(self) -> Predictions:
        """The predictions of all processes. Raises ValueError for logits that are not finite."""
        items = self._summaries.items()
        rank, predicted, confidence, classes = items.values.cpu().T
        if len(bad := torch.nonzero(~confidence.isfinite())[:, 0].tolist()):
            listed = ", ".join(str(items.names[row]) for row in bad[:3])
            raise ValueError(
                f"the logits of {len(bad)} of {len(items.names)} items hold NaN or infinity ({listed}): training "
                "diverged"
            )
        if classes.min() != classes.max():
            raise ValueError(
                f"the model gives {int(classes.min())} logits for some items and {int(classes.max())} for others"
            )
        self._predictions = Predictions(
            items.labels.cpu(),
            rank.long(),
            predicted.long(),
            confidence.double(),
            int(classes[0]),
            items.names,
            items.indices,
        )
        return self._predictions


def _summarize(logits: Tensor, labels: Tensor) -> Tensor:
    """(B, 4) float32, in which whole numbers up to 16 million are exact: rank, predicted class, confidence, classes."""
    label_logits = logits.gather(1, labels[:, None].long())
    rank = (logits >= label_logits).sum(dim=1)
    others = logits.scatter(1, labels[:, None].long(), -torch.inf)
    predicted = torch.where(rank == 1, labels, others.argmax(dim=1))
    confidence = logits.float().softmax(dim=1).amax(dim=1)
    classes = torch.full_like(confidence, logits.shape[1])
    return torch.stack([rank.float(), predicted.float(), confidence, classes], dim=1)
