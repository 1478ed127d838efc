"""Compute the features of a dataset with a frozen tower, through the loader that training and evaluation use."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from toolbox.base import Augment, Batch, Dataset, PooledBackbone
from toolbox.engine.data.batch_builder import BatchBuilder, InputSpec
from toolbox.engine.data.loader import batches
from toolbox.engine.inference import compute_outputs
from toolbox.engine.precision import Precision
from toolbox.errors import ToolboxError
from toolbox.feature_cache.reuse import ReusableItem, ReusableItems
from toolbox.feature_cache.shards import Shard, ShardLayout
from toolbox.feature_cache.views import get_draw
from toolbox.feature_cache.writer import Writer
from toolbox.plugin import Device


@dataclass
class Job:
    """What to compute, and how.

    - `name`: the input that the tower reads; `source`: its conversion.
    - `augment`, `stream`, `seed`: of random views, of which each item gets `calls`, `copies` images each.
    - `loader`: the recipe's dataloader, `where` its key: workers, batch size, and what becomes of unreadable items.
    - `files`: digest of each item's file, None where items are not files.
    """

    name: str
    tower: PooledBackbone
    source: InputSpec
    dataset: Dataset
    loader: dict[str, Any]
    where: str
    device: Device
    precision: Precision
    augment: Augment | None = None
    stream: int = 0
    seed: int = 0
    calls: int = 1
    copies: int = 1
    files: list[str] | None = None

    @property
    def batch_size(self) -> int:
        """Items at a time: what the recipe's batches hold, and no more than 64 images."""
        return max(1, min(self.loader.get("batch_size") or 64, 64) // (self.calls * self.copies))

    def fetch(self, *, skip_bad: bool) -> BatchBuilder:
        """Reads batches of this input alone."""
        return BatchBuilder(
            self.dataset,
            {self.name: self.source},
            augment={self.name: self.augment} if self.augment else None,
            seed=self.seed,
            skip_bad=skip_bad,
            streams={self.name: self.stream},
            all_texts=True,
        )

    def draws(self, indices: Sequence[int]) -> list[tuple[int, int]]:
        """Of some items, an item's views one after another."""
        return [(get_draw(i, view, len(self.dataset)), i) for i in indices for view in range(self.calls)]

    def features(self, stream: Iterable[Batch]) -> Iterator[tuple[Batch, Sequence[Tensor] | None]]:
        """Each batch with the features of each of its draws, (rows, width) float32 on the CPU; None without an item.

        - `stream`: batches as the loader makes them.
        """
        for batch, rows in compute_outputs(
            lambda batch: self.tower(batch.inputs[self.name]),
            stream,
            inputs={self.name: self.source},
            device=self.device,
            precision=self.precision,
            where=self.where,
        ):
            yield batch, None if rows is None else self._by_draw(rows, batch)

    def _by_draw(self, rows: Tensor, batch: Batch) -> Sequence[Tensor]:
        items, images, owners = len(batch), batch.views[self.name], batch.owners.get(self.name)
        count = items * images if owners is None else len(owners)
        if images != self.copies or rows.ndim != 2 or len(rows) != count:
            raise ToolboxError(
                f"The tower '{self.name}' gives {tuple(rows.shape)} for {items} items with {count} views or texts, and "
                "a store holds one vector for each.",
                where="features",
                hint="Give every item as many views, and let the pool give one vector.",
            )
        rows = rows.float().cpu()
        if owners is not None:
            return rows.split(owners.cpu().bincount(minlength=items).tolist())
        return list(rows.view(images, items, -1).transpose(0, 1))


class _Pieces:
    """The draws of the unknown items of some shards, in batches that end where a shard does."""

    def __init__(self, job: Job, shards: list[Shard], known: ReusableItems) -> None:
        self.start, self.job = 0, job
        self.of_shard: dict[Shard, list[Sequence[int]]] = {}
        for shard in shards:
            unknown = [index for index in range(shard.first, shard.stop) if index not in known.places]
            starts = range(0, len(unknown), job.batch_size)
            self.of_shard[shard] = [unknown[start : start + job.batch_size] for start in starts]

    def __iter__(self) -> Iterator[list[tuple[int, int]]]:
        return (self.job.draws(piece) for pieces in self.of_shard.values() for piece in pieces)

    def __len__(self) -> int:
        return sum(map(len, self.of_shard.values()))


def compute(
    job: Job,
    writer: Writer,
    shards: list[Shard],
    known: ReusableItems,
    progress: Callable[[int], None] = lambda done: None,
) -> int:
    """Compute and write shards; returns how many texts were cut. What is written stays, whatever ends this early.

    - `known`: the items whose rows are taken from older stores.
    - `progress`: called with the number of items that are computed.

    Raises ToolboxError at an item that cannot be read, unless the dataloader's `on_bad_item` is 'skip'.
    """
    plan, done, cut = _Pieces(job, shards, known), 0, 0
    stream = batches(
        job.fetch(skip_bad=job.loader.get("on_bad_item", "raise") == "skip"),
        plan,
        workers=min(job.loader.get("num_workers", 2), max(0, len(plan) - 1)),
        prefetch=job.loader.get("prefetch_factor", 2),
        pin_memory=job.device.type != "cpu",
        where=job.where,
    )
    computed = job.features(stream)
    try:
        for shard in shards:
            contents = _ShardContents(shard, writer.layout, job)
            contents.keep(known.read(range(shard.first, shard.stop)))
            for piece in plan.of_shard[shard]:
                batch, rows = next(computed)
                contents.add(batch, rows)
                cut += sum(batch.cut.values())
                done += len(piece)
                progress(done)
            writer.write(shard, contents.rows, contents.record)
    finally:
        stream.close()
    return cut


class _ShardContents:
    """A shard under way."""

    def __init__(self, shard: Shard, layout: ShardLayout, job: Job) -> None:
        items = shard.stop - shard.first
        self.shard, self.job, self.width = shard, job, layout.width
        self._rows = [torch.zeros(layout.views or 0, layout.width)] * items  # of unreadable items these stay
        self.record: dict[str, Any] = {name: [None] * items for name in ("ids", "labels", "roles")}
        if layout.views is None:
            self.record["texts"] = [[] for _ in range(items)]
        self.record["files"] = job.files and job.files[shard.first : shard.stop]
        self.record["unreadable"] = {}

    @property
    def rows(self) -> Tensor:
        """(rows, width) float32, those of an item one after another."""
        return torch.cat(self._rows)

    def keep(self, known: dict[int, ReusableItem]) -> None:
        """Take in items that are stored elsewhere; their labels are those of the dataset today."""
        labels = self.job.dataset.labels
        for index, item in known.items():
            row = index - self.shard.first
            self._rows[row] = item.rows.float()
            self.record["ids"][row] = item.id
            self.record["labels"][row] = None if labels is None else _json(labels[index])

    def add(self, batch: Batch, rows: Sequence[Tensor] | None) -> None:
        """Take in the items of a batch; `rows`: the features of each, None where it has none."""
        bad = self.record["unreadable"]
        bad |= {str(index): message for index, message in batch.bad}
        if rows is None:
            return
        if rows[0].shape[-1] != self.width:
            raise ToolboxError(
                f"The pool of '{self.job.name}' gives {rows[0].shape[-1]} numbers and promised {self.width}.",
                where="features",
                hint="Its dim() must be the width of what forward() returns.",
            )
        nothing: list[None] = [None] * len(batch)
        labels = nothing if batch.labels is None else batch.labels.tolist()
        roles = batch.roles or nothing
        places: dict[int, list[int]] = {}
        for place, index in enumerate(batch.indices):
            places.setdefault(index, []).append(place)
        for index, rows_of_item in places.items():
            if str(index) in bad:  # one of its views failed
                continue
            here = index - self.shard.first
            self._rows[here] = torch.cat([rows[place] for place in rows_of_item])
            if "texts" in self.record:
                digests, owners = batch.texts[self.job.name], batch.owners[self.job.name]
                self.record["texts"][here] = digests[owners == rows_of_item[0]].tolist()
            for name, values in (("ids", batch.ids), ("labels", labels), ("roles", roles)):
                self.record[name][here] = _json(values[rows_of_item[0]])


def _json(value: Any) -> Any:
    value = value.item() if hasattr(value, "item") else value
    if value is None or isinstance(value, bool | int | float | str | list):
        return value
    raise ToolboxError(
        f"An id, label or role of type {type(value).__name__} cannot be stored.",
        where="features",
        hint="Samples hold ids that are int or str, and labels that are numbers.",
    )
