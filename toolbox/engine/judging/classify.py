"""The likeliest classes of pictures, by a model's logits."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from torch import Tensor

from toolbox.base import Batch, Dataset, Model
from toolbox.engine.judging.each import check_finite, run_over
from toolbox.engine.precision import Precision
from toolbox.errors import ToolboxError, command_line
from toolbox.plugin import Device


@dataclass
class Likeliest:
    """Of N items the classes with the highest probabilities, best first.

    - `labels`: (N, K) numbers of classes; `scores`: (N, K) their softmax probabilities, float32; both on the CPU.
    """

    labels: Tensor
    scores: Tensor

    def rows(self) -> list[list[tuple[int, float]]]:
        """(class, probability) of each item."""
        pairs = zip(self.labels.tolist(), self.scores.tolist(), strict=True)
        return [list(zip(*row, strict=True)) for row in pairs]


@dataclass
class Classified:
    """What `classify` found.

    - `rows`: of each item `top` pairs (class, probability), best first; `ids`, `indices`: of the rows.
    - `bad`: (index, message) of the items that could not be read.
    """

    rows: list[list[tuple[int, float]]]
    ids: list[int | str]
    indices: list[int]
    bad: list[tuple[int, str]]


def likeliest(
    outputs: dict[str, Tensor], top: int, ids: Sequence[int | str], names: Sequence[str] | None = None
) -> Likeliest:  # fmt: skip
    """The `top` likeliest classes of a batch, all where there are fewer; of equal ones the first.

    - `ids`: of the items, for messages; `names`: of the classes, to be held against the model's outputs.

    Raises ToolboxError for outputs without logits, logits that are not finite, and another number of names.
    """
    logits = outputs.get("logits")
    if logits is None or logits.ndim != 2:
        raise ToolboxError(
            f"This model gives no logits, but {', '.join(outputs) or 'nothing'}: it does not classify.",
            hint=f"Use a checkpoint of a classifier. {command_line('embed')} writes embeddings.",
        )
    if names is not None and len(names) != logits.shape[1]:
        raise ToolboxError(f"The checkpoint names {len(names)} classes, and its model tells {logits.shape[1]} apart.")
    scores = logits.float().softmax(dim=1)
    check_finite(scores, "Logits", ids)
    found = scores.sort(dim=1, descending=True, stable=True)
    return Likeliest(found.indices[:, :top].cpu(), found.values[:, :top].cpu())


def classify(
    model: Model, dataset: Dataset, device: Device, *, precision: Precision, top: int = 5,
    names: Sequence[str] | None = None, batch_size: int = 64, workers: int = 2, skip_bad: bool = False,
    progress: Callable[[int], None] = lambda done: None,
) -> Classified:  # fmt: skip
    """Classify a dataset; `top` and `names` as of `likeliest`, the other arguments as of `run_over`."""
    result = Classified([], [], [], [])

    def take(outputs: dict[str, Tensor], batch: Batch) -> None:
        result.rows += likeliest(outputs, top, batch["ids"], names).rows()
        result.ids += batch["ids"]
        result.indices += batch["indices"]

    result.bad = run_over(
        model, dataset, device, take, precision=precision, batch_size=batch_size, workers=workers, skip_bad=skip_bad,
        progress=progress,
    )  # fmt: skip
    return result
