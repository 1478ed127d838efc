"""What a run consists of before its first step: model, data, update rule, and what a checkpoint gives back."""

from __future__ import annotations

import json
from collections.abc import Generator, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import torch

from toolbox.base import Batch, Dataset, Hook, ReportItem, Sampler
from toolbox.engine import quantizing, speed
from toolbox.engine import resume as resuming
from toolbox.engine.assemble import build_model, kept_norms
from toolbox.engine.checkpoint import checkpoint as checkpoints
from toolbox.engine.checkpoint import loading, run_folder
from toolbox.engine.checkpoint.files import as_json, sha256_of
from toolbox.engine.classes import class_names
from toolbox.engine.console import Console, NullConsole
from toolbox.engine.data.bad_items import BadItems
from toolbox.engine.data.batch_builder import input_specs
from toolbox.engine.data.batch_plan import share
from toolbox.engine.data.few_images import few_images
from toolbox.engine.data.mixing import together
from toolbox.engine.device import choose_device, random_state, seed_everything, set_threads
from toolbox.engine.distributed.context import SINGLE_PROCESS, DistributedContext, check_same
from toolbox.engine.distributed.parallel import problems, spread
from toolbox.engine.distributed.tensors import are_sharded
from toolbox.engine.evaluation.evaluator import Evaluator
from toolbox.engine.feature_extraction.feature_cache import FeatureCache
from toolbox.engine.grad_cache import GradCache
from toolbox.engine.hooks.average import WeightAverage
from toolbox.engine.length import RunLength
from toolbox.engine.norm_statistics import NormStatistics
from toolbox.engine.param_groups import parameter_groups
from toolbox.engine.parts import backbones, frozen_identity, random_and_frozen
from toolbox.engine.precision import Precision, eval_precision
from toolbox.engine.settings import Settings
from toolbox.engine.signals import StopSignal
from toolbox.engine.train_step import TrainStep
from toolbox.engine.trained_items import TrainedItems, items_of, sentence, unknown
from toolbox.errors import ToolboxError
from toolbox.registry import build, provenance


