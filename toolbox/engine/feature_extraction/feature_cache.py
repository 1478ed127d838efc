"""The stored features of a run: found on disk, or computed once, for each dataset that it reads."""

from __future__ import annotations

import time
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from toolbox.base import Augment, Dataset, Model
from toolbox.engine.assemble import build_augment
from toolbox.engine.console import Console
from toolbox.engine.data.bad_items import unreadable_error
from toolbox.engine.data.batch_builder import input_specs, select_inputs
from toolbox.engine.data.texts import describe_cut
from toolbox.engine.device import random_state, set_random_state
from toolbox.engine.distributed.context import SINGLE_PROCESS, DistributedContext
from toolbox.engine.evaluation.evaluator import Evaluator, check_bad
from toolbox.engine.feature_extraction.cacheable import list_cacheable
from toolbox.engine.feature_extraction.extraction import Job, compute
from toolbox.engine.feature_extraction.verification import check_some
from toolbox.engine.precision import Precision
from toolbox.errors import ToolboxError
from toolbox.feature_cache.feature_store import FeatureStore
from toolbox.feature_cache.inventory import list_stores
from toolbox.feature_cache.key import describe_data, describe_tower, digest, digest_item_files, plain
from toolbox.feature_cache.reuse import ReusableItems
from toolbox.feature_cache.shards import Shard, ShardLayout
from toolbox.feature_cache.writer import Writer, read_manifest
from toolbox.plugin import Device
from toolbox.utils.key_paths import find_differences

READ_AGAIN = 4 * 2**30
"""Bytes up to which a store that is found is compared with its checksums before it is used; larger ones by --verify."""


