"""Embed every item of a dataset: batched, read by worker processes."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch

from toolbox.base import Dataset, Model, l2_normalize
from toolbox.engine.reading.data import Draws, Fetch, batches, inputs_of, ready
from toolbox.errors import ToolboxError
from toolbox.plugin import Device
from toolbox.registry import build


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
    model: Model, dataset: Dataset, device: Device, *, mode: str = "predict", batch_size: int = 64, workers: int = 2,
    skip_bad: bool = False, progress: Callable[[int], None] = lambda done: None,
) -> Embedded:  # fmt: skip
    """Embed a dataset as it is, without augmentation, in float32.

    - `mode`: "predict", or "baseline" for the backbone alone, without the head.
    - `batch_size`: items at a time; `workers`: processes that read them, 0 for none.
    - `skip_bad`: leave unreadable items out and list them in the result.
    - `progress`: called with the number of items that are done.

    Raises ToolboxError naming unreadable items (those of the first batch that has any), for a model that gives no
    embeddings, and for embeddings that are not finite.
    """
    inputs, place = inputs_of(model), torch.device(str(device))
    others = sorted(name for name, source in inputs.items() if source.field != "image")
    if others or not inputs:
        raise ToolboxError(f"This model cannot embed images alone: it also reads {', '.join(others) or 'nothing'}.")
    sampler = build({"type": "core.Sequential", "batch_size": min(batch_size, len(dataset))}, "sampler")
    sampler.setup(dataset, seed=0)
    workers = min(workers, len(sampler) - 1)  # a single batch is read sooner than a process starts
    found: np.ndarray | None = None
    result = Embedded(np.empty((0, 0), np.float32), [], [], [])
    was_training, done = model.training, 0
    model.eval()
    try:
        with torch.inference_mode():
            for batch in batches(
                Fetch(dataset, inputs, skip_bad=True), Draws(sampler, 0, len(sampler)),
                workers=workers, pin_memory=device.type != "cpu",
            ):  # fmt: skip
                result.bad += batch["bad"]
                if result.bad and not skip_bad:
                    raise _unreadable(result.bad, done + len(batch["bad"]) + batch["items"], len(dataset))
                done += len(batch["bad"]) + batch["items"]
                if batch["items"]:
                    try:
                        outputs = model(ready(batch, inputs, place), mode)
                    except ValueError as error:  # a pool that does not fit the backbone, say
                        raise ToolboxError(str(error), where="model") from error
                    rows = _rows(outputs, batch["ids"])
                    if found is None:  # a page of it takes memory only once it is written
                        found = np.empty((len(dataset), rows.shape[1]), np.float32)
                    found[len(result.ids) : len(result.ids) + len(rows)] = rows
                    result.ids += batch["ids"]
                    result.indices += batch["indices"]
                progress(done)
    finally:
        model.train(was_training)
    if found is None:
        raise _unreadable(result.bad, done, len(dataset))
    result.embeddings = found[: len(result.ids)]
    return result


def _rows(outputs: dict[str, torch.Tensor], ids: list[int | str]) -> np.ndarray:
    if "embeddings" not in outputs:
        raise ToolboxError(f"This model gives no embeddings, but {', '.join(outputs) or 'nothing'}.", where="model")
    rows = l2_normalize(outputs["embeddings"].float())
    bad = torch.nonzero(~rows.isfinite().all(dim=1))[:, 0].tolist()
    if bad:
        names = ", ".join(str(ids[row]) for row in bad[:3])
        raise ToolboxError(
            f"Embeddings hold NaN or infinity: {names}.", hint="Training diverged: use another checkpoint."
        )
    return rows.cpu().numpy()


def _unreadable(bad: list[tuple[int, str]], done: int, total: int) -> ToolboxError:
    listed = "; ".join(message for _, message in bad[:10]) + (" ..." if len(bad) > 10 else "")
    return ToolboxError(
        f"{len(bad)} of the first {done} items (of {total}) cannot be read: {listed}.",
        hint="Mend or remove the files, or leave them out with --on-bad-item skip.",
    )
