"""What a model makes of images or texts that are only looked at: every item once and in order, bad ones named."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np

from toolbox.base import Batch, Dataset, Model
from toolbox.engine.data.bad_items import AUDIT, find_unreadable, list_messages
from toolbox.engine.data.batch_builder import input_specs
from toolbox.engine.inference import Outputs, gather_in_order, run_over
from toolbox.engine.precision import Precision
from toolbox.errors import ToolboxError
from toolbox.plugin import Device
from toolbox.utils.model_io import Modality, check_reads_alone


@dataclass
class ItemOutputs:
    """Of a batch of images or texts, or of all batches.

    - `rows`: what was made of them, one an item, None where none could be read; `ids`, `indices`: of the rows.
    - `bad`: (index, message) of the items that could not be read.
    """

    rows: Any
    ids: list[int | str]
    indices: list[int]
    bad: list[tuple[int, str]]


def run_over_items(
    model: Model,
    dataset: Dataset,
    device: Device,
    convert: Callable[[Outputs, Batch], Any],
    *,
    precision: Precision,
    mode: str = "predict",
    batch_size: int = 64,
    workers: int = 2,
    skip_bad: bool = False,
    modality: Modality = "image",
    progress: Callable[[int], None] = lambda done: None,
) -> Iterator[ItemOutputs]:
    """A model's outputs of a dataset of images, or of texts, in its order, on the main process; others compute with it.

    - `convert`: makes the rows of outputs and their batch, on the CPU: they travel between processes.
    - `precision`: of the forward pass, as evaluation has it: `toolbox.engine.precision.eval_precision`.
    - `mode`, `batch_size`, `workers`: as of `toolbox.engine.inference.run_over`.
    - `skip_bad`: leave unreadable items out.
    - `modality`: what the model is given of the items, "image" or "text".
    - `progress`: called with the number of items that are done.

    Raises ToolboxError naming all items that cannot be read unless they are left out, and where none is left; and for
    a model that cannot be given that alone.
    """
    check_reads_alone(model, modality)
    inputs = input_specs(model, modality=modality)
    was_training, done = model.training, 0

    def own_pieces() -> Iterator[ItemOutputs | None]:
        for batch, outputs, own in run_over(
            model, dataset, inputs, device, precision, mode=mode, batch_size=batch_size, workers=workers, skip_bad=True
        ):
            if batch.bad and not skip_bad:
                listed, looked = find_unreadable(dataset, dict(batch.bad))
                raise _unreadable(list(listed.items()), looked, len(dataset))
            if not own:
                yield None
                continue
            rows = convert(outputs, batch) if len(batch) and outputs is not None else None
            yield ItemOutputs(rows, list(batch.ids), list(batch.indices), batch.bad)

    model.eval()
    messages: list[tuple[int, str]] = []
    try:
        for piece in gather_in_order(own_pieces()):
            done += len(piece.bad) + len(piece.ids)
            messages += piece.bad
            yield piece
            progress(done)
    finally:
        model.train(was_training)
    if done and len(messages) == done:
        raise _unreadable(messages, done, len(dataset))


def join_outputs(pieces: Iterable[ItemOutputs], most: int) -> ItemOutputs:
    """What `run_over_items` gives, in one: lists of rows as one list, arrays as one array.

    - `most`: how many rows there are at most.

    `rows` is an empty list where there is none, as in all processes but the main one.
    """
    whole = ItemOutputs([], [], [], [])
    array: np.ndarray | None = None
    for piece in pieces:
        if isinstance(piece.rows, np.ndarray):
            if array is None:  # a page of it takes memory only once it is written
                array = np.empty((most, *piece.rows.shape[1:]), piece.rows.dtype)
            array[len(whole.ids) : len(whole.ids) + len(piece.rows)] = piece.rows
        else:
            whole.rows += piece.rows or []
        whole.ids += piece.ids
        whole.indices += piece.indices
        whole.bad += piece.bad
    if array is not None:
        whole.rows = array[: len(whole.ids)]
    return whole


def _unreadable(bad: list[tuple[int, str]], done: int, total: int) -> ToolboxError:
    return ToolboxError(
        f"{len(bad)} of the first {done} items (of {total}) cannot be read: "
        f"{list_messages([message for _, message in bad])}.",
        hint=f"Mend or remove the files, or leave them out with skip_bad=True. {AUDIT}.",
    )