class FeatureCache:
    """Stores by dataset.

    - `recipe`: with `features`; `model`: of it, its weights in place, on its device, not yet spread over processes.
    - `precision`: of what training reads; `eval_precision`: of what is judged or learned from, None for the same.
    - `distributed`: the processes that compute, each its share of the shards; all must make the same calls.
    - `mend`: read every number of what is found, and compute again what is damaged or could not be read.
    """

    def __init__(
        self,
        recipe: dict[str, Any],
        model: Model,
        device: Device,
        precision: Precision,
        *,
        eval_precision: Precision | None = None,
        distributed: DistributedContext = SINGLE_PROCESS,
        console: Console | None = None,
        mend: bool = False,
    ) -> None:
        self.settings, self.seed = recipe["features"], recipe["randomness"]["seed"]
        self.model, self.device = model, device
        self.precisions = {True: precision, False: eval_precision or precision}  # of training, and of judging
        self.distributed, self.console, self.mend = distributed, console or Console(), mend
        self.root = Path(self.settings["folder"]).expanduser()
        self.inputs, self.towers = input_specs(model, training=True), list_cacheable(model)
        self.computed = self.found = 0
        self.folders: list[Path] = []
        self._stores: dict[tuple[str, bool], dict[str, FeatureStore]] = {}
        self._opened: dict[str, FeatureStore] = {}
        self._told: set[str] = set()
        try:
            self._of = {
                name: describe_tower(
                    tower,
                    self.inputs[name].preprocess,
                    input=name,
                    dtype=self.settings["dtype"],
                    precision=precision.name,
                )
                for name, tower in self.towers.items()
            }
        except ValueError as error:
            raise ToolboxError(str(error), where="features", hint="Remove features.") from error

    def fill(self, training: Dataset | None, loader: dict[str, Any], targets: list[Evaluator]) -> None:
        """Find or compute all that a run reads: its training data, and what is judged or learned from.

        - `loader`: the recipe's train_dataloader.
        """
        if training is not None:
            self.add("train", training, loader, training=True)
            if any(target.learning for target in targets):
                self.add("train", training, loader)
        for target in targets:
            self.add(target.name, target.dataset, target.loader)

    def add(self, name: str, dataset: Dataset, loader: dict[str, Any], *, training: bool = False) -> None:
        """Find or compute the features of a dataset.

        - `name`: "train", "val" or "test"; `loader`: its dataloader in the recipe.
        - `training`: as training reads it: augmented, and also for towers that only training has.

        Raises ToolboxError where they cannot be had, or where what is stored is not what the model gives now.
        """
        if self._key(loader, training) in self._stores:
            return
        augment = build_augment(loader.get("augment")) if training else None
        read = self.inputs
        if not training:  # a dual encoder is evaluated on images without texts, too
            alone = self.model.reads_modalities_alone
            read = select_inputs(self.inputs, dataset, reads_modalities_alone=alone)
        names = [one for one in self.towers if training or (one in read and one not in self.model.training_only)]
        state, was_training = random_state(self.device), self.model.training
        self.model.eval()
        try:
            self._stores[self._key(loader, training)] = {
                one: self._store(
                    self._job(one, dataset, loader, f"{name}_dataloader", augment, self.precisions[training])
                )
                for one in names
            }
        finally:
            self.model.train(was_training)
            set_random_state(self.device, state)  # a run is the same whether its features were there or not

    def of(self, loader: dict[str, Any], *, training: bool = False) -> dict[str, FeatureStore]:
        """The stores of a dataset that was added, by input."""
        return self._stores[self._key(loader, training)]

    def results(self) -> dict[str, Any]:
        """What train_results.json tells of it."""
        folders = [str(folder) for folder in dict.fromkeys(self.folders)]
        return {"computed": self.computed, "found": self.found, "folders": folders}

    def _key(self, loader: dict[str, Any], training: bool) -> tuple[str, bool]:
        return digest(plain(loader["dataset"])), training

    def _job(
        self,
        name: str,
        dataset: Dataset,
        loader: dict[str, Any],
        where: str,
        augment: Augment | dict[str, Augment] | None,
        precision: Precision,
    ) -> Job:
        stream = 0
        if isinstance(augment, dict):
            augment, stream = augment.get(name), sorted(self.inputs).index(name)
        job = Job(name, self.towers[name], self.inputs[name], dataset, loader, where, self.device, precision)
        if augment is None or self.inputs[name].preprocess.size is None:
            return job
        return replace(
            job,
            augment=augment,
            stream=stream,
            seed=self.seed,
            calls=self.settings["views"] or 1,
            copies=getattr(augment, "views", 1),
        )

    def _store(self, job: Job) -> FeatureStore:
        try:
            of = (
                self._of[job.name]
                | {"precision": job.precision.name}
                | describe_data(
                    job.dataset, job.loader["dataset"], job.augment, views=job.calls, seed=job.seed, stream=job.stream
                )
            )
        except ValueError as error:
            raise ToolboxError(str(error), where=job.where, hint="Remove features.") from error
        key = digest(of)
        if len(set(self.distributed.all_gather(key))) > 1:
            raise ToolboxError(
                "The processes see other files or weights than each other.",
                where=job.where,
                hint="All processes need the same data, with the same times of change.",
            )
        if key in self._opened:  # training and a metric that learns from it may read the same
            return self._opened[key]
        pool, backbone = job.tower.pool, job.tower.backbone
        rows = None if job.source.field == "text" else job.calls * job.copies
        layout = ShardLayout(len(job.dataset), rows, pool.dim(backbone.dim), self.settings["dtype"])
        folder = self.root / f"{type(job.dataset).__name__}-{job.name}-{key[:16]}"
        writer, started = Writer(folder, of, layout), time.perf_counter()
        with ExitStack() as alone:
            missing = self.distributed.run_on_main(lambda: self._open(writer, job, alone))
            known = None
            if missing:  # else no file is looked at twice
                job = replace(job, files=digest_item_files(job.dataset))
                known = ReusableItems(self.root, of, layout, job.files)  # each process may see others
                self._compute(job, writer, missing, known)
                self.distributed.barrier()
            self.distributed.run_on_main(lambda: self._finish(writer, job, missing))
        store = FeatureStore(folder)
        check_bad(len(store.unreadable), job.dataset, job.loader, job.where.removesuffix("_dataloader"))
        if store.unreadable and job.loader.get("on_bad_item", "raise") == "raise":
            hint = f"Mend the files and remove {folder}, or set on_bad_item='skip' in the dataloader."
            bad = list(store.unreadable.items())
            raise unreadable_error(job.dataset, bad, where=job.where, hint=hint, looked=len(job.dataset))
        if self.distributed.run_on_main(lambda: len(known or ())) or len(missing) < len(layout.shards()):
            self.distributed.run_on_main(lambda: check_some(store, job))
        computed = _count_unknown(missing, known) if known is not None else 0
        self._tell(store, job, computed, time.perf_counter() - started)
        self._opened[key] = store
        return store

    def _open(self, writer: Writer, job: Job, alone: ExitStack) -> list[Shard]:
        """What is to be computed; the store is this run's own then, until `alone` ends."""
        checksum = self.mend or writer.layout.bytes() <= READ_AGAIN
        missing = writer.missing(checksum=checksum, unreadable=self.mend)
        if not missing and read_manifest(writer.folder) is not None:
            return []
        if not writer.folder.exists():
            self._tell_nearest(writer)
        alone.enter_context(
            writer.alone(
                lambda: self.console.info(f"Another run stores features in {writer.folder}: waiting for it."),
                self.console.warn,
            )
        )
        missing = writer.missing(checksum=checksum, unreadable=self.mend)
        writer.clean(missing)
        if missing:
            writer.begin(self._describe(job))
        if missing and len(missing) < len(writer.layout.shards()):
            whole = len(writer.layout.shards()) - len(missing)
            total = whole + len(missing)
            self.console.info(f"{writer.folder} holds {whole} of {total} parts; the others are computed now.")
        return missing

    def _compute(self, job: Job, writer: Writer, missing: list[Shard], known: ReusableItems) -> None:
        own = missing[self.distributed.rank :: self.distributed.world_size]
        total = _count_unknown(missing, known)
        name = f"Features of {job.where.removesuffix('_dataloader')} ({job.name})"
        if known:
            folders = ", ".join(map(str, known.folders))
            self.console.info(f"{name}: {len(known):,} of {len(job.dataset):,} items are stored in {folders} already.")
        try:  # of several processes the main one speaks for all
            cut = compute(
                job,
                writer,
                own,
                known,
                lambda done: self.console.reach(name, min(done * self.distributed.world_size, total), total),
            )
        finally:
            self.console.stop()
        cut = sum(count for (count,) in self.distributed.all_gather_ints(cut))
        if cut:
            self.console.warn(
                describe_cut(cut, f"among those of {job.where.removesuffix('_dataloader')} that are stored")
            )

    def _finish(self, writer: Writer, job: Job, missing: list[Shard]) -> None:
        if missing or read_manifest(writer.folder) is None:
            writer.finish(self._describe(job))

    def _describe(self, job: Job) -> dict[str, Any]:
        """What a store tells its readers of its making."""
        made_of = {"weights": job.tower.backbone.weights_id, "dataset": plain(job.loader["dataset"])}
        made_by = {"torch": torch.__version__, "device": self.device.type}
        return {"calls": job.calls, "made_of": made_of, "made_by": made_by}

    def _tell(self, store: FeatureStore, job: Job, new: int, seconds: float) -> None:
        """Count items, and say what was computed and what was there."""
        old, layout = len(store) - new, store.layout
        self.computed, self.found = self.computed + new, self.found + old
        self.folders.append(store.folder)
        views = f" x {layout.views} views" if layout.views and layout.views > 1 else ""
        if store.row_counts is not None:
            views = f" with {store.row_counts.sum():,} texts"
        bad = f", {len(store.unreadable)} unreadable items left out" if store.unreadable else ""
        what = job.where.removesuffix("_dataloader") + (f" ({job.name})" if len(self.towers) > 1 else "")
        size = f"{len(store):,} items{views} x {layout.width} numbers, {layout.dtype}, {store.bytes / 2**20:,.1f} MiB"
        self.console.info(
            f"Features of {what}: {new:,} computed, {old:,} found{bad}, in {seconds:.1f} s ({size}, {store.folder})"
        )

    def _tell_nearest(self, writer: Writer) -> None:
        """In what the nearest store of these data differs: why it is not used."""
        prefix, found = writer.folder.name.rpartition("-")[0], []
        for store in list_stores(self.root):
            if store.manifest is None or store.folder.name.rpartition("-")[0] != prefix:
                continue
            different = find_differences(store.manifest["of"], writer.of)
            if different and not any(name.startswith("dataset.arguments") for name in different):
                found.append((different, store.folder))
        if found:
            different, folder = min(found, key=lambda one: len(one[0]))
            shown = ", ".join(different[:5]) + (" ..." if len(different) > 5 else "")
            if shown in self._told:
                return
            self._told.add(shown)
            self.console.info(f"{folder} is of other features, which differ in {shown}: it is not used.")


def _count_unknown(shards: list[Shard], known: ReusableItems) -> int:
    """How many items of some shards no older store holds."""
    return sum(index not in known.places for shard in shards for index in range(shard.first, shard.stop))
