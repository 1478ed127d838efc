"""Run a model over pictures that are only looked at: batched, read by worker processes."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from toolbox.base import Batch, Dataset, Model
from toolbox.engine.precision import Precision
from toolbox.engine.reading.bad_items import AUDIT, find_unreadable, list_messages
from toolbox.engine.reading.batches import batches, ready
from toolbox.engine.reading.draws import Draws
from toolbox.engine.reading.fetch import Fetch, inputs_of
from toolbox.errors import ToolboxError
from toolbox.plugin import Device
from toolbox.registry import build
from toolbox.utils.model_io import check_reads_images


def run_over(
    model: Model, dataset: Dataset, device: Device, take: Callable[[dict[str, Tensor], Batch], None], *,
    precision: Precision, mode: str = "predict", batch_size: int = 64, workers: int = 2, skip_bad: bool = False,
    progress: Callable[[int], None] = lambda done: None,
) -> list[tuple[int, str]]:  # fmt: skip
    """Give `take` the model's outputs of every batch of a dataset, in its order, without augmentation.

    - `precision`: of the forward pass, as evaluation has it: `toolbox.engine.precision.eval_precision`.
    - `mode`: "predict", or "baseline" for the backbone alone, without the head.
    - `batch_size`: items at a time; `workers`: processes that read them, 0 for none.
    - `skip_bad`: leave unreadable items out.
    - `progress`: called with the number of items that are done.

    Returns (index, message) of the items that could not be read. Raises ToolboxError naming all of them
    unless they are left out, and where none is left; and for a model that reads more than images.
    """
    inputs, place = inputs_of(model), torch.device(str(device))
    check_reads_images(model)
    sampler = build({"type": "core.Sequential", "batch_size": min(batch_size, len(dataset))}, "sampler")
    sampler.setup(dataset, seed=0)
    workers = min(workers, len(sampler) - 1)  # a single batch is read sooner than a process starts
    bad: list[tuple[int, str]] = []
    was_training, done = model.training, 0
    model.eval()
    try:
        with torch.inference_mode():
            for batch in batches(
                Fetch(dataset, inputs, skip_bad=True), Draws(sampler, 0, len(sampler)),
                workers=workers, pin_memory=device.type != "cpu",
            ):  # fmt: skip
                bad += batch["bad"]
                if bad and not skip_bad:
                    found, looked = find_unreadable(dataset, dict(bad))
                    raise _unreadable(list(found.items()), looked, len(dataset))
                done += len(batch["bad"]) + batch["items"]
                if batch["items"]:
                    try:
                        with precision.autocast():
                            outputs = model(ready(batch, inputs, place), mode)
                    except ValueError as error:  # a pool that does not fit the backbone, say
                        raise ToolboxError(str(error), where="model") from error
                    take(outputs, batch)
                progress(done)
    finally:
        model.train(was_training)
    if len(bad) == done:
        raise _unreadable(bad, done, len(dataset))
    return bad


def _unreadable(bad: list[tuple[int, str]], done: int, total: int) -> ToolboxError:
    return ToolboxError(
        f"{len(bad)} of the first {done} items (of {total}) cannot be read: "
        f"{list_messages([message for _, message in bad])}.",
        hint=f"Mend or remove the files, or leave them out with skip_bad=True. {AUDIT}.",
    )
