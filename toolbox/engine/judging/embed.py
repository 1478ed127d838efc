"""Embed every item of a dataset."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from torch import Tensor

from toolbox.base import Batch, Dataset, Model
from toolbox.engine.judging.each import run_over
from toolbox.engine.precision import Precision
from toolbox.plugin import Device
from toolbox.utils.model_io import unit_embeddings


@dataclass
class Embedded:
    """What `embed` found of N items.

    - `embeddings`: (N, D) float32, rows of length 1; `ids`, `indices`: of the rows, in the order of the dataset.
    - `bad`: (index, message) of the items that could not be read.
    """

    embeddings: np.ndarray
    ids: list[int | str]
    indices: list[int]
    bad: list[tuple[int, str]]


def embed(
    model: Model, dataset: Dataset, device: Device, *, precision: Precision, mode: str = "predict",
    batch_size: int = 64, workers: int = 2, skip_bad: bool = False, progress: Callable[[int], None] = lambda done: None,
) -> Embedded:  # fmt: skip
    """Embed a dataset; arguments as of `run_over`, items that are left out being listed in the result.

    Raises ToolboxError as `run_over`, for a model that gives no embeddings, and for embeddings that are not finite.
    """
    found: np.ndarray | None = None
    result = Embedded(np.empty((0, 0), np.float32), [], [], [])

    def take(outputs: dict[str, Tensor], batch: Batch) -> None:
        nonlocal found
        rows = unit_embeddings(outputs, batch["ids"]).numpy()
        if found is None:  # a page of it takes memory only once it is written
            found = np.empty((len(dataset), rows.shape[1]), np.float32)
        found[len(result.ids) : len(result.ids) + len(rows)] = rows
        result.ids += batch["ids"]
        result.indices += batch["indices"]

    result.bad = run_over(
        model, dataset, device, take, precision=precision, mode=mode, batch_size=batch_size, workers=workers,
        skip_bad=skip_bad, progress=progress,
    )  # fmt: skip
    result.embeddings = found[: len(result.ids)]
    return result
