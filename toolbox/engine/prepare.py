"""What a run consists of before its first step: model, data, update rule, and what a checkpoint gives back."""

from __future__ import annotations

import json
from collections.abc import Generator, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import torch

from toolbox.base import Batch, Dataset, Finding, Hook, Sampler
from toolbox.engine import quantizing, speed
from toolbox.engine import resume as resuming
from toolbox.engine.assemble import build_model, kept_norms
from toolbox.engine.classes import class_names
from toolbox.engine.console import Console, Mute
from toolbox.engine.device import choose_device, random_state, seed_everything, set_threads
from toolbox.engine.distributed.parallel import problems, spread
from toolbox.engine.distributed.team import ALONE, Team, check_same
from toolbox.engine.distributed.tensors import are_sharded
from toolbox.engine.judging.eval_set import EvalSet
from toolbox.engine.length import Length
from toolbox.engine.parts import backbones, frozen_identity, random_and_frozen
from toolbox.engine.precision import Precision, eval_precision
from toolbox.engine.reading.bad_items import BadItems
from toolbox.engine.reading.draws import share
from toolbox.engine.reading.fetch import inputs_of
from toolbox.engine.reading.few_images import few_images
from toolbox.engine.reading.mixing import together
from toolbox.engine.saving import checkpoint as checkpoints
from toolbox.engine.saving import loading, workdir
from toolbox.engine.saving.files import as_json, sha256_of
from toolbox.engine.settings import Settings
from toolbox.engine.signals import StopSignal
from toolbox.engine.storing.shelf import Shelf
from toolbox.engine.trained_items import TrainedItems, items_of, sentence, unknown
from toolbox.engine.updating.average import Average
from toolbox.engine.updating.grad_cache import GradCache
from toolbox.engine.updating.groups import parameter_groups
from toolbox.engine.updating.statistics import NormStatistics
from toolbox.engine.updating.step import Step
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
    - `team`: the processes of the run, of which this is one.
    - `idle`: whether some trained parameters may get no gradient.
    """

    def __init__(
        self, recipe: dict[str, Any], work_dir: Path, *, source: str = "", resume: bool | str = False,
        overwrite: bool = False, console: Console | None = None, team: Team = ALONE, idle: bool = False,
        overridden: Sequence[str] = (),
    ) -> None:  # fmt: skip
        self.overridden = overridden
        self.config, self.work_dir, self.source = recipe, work_dir, source
        self.team, self.is_main, self._idle = team, team.is_main, idle
        self.console = (console or Console()) if team.is_main else Mute()
        self.settings = Settings(recipe)
        self.device = choose_device(self.settings("env_cfg.device"), team.place)
        self.threads = set_threads(self.settings("env_cfg.threads"), team.place.local_size)
        self.plugins = provenance(self.settings.namespaces())
        self.metrics: dict[str, float] = {}
        self.progress: dict[str, Any] = {
            "seconds": 0.0, "data_wait_seconds": 0.0, "items": 0,
            "pixels": None, "before": None, "best": None, "validated": 0, "stopped": None, "lines": 0,
        }  # fmt: skip
        self._curves: list[Finding] = []
        self._stream: Generator[Batch, None, None] | None = None
        self._signal = StopSignal()
        self._asked: int | None = None  # the signal that the processes have agreed to follow
        self._estimated: int | None = None  # the step whose averages have statistics of their own
        self._overwrite, self._warned, self._ended = overwrite, False, False
        self._remarks: set[str] = set()
        team.start(self.device)
        self._lock = workdir.lock(work_dir, self.console.warn) if self.is_main else None
        try:
            self._from = resuming.open_together(work_dir, resume, overwrite, self.console, team)
            if self._from is not None:  # a new run has no train.log yet
                self.console.log_file = work_dir / "train.log"
            self._build_model()
            self._build_training()
            self.step = 0
            if not self.is_main:  # what a model draws for other rows is other numbers
                seed_everything(self.settings("randomness.seed") + 1_000_003 * team.rank)
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
        self.inputs = inputs_of(self.model)
        self.training_inputs = inputs_of(self.model, training=True)
        self.val, self.test = self._eval_set("val"), self._eval_set("test")
        self._look_for_trained_items(start)
        if self.val is not None and self.test is not None:
            self.test.share(self.val.shared)
        self.shelf = self._fill_shelf() if recipe.get("features") else None
        self.parallel = spread(
            self.model, self.team, settings("env_cfg.parallel"), self.device, self.precision, idle=self._idle
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
        for target, found in zip(targets, self.team.from_main(count), strict=True):
            target.training_data, target.trained_items = self.dataset, found
            if found:
                self.console.warn(sentence(found, len(target.dataset), target.name))

    def _fill_shelf(self) -> Shelf:
        """Features of all that the run will read; computed by the model as one process has it."""
        self.model.to(self.torch_device)
        shelf = Shelf(
            self.config, self.model, self.device, self.precision, eval_precision=self.eval_precision, team=self.team,
            console=self.console,
        )  # fmt: skip
        targets = [target for target in (self.val, self.test) if target is not None]
        shelf.fill(self.dataset, self.settings("train_dataloader"), targets)
        return shelf

    def _build_training(self) -> None:
        recipe, settings = self.config, self.settings
        self.sampler: Sampler = build(settings.sampler(), "sampler", where="train_dataloader.sampler")
        try:
            self.sampler.setup(self.dataset, settings("randomness.seed"))
        except ValueError as error:
            raise ToolboxError(str(error), where="train_dataloader.sampler") from error
        self._check_shares()
        self.length = Length(settings, len(self.sampler))
        self.steps, self.steps_per_epoch = self.length.steps, self.length.steps_per_epoch
        optimizer = build(recipe["optim_wrapper"]["optimizer"], "optimizer", where="optim_wrapper.optimizer")
        if found := problems(settings("env_cfg.parallel"), optimizer):
            raise ToolboxError.of(found)
        groups = parameter_groups(
            self.model, optimizer, settings("optim_wrapper.parts") or {}, settings("optim_wrapper.decay_one_dim"),
            settings("optim_wrapper.layer_decay"), settings("optim_wrapper.decay_tokens"),
        )  # fmt: skip
        clip, cache = settings("optim_wrapper.clip_grad"), settings("optim_wrapper.grad_cache")
        self.update = Step(
            self.parallel, groups, lambda found: optimizer.build(found, fused=self.device.fused_optimizer),
            [build(item, "schedule", where="param_scheduler") for item in settings.schedules()],
            self.precision, clip["max_norm"] if clip else None,
            GradCache(self.parallel.module, cache["chunk_size"], self.precision, self.device) if cache else None,
            settings("optim_wrapper.max_skipped") if settings("optim_wrapper.on_nonfinite") == "skip" else None,
            settings("optim_wrapper.max_skipped_in_a_row"),
        )  # fmt: skip
        trained = {name: parameter for group in groups for name, parameter in group.params.items()}
        average = settings("optim_wrapper.average")
        self.statistics = NormStatistics(self.model)
        self.average = None
        if average:
            self.average = Average(trained, **average, steps=self.steps, statistics=self.statistics.tensors())
        self.hooks: list[Hook] = [
            build(item, "hook", where=f"custom_hooks.{index}")
            for index, item in enumerate(recipe["custom_hooks"] or [])
        ]
        self._step_hooks = [hook for hook in self.hooks if type(hook).after_step is not Hook.after_step]
        self.bad_items = BadItems(
            self.work_dir / "bad_items.jsonl", len(self.dataset), settings("train_dataloader"),
            self.console, self.is_main,
        )  # fmt: skip

    @property
    def datasets(self) -> dict[str, Dataset]:
        """The datasets of the run by their splits."""
        targets = [target for target in (self.val, self.test) if target is not None]
        return {"train": self.dataset} | {target.name: target.dataset for target in targets}

    def _eval_set(self, name: str) -> EvalSet | None:
        wanted = self.config[f"{name}_dataloader"] and self.config[f"{name}_evaluator"]
        return EvalSet.of(self.config, name) if wanted else None

    def _restore(self, checkpoint: checkpoints.Checkpoint) -> None:
        for difference in resuming.differences(
            checkpoint, self.config, self.plugins, self.classes, self.team.size, kept_norms(self.model)
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
        if len(random) == self.team.size:
            self._random = random[self.team.rank]
        then = checkpoint.manifest["recipe"]
        if any(then[key] != self.config[key] for key in ("train_cfg", "custom_hooks")):
            self.progress["stopped"] = None  # what ended the run was changed: it may go on

        def turn_back() -> tuple[dict[str, Any] | None, int]:
            lines = self.progress.get("lines")
            best = resuming.turn_back(self.work_dir, self.step, self.progress["best"], self.console)
            return best, workdir.cut_metrics(self.work_dir / "metrics.jsonl", self.step, lines)

        self.progress["best"], self.progress["lines"] = self.team.from_main(turn_back)
        self.console.info(f"Resuming at step {self.step} from {checkpoint.path}.")

    def _check_same(self) -> None:
        """Raise ToolboxError where the processes differ, before they build models that would not fit together."""
        if self.team.size == 1:
            return
        plugins = {f"plugin {name}": f"{p['version']} ({p['sources'][:8]})".strip() for name, p in self.plugins.items()}
        settings = {key: value for key, value in self.config.items() if key != "work_dir"}
        keys = {f"the recipe's {key}": sha256_of(as_json(value))[:8] for key, value in settings.items()}
        facts = {"torch": torch.__version__, **plugins, **keys, "device type": self.device.type}
        facts |= {"training items": len(self.dataset), "training classes": self.classes}
        facts |= {"names of the training classes": sha256_of(json.dumps(self.class_names))[:8]}
        check_same(self.team, facts)
        if not all(self.team.everywhere((self.work_dir / ".lock").is_file())):
            raise ToolboxError(
                f"Not every process sees {self.work_dir}.", where="work_dir",
                hint="Put it on a file system that all machines share, as out folder.",
            )  # fmt: skip

    def _check_shares(self) -> None:
        """Raise ToolboxError where a process would find too little in a batch."""
        if self.team.size == 1:
            return
        rank, size = self.team.rank, self.team.size
        for number in (0, len(self.sampler) - 1):
            share(
                self.sampler.draws(number), rank, size, self.sampler.blocks, together(self.config["train_dataloader"])
            )

    def _unlock(self) -> None:
        if self._lock is not None:
            self._lock.close()
