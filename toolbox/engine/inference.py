"""Run a model over data: the one path of evaluation, embedding, prediction, stored features and the Python API."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import replace
from operator import itemgetter
from typing import TypeVar

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from toolbox.base import Batch, Dataset, get_dist_info
from toolbox.base.functional import gather_integers
from toolbox.engine.data.batch_builder import BatchBuilder, InputSpec
from toolbox.engine.data.batch_plan import EvalBatches
from toolbox.engine.data.loader import batches, ready
from toolbox.engine.data.structures import map_tensors
from toolbox.engine.hooks import out_of_memory
from toolbox.engine.precision import Precision
from toolbox.errors import ToolboxError
from toolbox.feature_cache.feature_store import FeatureStore
from toolbox.plugin import Device
from toolbox.registry import build

T = TypeVar("T")
Outputs = dict[str, Tensor]


def compute_outputs(
    compute: Callable[[Batch], T],
    stream: Iterable[Batch],
    *,
    inputs: dict[str, InputSpec],
    device: Device,
    precision: Precision,
    where: str = "",
    in_step: bool = False,
) -> Iterator[tuple[Batch, T | None]]:
    """What a model makes of each batch of a stream: without gradients, in the given precision.

    - `compute`: calls the model with a batch that is on the device, its inputs finished.
    - `stream`: batches as a loader makes them; `inputs`: how theirs are finished.
    - `where`: the recipe's key of the dataloader, for messages.
    - `in_step`: all processes call the model equally often, as sharded ones must. One whose batch has no item that can
      be read computes another batch instead.

    Yields each batch, on the device, with its outputs; without items it comes as it is, and with outputs only where
    another batch was computed. Raises ToolboxError when memory runs out, and for inputs that do not fit the model.
    """
    place, spare = torch.device(str(device)), None
    for batch in stream:
        if in_step and spare is None:
            spare = _spare_batch(batch)
        taken = batch if len(batch) else spare
        if taken is None:
            yield batch, None
            continue
        with torch.no_grad(), out_of_memory.evaluating(where, taken), precision.autocast():
            taken = ready(taken, inputs, place)
            try:
                outputs = compute(taken)
            except ValueError as error:  # a pool that does not fit the backbone, say
                raise ToolboxError(str(error), where="model") from error
        yield (taken if len(batch) else batch), outputs


def run_over(
    model: nn.Module,
    dataset: Dataset,
    inputs: dict[str, InputSpec],
    device: Device,
    precision: Precision,
    *,
    mode: str = "predict",
    batch_size: int = 64,
    workers: int = 2,
    prefetch: int = 2,
    skip_bad: bool = False,
    stored: Mapping[str, FeatureStore] | None = None,
    where: str = "",
) -> Iterator[tuple[Batch, Outputs | None, bool]]:
    """A model's outputs for every item of a dataset, in its order, without augmentation.

    Several processes take whole batches in turn, so that each batch is computed as by one process.

    - `model`: what to call, in evaluation mode; `inputs`: of `toolbox.engine.data.batch_builder.input_specs`.
    - `mode`: "predict", or "baseline" for the backbone alone, without a head.
    - `batch_size`: items at a time; `workers`: processes that read them, 0 for none; `prefetch`: batches each of them
      reads ahead.
    - `skip_bad`: leave unreadable items out; they are named in `batch.bad`. Else the first batch with any raises.
    - `stored`: features of inputs that are not read.
    - `where`: key of the dataloader, for messages.

    Yields (batch, outputs, is_own) as `compute_outputs` does; a batch that is not its own is computed only to stay in
    step with the other processes, one of which has it.
    """
    sampler = build({"type": "core.Sequential", "batch_size": min(batch_size, len(dataset))}, "sampler")
    sampler.setup(dataset, seed=0)
    fetch = BatchBuilder(dataset, inputs, skip_bad=skip_bad, stored=stored, all_texts=True)
    turns = EvalBatches(sampler)
    # a single batch is read sooner than a process starts
    workers = min(workers, len(turns) - 1) if fetch.live else 0
    stream = batches(fetch, turns, workers=workers, prefetch=prefetch, pin_memory=device.type != "cpu", where=where)
    computed = compute_outputs(
        lambda batch: compute_in_parts(model, batch, mode, batch_size),
        stream,
        inputs=inputs,
        device=device,
        precision=precision,
        where=where,
        in_step=True,
    )
    for (batch, outputs), is_own in zip(computed, turns.own(), strict=True):
        yield batch, outputs, is_own


def compute_in_parts(model: nn.Module, batch: Batch, mode: str, rows: int) -> Outputs:
    """A model's outputs of a batch whose items may have several texts, at most `rows` of which are computed at a time.

    So an evaluation takes no more memory where items have five texts each. A model that cannot be given texts alone
    gets the whole batch. Several processes call the model equally often.
    """
    texts = [name for name in batch.owners if name in batch.inputs]
    if not texts or not getattr(unwrap(model), "reads_modalities_alone", False):
        return model(batch, mode)
    count = max(-(-len(batch.owners[name]) // rows) for name in texts)
    if get_dist_info()[1] > 1:  # all processes read the same inputs, so all come here
        count = max(number for (number,) in gather_integers(count, device=torch.device("cpu")))
    if count < 2:
        return model(batch, mode)
    others = {name: value for name, value in batch.inputs.items() if name not in texts}
    outputs: Outputs = model(replace(batch, inputs=others), mode) if others else {}
    parts = []
    for number in range(count):
        chosen = {name: slice(number * rows, (number + 1) * rows) for name in texts}
        own = all(part.start < len(batch.owners[name]) for name, part in chosen.items())
        if not own:  # computed only to stay in step with processes that have more texts
            chosen = dict.fromkeys(texts, slice(0, rows))
        inputs = {name: map_tensors(batch.inputs[name], itemgetter(chosen[name])) for name in texts}
        found = model(replace(batch, inputs=inputs), mode)
        parts += [found] if own else []
    return outputs | {name: torch.cat([part[name] for part in parts]) for name in parts[0]}


def unwrap(model: nn.Module) -> nn.Module:
    """The model inside DDP's wrapper."""
    return model.module if isinstance(model, DistributedDataParallel) else model


def gather_in_order(pieces: Iterable[T | None]) -> Iterator[T]:
    """Gather what processes have computed in turn, in the order of the data, on the main one; the others get nothing.

    - `pieces`: of each batch of `run_over`, None for one that is not this process's own. Equally many everywhere.
    """
    rank, size = get_dist_info()
    for piece in pieces:
        everyone: list[T | None] = [piece] * size if rank == 0 else []
        if size > 1:
            dist.gather_object(piece, everyone or None, dst=0)
        yield from (gathered for gathered in everyone if gathered is not None)


def _spare_batch(batch: Batch) -> Batch | None:
    """A batch that the model can be called with: this process's own if it has items, else that of another one.

    None in a single process, and where no process has any. Every process calls it with each batch until it gives one,
    which it does for all of them at once.
    """
    rank, processes = get_dist_info()
    if processes == 1:
        return None
    have = [items > 0 for (items,) in gather_integers(len(batch), device=torch.device("cpu"))]
    if not any(have):
        return None
    if all(have):
        return batch
    box = [batch if have.index(True) == rank else None]
    dist.broadcast_object_list(box, src=have.index(True))
    return batch if len(batch) else box[0]