class Prepared:
    """A run that is ready to begin.

    - `recipe`: a validated, complete recipe of plain dicts.
    - `work_dir`: the run's folder; `source`: the recipe as Python text for its config.py.
    - `overridden`: the keys that overrides have set, which a resumed run keeps.
    - `resume`: continue from a checkpoint: True for the newest whole one in `work_dir`, or a path.
    - `overwrite`: replace a run that `work_dir` holds.
    - `console`: where messages go.
    - `distributed`: the processes of the run, of which this is one.
    - `idle`: whether some trained parameters may get no gradient.
    """

    def __init__(
        self,
        recipe: dict[str, Any],
        work_dir: Path,
        *,
        source: str = "",
        resume: bool | str = False,
        overwrite: bool = False,
        console: Console | None = None,
        distributed: DistributedContext = SINGLE_PROCESS,
        idle: bool = False,
        overridden: Sequence[str] = (),
    ) -> None:
        self.overridden = overridden
        self.config, self.work_dir, self.source = recipe, work_dir, source
        self.distributed, self.is_main, self._idle = distributed, distributed.is_main, idle
        self.console = (console or Console()) if distributed.is_main else NullConsole()
        self.settings = Settings(recipe)
        self.device = choose_device(self.settings("env_cfg.device"), distributed.rank_info)
        self.threads = set_threads(self.settings("env_cfg.threads"), distributed.rank_info.local_world_size)
        self.plugins = provenance(self.settings.namespaces())
        self.metrics: dict[str, float] = {}
        self.progress: dict[str, Any] = {
            "seconds": 0.0,
            "data_wait_seconds": 0.0,
            "items": 0,
            "pixels": None,
            "before": None,
            "best": None,
            "validated": 0,
            "stopped": None,
            "lines": 0,
        }
        self._curves: list[ReportItem] = []
        self._stream: Generator[Batch, None, None] | None = None
        self._signal = StopSignal()
        self._asked: int | None = None  # the signal that the processes have agreed to follow
        self._estimated: int | None = None  # the step whose averages have statistics of their own
        self._overwrite, self._warned, self._ended = overwrite, False, False
        self._remarks: set[str] = set()
        distributed.start(self.device)
        self._lock = run_folder.lock(work_dir, self.console.warn) if self.is_main else None
        try:
            self._from = resuming.open_together(work_dir, resume, overwrite, self.console, distributed)
            if self._from is not None:  # a new run has no train.log yet
                self.console.log_file = work_dir / "train.log"
            self._build_model()
            self._build_training()
            self.step = 0
            if not self.is_main:  # what a model draws for other rows is other numbers
                seed_everything(self.settings("randomness.seed") + 1_000_003 * distributed.rank)
            self._random = random_state(self.device)
            if self._from is not None:
                self._restore(self._from)
        except BaseException:
            self._unlock()
            raise

    # ---- set up

    def _build_model(self) -> None:
        recipe, settings = self.config, self.settings
        where = "train_dataloader.dataset"
        self.dataset: Dataset = build(settings(where), "dataset", where=where)
        self.class_names = class_names(self.dataset)
        self.classes = None if self.class_names is None else len(self.class_names)
        self._check_same()
        if self._from is not None:
            resuming.check_classes(self._from, self.class_names)
        start = self._from or resuming.start_of(recipe, self.work_dir, self._overwrite)
        images = partial(few_images, self.dataset) if self._from is None and self.is_main else None
        self.model = build_model(
            recipe, seed=settings("randomness.seed"), classes=self.classes, checkpoint=start, images=images
        )
        found = {path: one.quantized for path, one in backbones(self.model).items() if one.quantized is not None}
        self.progress["quantization"] = found or None
        for path, one in found.items():
            self.console.info(quantizing.sentence(path, one))
        for path in random_and_frozen(self.model) if start is None else ():
            self.console.warn(
                f"model.{path} is frozen with random weights, which have learned nothing: give it weights or load_from."
            )
        if start is not None and start.parts:
            self.console.info(f"load_from {start.path}: {loading.compare(self.model, start).summary()}.")
        self.frozen = frozen_identity(self.model)
        self.torch_device = torch.device(str(self.device))
        speed.prepare(self.model, settings("env_cfg"), self.torch_device)
        self.precision = Precision(settings("optim_wrapper.precision"), self.device)
        self.eval_precision = eval_precision(recipe, self.device)
        self.inputs = input_specs(self.model)
        self.training_inputs = input_specs(self.model, training=True)
        self.val, self.test = self._eval_set("val"), self._eval_set("test")
        self._look_for_trained_items(start)
        if self.val is not None and self.test is not None:
            self.test.share(self.val.shared)
        self.feature_cache = self._fill_shelf() if recipe.get("features") else None
        self.parallel = spread(
            self.model, self.distributed, settings("env_cfg.parallel"), self.device, self.precision, idle=self._idle
        )

    def _look_for_trained_items(self, start: checkpoints.Checkpoint | None) -> None:
        """Count the items of the validation and test set that this run, or what it starts from, is trained on."""
        targets = [target for target in (self.val, self.test) if target is not None]

        def count() -> list[int]:
            self.trained_items = items_of(self.dataset)
            before = None if start is None else start.trained_items()
            if before is not None:
                self.trained_items |= before
            elif start is not None and any(target.dataset.identities() is not None for target in targets):
                self.console.warn(unknown(start.path))
            return [self.trained_items.count_in(target.dataset) for target in targets]

        self.trained_items: TrainedItems | None = None  # the main process has them
        for target, found in zip(targets, self.distributed.run_on_main(count), strict=True):
            target.training_data, target.trained_items = self.dataset, found
            if found:
                self.console.warn(sentence(found, len(target.dataset), target.name))

    def _fill_shelf(self) -> FeatureCache:
        """Features of all that the run will read; computed by the model as one process has it."""
        self.model.to(self.torch_device)
        feature_cache = FeatureCache(
            self.config,
            self.model,
            self.device,
            self.precision,
            eval_precision=self.eval_precision,
            distributed=self.distributed,
            console=self.console,
        )
        targets = [target for target in (self.val, self.test) if target is not None]
        feature_cache.fill(self.dataset, self.settings("train_dataloader"), targets)
        return feature_cache

    def _build_training(self) -> None:
        recipe, settings = self.config, self.settings
        self.sampler: Sampler = build(settings.sampler(), "sampler", where="train_dataloader.sampler")
        try:
            self.sampler.setup(self.dataset, settings("randomness.seed"))
        except ValueError as error:
            raise ToolboxError(str(error), where="train_dataloader.sampler") from error
        self._check_shares()
        self.length = RunLength(settings, len(self.sampler))
        self.steps, self.steps_per_epoch = self.length.steps, self.length.steps_per_epoch
        optimizer = build(recipe["optim_wrapper"]["optimizer"], "optimizer", where="optim_wrapper.optimizer")
        if found := problems(settings("env_cfg.parallel"), optimizer):
            raise ToolboxError.of(found)
        groups = parameter_groups(
            self.model,
            optimizer,
            settings("optim_wrapper.parts") or {},
            settings("optim_wrapper.decay_one_dim"),
            settings("optim_wrapper.layer_decay"),
            settings("optim_wrapper.decay_tokens"),
        )
        clip, cache = settings("optim_wrapper.clip_grad"), settings("optim_wrapper.grad_cache")
        self.update = TrainStep(
            self.parallel,
            groups,
            lambda found: optimizer.build(found, fused=self.device.fused_optimizer),
            [build(item, "schedule", where="param_scheduler") for item in settings.schedules()],
            self.precision,
            clip["max_norm"] if clip else None,
            GradCache(self.parallel.module, cache["chunk_size"], self.precision, self.device) if cache else None,
            settings("optim_wrapper.max_skipped") if settings("optim_wrapper.on_nonfinite") == "skip" else None,
            settings("optim_wrapper.max_skipped_in_a_row"),
        )
        trained = {name: parameter for group in groups for name, parameter in group.params.items()}
        average = settings("optim_wrapper.average")
        self.statistics = NormStatistics(self.model)
        self.average = None
        if average:
            self.average = WeightAverage(trained, **average, steps=self.steps, statistics=self.statistics.tensors())
        self.hooks: list[Hook] = [
            build(item, "hook", where=f"custom_hooks.{index}")
            for index, item in enumerate(recipe["custom_hooks"] or [])
        ]
        self._step_hooks = [hook for hook in self.hooks if type(hook).after_step is not Hook.after_step]
        self.bad_items = BadItems(
            self.work_dir / "bad_items.jsonl",
            len(self.dataset),
            settings("train_dataloader"),
            self.console,
            self.is_main,
        )

    @property
    def datasets(self) -> dict[str, Dataset]:
        """The datasets of the run by their splits."""
        targets = [target for target in (self.val, self.test) if target is not None]
        return {"train": self.dataset} | {target.name: target.dataset for target in targets}

    def _eval_set(self, name: str) -> Evaluator | None:
        wanted = self.config[f"{name}_dataloader"] and self.config[f"{name}_evaluator"]
        return Evaluator.of(self.config, name) if wanted else None

    def _restore(self, checkpoint: checkpoints.Checkpoint) -> None:
        for difference in resuming.differences(
            checkpoint, self.config, self.plugins, self.classes, self.distributed.world_size, kept_norms(self.model)
        ):
            self.console.warn(difference)
        parameters = dict(self.model.named_parameters())
        state = checkpoint.state(parameters if are_sharded(parameters) else None)
        self.step = checkpoint.step
        self.update.load_state_dict(state["update"])
        resuming.restore_average(self.average, state.get("average"), parameters | dict(self.model.named_buffers()))
        resuming.restore_hooks(self.hooks, state["hooks"], self.console)
        self.progress, self.metrics = state["progress"], state["metrics"]
        self.bad_items.found = state["bad_items"]
        random = state["random"] if isinstance(state["random"], list) else [state["random"]]
        if len(random) == self.distributed.world_size:
            self._random = random[self.distributed.rank]
        then = checkpoint.manifest["recipe"]
        if any(then[key] != self.config[key] for key in ("train_cfg", "custom_hooks")):
            self.progress["stopped"] = None  # what ended the run was changed: it may go on

        def turn_back() -> tuple[dict[str, Any] | None, int]:
            lines = self.progress.get("lines")
            best = resuming.turn_back(self.work_dir, self.step, self.progress["best"], self.console)
            return best, run_folder.cut_metrics(self.work_dir / "metrics.jsonl", self.step, lines)

        self.progress["best"], self.progress["lines"] = self.distributed.run_on_main(turn_back)
        self.console.info(f"Resuming at step {self.step} from {checkpoint.path}.")

    def _check_same(self) -> None:
        """Raise ToolboxError where the processes differ, before they build models that would not fit together."""
        if self.distributed.world_size == 1:
            return
        plugins = {f"plugin {name}": f"{p['version']} ({p['sources'][:8]})".strip() for name, p in self.plugins.items()}
        settings = {key: value for key, value in self.config.items() if key != "work_dir"}
        keys = {f"the recipe's {key}": sha256_of(as_json(value))[:8] for key, value in settings.items()}
        facts = {"torch": torch.__version__, **plugins, **keys, "device type": self.device.type}
        facts |= {"training items": len(self.dataset), "training classes": self.classes}
        facts |= {"names of the training classes": sha256_of(json.dumps(self.class_names))[:8]}
        check_same(self.distributed, facts)
        if not all(self.distributed.all_gather((self.work_dir / ".lock").is_file())):
            raise ToolboxError(
                f"Not every process sees {self.work_dir}.",
                where="work_dir",
                hint="Put it on a file system that all machines share, as out folder.",
            )

    def _check_shares(self) -> None:
        """Raise ToolboxError where a process would find too little in a batch."""
        if self.distributed.world_size == 1:
            return
        rank, size = self.distributed.rank, self.distributed.world_size
        for number in (0, len(self.sampler) - 1):
            share(
                self.sampler.draws(number), rank, size, self.sampler.blocks, together(self.config["train_dataloader"])
            )

    def _unlock(self) -> None:
        if self._lock is not None:
            self._lock.close()
