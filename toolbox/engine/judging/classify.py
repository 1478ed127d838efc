"""The classes of every item of a dataset."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from torch import Tensor

from toolbox.base import Dataset, Model
from toolbox.engine.judging.image_outputs import run_over_images
from toolbox.engine.precision import Precision
from toolbox.plugin import Device


@dataclass
class Classified:
    """What `classify` found.

    - `rows`: of each item pairs (class, probability), best first; `ids`, `indices`: of the rows.
    - `bad`: (index, message) of the items that could not be read.
    """

    rows: list[list[tuple[str, float]]]
    ids: list[int | str]
    indices: list[int]
    bad: list[tuple[int, str]]


def classify(
    model: Model, dataset: Dataset, device: Device,
    rank: Callable[[dict[str, Tensor], Sequence[int | str]], list[list[tuple[str, float]]]], *, precision: Precision,
    batch_size: int = 64, workers: int = 2, skip_bad: bool = False,
    progress: Callable[[int], None] = lambda done: None,
) -> Classified:  # fmt: skip
    """Classify a dataset.

    - `rank`: from a model's outputs and the ids of their items to pairs (class, probability) of each, best first.

    The other arguments are those of `run_over_images`. Of several processes the main one gets the answers.
    """
    result = Classified([], [], [], [])
    for part in run_over_images(
        model, dataset, device, lambda outputs, batch: rank(outputs, batch.ids), precision=precision,
        batch_size=batch_size, workers=workers, skip_bad=skip_bad, progress=progress,
    ):  # fmt: skip
        result.rows += part.rows or []
        result.ids += part.ids
        result.indices += part.indices
        result.bad += part.bad
    return result
