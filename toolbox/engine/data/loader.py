"""Batches in a plan's order, made by worker processes, from any batch of the run on; and on their way to the model."""

from __future__ import annotations

import signal
import warnings
from collections.abc import Callable, Generator, Mapping
from dataclasses import replace
from functools import partial
from typing import Any

import torch
from PIL import Image
from torch.utils.data import DataLoader

from toolbox.base import Batch, Dataset, Sampler
from toolbox.engine.assemble import build_augment, build_mix
from toolbox.engine.data.batch_builder import BatchBuilder, InputSpec
from toolbox.engine.data.batch_plan import BatchPlan, TrainBatches
from toolbox.engine.data.mixing import together
from toolbox.engine.data.structures import map_tensors
from toolbox.engine.data.workers import WorkerMonitor
from toolbox.engine.settings import Settings
from toolbox.feature_cache.feature_store import FeatureStore


def _start_worker(max_pixels: int | None, _: int) -> None:
    Image.MAX_IMAGE_PIXELS = max_pixels  # a process that is not forked would have the default
    for signum in (signal.SIGINT, signal.SIGTERM):
        signal.signal(signum, signal.SIG_IGN)  # they reach the main process too, which stops at a step


class _Pinnable:
    """A batch on its way through torch's loader, which would rewrite structures that it pins itself."""

    def __init__(self, batch: Any) -> None:
        self.batch = batch

    def pin_memory(self) -> _Pinnable:
        """Called by the loader, in its thread."""
        self.batch = map_tensors(self.batch, lambda tensor: tensor.pin_memory())
        return self


def batches(
    fetch: BatchBuilder,
    plan: BatchPlan,
    *,
    workers: int,
    prefetch: int = 2,
    pin_memory: bool = False,
    where: str = "train_dataloader",
    log: Callable[[str], None] | None = None,
) -> Generator[Batch, None, None]:
    """Batches in the plan's order.

    - `where`: the recipe's key of this dataloader, for messages.
    - `log`: gets a warning every minute that a batch is awaited; default: standard error.

    Raises ToolboxError at an unreadable item under the policy 'raise', and when a worker dies.
    """
    # the run says itself when there are more workers than cores
    warnings.filterwarnings("ignore", message="This DataLoader will create")
    watch = WorkerMonitor(plan, workers, dataset=type(fetch.dataset).__name__, where=where, log=log)
    fetch.board = watch.board
    loader = DataLoader(
        fetch,
        batch_size=None,
        sampler=watch,
        num_workers=workers,
        prefetch_factor=prefetch if workers else None,
        collate_fn=_Pinnable,  # torch's own turns tuples into lists, and arrays into tensors
        pin_memory=pin_memory,
        generator=torch.Generator().manual_seed(0),
        worker_init_fn=partial(_start_worker, Image.MAX_IMAGE_PIXELS),
    )
    stream = None
    try:
        with watch.starting():
            stream = iter(loader)
        for _ in range(len(plan)):
            with watch.awaiting():
                batch = next(stream).batch
            yield fetch.require_batch(batch, where)
    finally:
        watch.close(stream)


def training_batches(
    settings: Settings,
    dataset: Dataset,
    sampler: Sampler,
    inputs: dict[str, InputSpec],
    *,
    first: int,
    last: int,
    pin_memory: bool,
    log: Callable[[str], None] | None = None,
    stored: Mapping[str, FeatureStore] | None = None,
) -> Generator[Batch, None, None]:
    """The training batches from number `first` until before `last`, as a recipe's train_dataloader says."""
    fetch = BatchBuilder(
        dataset,
        inputs,
        augment=build_augment(settings("train_dataloader.augment")),
        seed=settings("randomness.seed"),
        blocks=sampler.blocks,
        skip_bad=settings("train_dataloader.on_bad_item") == "skip",
        stored=stored,
        mix=build_mix(settings("train_dataloader.mix")),
    )
    plan = TrainBatches(sampler, first, last, together(settings("train_dataloader")))
    return batches(
        fetch,
        plan,
        workers=settings("train_dataloader.num_workers") if fetch.live else 0,
        prefetch=settings("train_dataloader.prefetch_factor"),
        pin_memory=pin_memory,
        log=log,
    )


def ready(batch: Batch, inputs: dict[str, InputSpec], device: torch.device) -> Batch:
    """A batch as the model takes it: on the device, its inputs finished there."""
    batch = to_device(batch, device)
    finished = {
        name: value if name in batch.stored else inputs[name].preprocess.finish(value)
        for name, value in batch.inputs.items()
    }
    return replace(batch, inputs=finished)  # the batch that was given stays as it is


def to_device(value: Any, device: torch.device) -> Any:
    """Move the tensors of a nested batch, without waiting where memory is pinned; the structure stays as it is."""
    return map_tensors(value, lambda tensor: tensor.to(device, non_blocking=True))
