"""Embed every item of a dataset."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from toolbox.base import Dataset, Model
from toolbox.engine.judging.image_outputs import run_over_images
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
    """Embed a dataset; arguments as of `run_over_images`. Of several processes the main one gets the embeddings.

    Raises ToolboxError as `run_over_images`, for a model that gives no embeddings, and for such that are not finite.
    """
    rows: np.ndarray | None = None
    result = Embedded(np.empty((0, 0), np.float32), [], [], [])
    for part in run_over_images(
        model, dataset, device, lambda outputs, batch: unit_embeddings(outputs, batch.ids).numpy(), precision=precision,
        mode=mode, batch_size=batch_size, workers=workers, skip_bad=skip_bad, progress=progress,
    ):  # fmt: skip
        if part.rows is not None:
            if rows is None:  # a page of it takes memory only once it is written
                rows = np.empty((len(dataset), part.rows.shape[1]), np.float32)
            rows[len(result.ids) : len(result.ids) + len(part.rows)] = part.rows
        result.ids += part.ids
        result.indices += part.indices
        result.bad += part.bad
    if rows is not None:
        result.embeddings = rows[: len(result.ids)]
    return result
