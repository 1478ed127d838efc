"""A training run from top to bottom: set up, evaluate before, train, evaluate after.

State is saved only between steps, a step being one optimizer update, and everything that a step depends on is either
a pure function of its number or part of the state: so a resumed run repeats the uninterrupted one bit for bit.
"""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any, NoReturn

import torch
from torch import nn

from toolbox.base import Dataset, Finding, Hook, Sampler, world
from toolbox.engine import checkpoint as checkpoints
from toolbox.engine import resume as resuming
from toolbox.engine import speed, workdir
from toolbox.engine.assemble import build_model, pretrained
from toolbox.engine.average import Average, applied
from toolbox.engine.bad_items import BadItems
from toolbox.engine.console import Console, shown
from toolbox.engine.data import inputs_of, ready, training_batches
from toolbox.engine.device import choose_device, cores, peak_memory, random_state, set_random_state, set_threads
from toolbox.engine.evaluate import EvalSet, Pixels
from toolbox.engine.files import write_json, write_text
from toolbox.engine.grad_cache import GradCache
from toolbox.engine.groups import parameter_groups
from toolbox.engine.interpolate import curve, mix
from toolbox.engine.parts import frozen_identity
from toolbox.engine.precision import Precision
from toolbox.engine.profiling import phase
from toolbox.engine.settings import Settings
from toolbox.engine.signals import Interrupted, StopSignal
from toolbox.engine.step import Step
from toolbox.errors import ToolboxError
from toolbox.registry import build, provenance


class Run:
    """One training run; hooks see it as `toolbox.base.Run`.

    - `recipe`: a validated, complete recipe of plain dicts.
    - `work_dir`: the run's folder; `source`: the recipe as Python text for its config.py.
    - `resume`: continue from a checkpoint: True for the newest whole one in `work_dir`, or a path.
    - `overwrite`: replace a run that `work_dir` holds.
    - `console`: where messages go.
    """

    def __init__(
        self, recipe: dict[str, Any], work_dir: Path, *, source: str = "", resume: bool | str = False,
        overwrite: bool = False, console: Console | None = None,
    ) -> None:  # fmt: skip
        self.config, self.work_dir, self.source = recipe, work_dir, source
        self.console = console or Console()
        self.is_main = world()[0] == 0
        self.settings = Settings(recipe)
        self.device = choose_device(self.settings("env_cfg.device"))
        self.threads = set_threads(self.settings("env_cfg.threads"))
        self.plugins = provenance(self.settings.namespaces())
        self.metrics: dict[str, float] = {}
        self.progress: dict[str, Any] = {
            "seconds": 0.0, "data_wait_seconds": 0.0, "items": 0,
            "pixels": None, "before": None, "best": None, "validated": 0, "stopped": None, "lines": 0,
        }  # fmt: skip
        self._curves: list[Finding] = []
        self._signal = StopSignal()
        self._overwrite, self._warned = overwrite, False
        self._lock = workdir.lock(work_dir)
        try:
            self._from = resuming.open_folder(work_dir, resume, overwrite, self.console)
            self._build_model()
            self._build_training()
            self.step = 0
            self._random = random_state(self.device)
            if self._from is not None:
                self._restore(self._from)
        except BaseException:
            self._lock.close()
            raise

    # ---- set up

    def _build_model(self) -> None:
        recipe, settings = self.config, self.settings
        where = "train_dataloader.dataset"
        self.dataset: Dataset = build(settings(where), "dataset", where=where)
        self.classes = len(self.dataset.classes) if self.dataset.classes is not None else None
        start = self._from or resuming.start_of(recipe, self.work_dir, self._overwrite)
        self.model = build_model(recipe, seed=settings("randomness.seed"), classes=self.classes, checkpoint=start)
        if start is not None and start.parts:
            self.console.info(f"load_from {start.path}: {checkpoints.compare(self.model, start).summary()}.")
        self.frozen = frozen_identity(self.model)
        self.torch_device = torch.device(str(self.device))
        self.model.to(self.torch_device)
        speed.prepare(self.model, settings("env_cfg"), self.torch_device)
        self.inputs = inputs_of(self.model)
        self.training_inputs = inputs_of(self.model, training=True)

    def _build_training(self) -> None:
        recipe, settings = self.config, self.settings
        self.precision = Precision(settings("optim_wrapper.precision"), self.device)
        self.sampler: Sampler = build(settings.sampler(), "sampler", where="train_dataloader.sampler")
        try:
            self.sampler.setup(self.dataset, settings("randomness.seed"))
        except ValueError as error:
            raise ToolboxError(str(error), where="train_dataloader.sampler") from error
        self.accumulate = settings("optim_wrapper.accumulative_counts")
        self.steps = settings.steps(len(self.sampler))
        self.steps_per_epoch = settings.steps_per_epoch(len(self.sampler))
        optimizer = build(recipe["optim_wrapper"]["optimizer"], "optimizer", where="optim_wrapper.optimizer")
        groups = parameter_groups(
            self.model, optimizer, settings("optim_wrapper.parts") or {}, settings("optim_wrapper.decay_one_dim"),
            settings("optim_wrapper.layer_decay"),
        )  # fmt: skip
        clip, cache = settings("optim_wrapper.clip_grad"), settings("optim_wrapper.grad_cache")
        self.update = Step(
            self.model, groups, lambda found: optimizer.build(found, fused=self.device.fused_optimizer),
            [build(item, "schedule", where="param_scheduler") for item in settings.schedules()],
            self.precision, clip["max_norm"] if clip else None,
            GradCache(self.model, cache["chunk_size"], self.precision, self.device) if cache else None,
        )  # fmt: skip
        trained = {name: parameter for group in groups for name, parameter in group.params.items()}
        average = settings("optim_wrapper.average")
        self.average = Average(trained, **average, steps=self.steps) if average else None
        self.hooks: list[Hook] = [
            build(item, "hook", where=f"custom_hooks.{index}")
            for index, item in enumerate(recipe["custom_hooks"] or [])
        ]
        self._step_hooks = [hook for hook in self.hooks if type(hook).after_step is not Hook.after_step]
        self.bad_items = BadItems(
            self.work_dir / "bad_items.jsonl", len(self.dataset), settings("train_dataloader.max_bad_share"),
            self.console,
        )  # fmt: skip
        self.val, self.test = self._eval_set("val"), self._eval_set("test")

    def _eval_set(self, name: str) -> EvalSet | None:
        loader, evaluator = self.config[f"{name}_dataloader"], self.config[f"{name}_evaluator"]
        training = self.config["train_dataloader"]
        return EvalSet(loader, evaluator, name=name, training=training) if loader and evaluator else None

    def _restore(self, checkpoint: checkpoints.Checkpoint) -> None:
        for difference in resuming.differences(checkpoint, self.config, self.plugins, self.classes):
            self.console.warn(difference)
        state = checkpoint.state()
        self.step = checkpoint.step
        self.update.load_state_dict(state["update"])
        resuming.restore_average(self.average, state.get("average"), dict(self.model.named_parameters()))
        resuming.restore_hooks(self.hooks, state["hooks"], self.console)
        self.progress, self.metrics = state["progress"], state["metrics"]
        self.bad_items.found = state["bad_items"]
        self._random = state["random"]
        then = checkpoint.manifest["recipe"]
        if any(then[key] != self.config[key] for key in ("train_cfg", "custom_hooks")):
            self.progress["stopped"] = None  # what ended the run was changed: it may go on
        resuming.turn_back(self.work_dir, self.step, self.progress, self.console)
        lines = self.progress.get("lines")
        self.progress["lines"] = workdir.cut_metrics(self.work_dir / "metrics.jsonl", self.step, lines)
        self.console.info(f"Resuming at step {self.step} from {checkpoint.path}.")

    # ---- what hooks may call

    def log(self, values: dict[str, float]) -> None:
        """Add one line to metrics.jsonl, with the step."""
        self.metrics |= values
        if not self.is_main:
            return
        line = {"step": self.step, "epoch": round(self.step / self.steps_per_epoch, 4), **values}
        workdir.add_metrics(self.work_dir / "metrics.jsonl", line)
        self.progress["lines"] += 1
        for hook in self.hooks:
            hook.after_log(self, values)

    def warn(self, text: str) -> None:
        """Tell the user, on the console and in train.log."""
        self.console.warn(text)

    def stop(self, reason: str) -> None:
        """End the run after this step, as if it had reached its length."""
        self.progress["stopped"] = reason

    def evaluate(self) -> dict[str, float]:
        """Evaluate on the validation set now, and log the result."""
        if self.val is None:
            raise ToolboxError("There is no validation set.", hint="Set val_dataloader and val_evaluator.")
        found = self._judge(self.val, "predict", interruptible=False)
        self.log({f"val/{name}": value for name, value in found.items()})
        return found

    def save(self) -> Path:
        """Write a checkpoint of this step now; returns its folder."""
        self.update.check_finite(weights=True)
        state = {
            "update": self.update.state_dict(), "random": random_state(self.device), "progress": self.progress,
            "metrics": self.metrics, "hooks": resuming.hook_states(self.hooks), "bad_items": self.bad_items.found,
            "average": self.average.state_dict() if self.average else None,
        }  # fmt: skip
        best, extra = self.progress["best"], self._identity()
        with applied(self.average):
            path = checkpoints.save(self.work_dir, self.step, self.model, state, recipe=self.config, extra=extra)
        if best and best["step"] == self.step:
            checkpoints.point(self.work_dir / "best", path)
        checkpoints.rotate(self.work_dir, self.settings("default_hooks.checkpoint.max_keep_ckpts"))
        for hook in self.hooks:
            hook.after_save(self, path)
        return path

    # ---- the run

    def execute(self) -> dict[str, Any]:
        """Run to the end. Returns what train_results.json holds.

        Raises Interrupted after SIGINT or SIGTERM, with a checkpoint of the last step written if there was one.
        """
        with self._signal:
            try:
                self._write_identity()
                self._before()
                for hook in self.hooks:
                    hook.before_run(self)
                self._train()
                return self._after()
            finally:
                self._lock.close()
                self.console.stop()
                for hook in self.hooks:
                    hook.after_run(self)

    def _write_identity(self) -> None:
        if self._overwrite:
            workdir.clear(self.work_dir)
        write_text(self.work_dir / "config.py", self.source)
        write_json(self.work_dir / "environment.json", workdir.environment(str(self.device), self.plugins))
        self.console.log_file = self.work_dir / "train.log"
        for note in (*self.dataset.notes(), *self.sampler.notes()):
            self.console.info(note)
        workers = self.settings("train_dataloader.num_workers")
        if workers > cores():
            self.console.info(f"{workers} data workers share {cores()} cores: fewer may be as fast.")

    def _before(self) -> None:
        target = self.test or self.val
        if self.progress["before"] is not None or target is None or not self.settings("evaluate_before"):
            return
        if self._from is not None:
            self.console.warn("The run was resumed before its 'before' was known: it is left out.")
            return
        if self.settings("evaluate_pixels"):
            self.progress["pixels"] = self._judge(target, "predict", model=Pixels()) or self._leave()
            self.console.info("raw pixels: " + shown(self.progress["pixels"]))
        self.console.info(f"Evaluating the backbone as it is on the {target.name} set ...")
        self.progress["before"] = self._judge(target, "baseline") or self._leave()
        self.console.info("before: " + shown(self.progress["before"]))
        write_json(self.work_dir / "train_results.json", {name: self.progress[name] for name in ("pixels", "before")})

    def _train(self) -> None:
        self.console.start(self.step, self.steps)
        self.model.train()
        stream = training_batches(
            self.settings, self.dataset, self.sampler, self.training_inputs, first=self.step * self.accumulate,
            last=self.steps * self.accumulate, pin_memory=self.device.type != "cpu", tell=self.console.warn,
        )  # fmt: skip
        set_random_state(self.device, self._random)  # only now: what came before training may have drawn
        if self._from is not None and self._validate_if_due():
            self.save()  # the interrupted run was saved before it could be judged
        interval = self.settings("default_hooks.logger.interval")
        save_every = self.settings.save_every(self.steps_per_epoch)
        mark = dict(self.progress)
        while self.step < self.steps and self.progress["stopped"] is None:
            started = time.perf_counter()
            with phase("waiting for data"):
                got = [ready(next(stream), self.training_inputs, self.torch_device) for _ in range(self.accumulate)]
            self.progress["data_wait_seconds"] += time.perf_counter() - started
            self.bad_items.note(got)
            self.progress["items"] += sum(batch["items"] for batch in got)
            self.model.before_step(self.step, self.steps)
            self.update([batch for batch in got if batch["items"]], self.step, self.steps)
            self.model.after_step(self.step, self.steps)
            self.step += 1
            if self.average:
                self.average.update(self.step)
            for hook in self._step_hooks:
                hook.after_step(self)
            due = self.step % interval == 0 or self.step == self.steps
            numbers = self.update.read() if due else {}
            self.progress["seconds"] += time.perf_counter() - started
            if due:
                self._log_step(numbers, mark)
                mark = dict(self.progress)
            self.console.advance(self.step, numbers)
            better = self._validate_if_due()
            last = self.step == self.steps or self.progress["stopped"] is not None
            if last or better or self.step % save_every == 0 or self._signal.received:
                self.save()
            if self._signal.received:
                self._leave()
        if self.progress["stopped"]:
            self.console.info(f"Stopped at step {self.step}: {self.progress['stopped']}.")

    def _validate_if_due(self) -> bool:
        """Evaluate this step on the validation set, once; whether it is the best so far."""
        last = self.step == self.steps or self.progress["stopped"] is not None
        due = self.step and (last or self.step % self.settings.validate_every(self.steps_per_epoch) == 0)
        if self.val is None or not due or self.progress["validated"] == self.step:
            return False
        try:
            found = self._judge(self.val, "predict")
            if found is None:
                return False  # interrupted: the resumed run does it
            name, greater = self.settings.best_metric(found, self.val.better)
        except ToolboxError:
            self.save()  # the step is good, only its judge failed
            raise
        self.progress["validated"] = self.step
        self.log({f"val/{name}": value for name, value in found.items()})
        self.console.info(f"step {self.step} val: {shown(found)}")
        best = self.progress["best"]
        better = best is None or (found[name] > best["value"] if greater else found[name] < best["value"])
        if better:
            self.progress["best"] = {"step": self.step, "metric": name, "value": found[name], "metrics": found}
        for hook in self.hooks:
            hook.after_evaluate(self, found)
        return better

    def _after(self) -> dict[str, Any]:
        best = self.progress["best"]
        if self.average:
            self.average.swap()  # for good: from here on the model is what checkpoints hold
            self.average = None
        if best and best["step"] != self.step:
            checkpoints.load_into(self.model, checkpoints.read(self.work_dir / f"checkpoint-{best['step']}"))
        mixed = self._mix(best)
        after, target = best["metrics"] if best else None, self.test or (self.val if mixed else None)
        if target is not None:
            what = f"mix with alpha {mixed['alpha']:g}" if mixed else "best checkpoint" if best else "last checkpoint"
            self.console.info(f"Evaluating the {what} on the {target.name} set ...")
            after = self._judge(target, "predict") or self._leave()
            self.console.info("after: " + shown(after))
        results = workdir.results(self.progress, after) | {
            "wise_ft": mixed, "steps": self.step, "peak_memory_bytes": peak_memory(self.device),
            "device": str(self.device), "threads": self.threads, "unreadable_items": len(self.bad_items.found),
        }  # fmt: skip
        write_json(self.work_dir / "train_results.json", results)
        return results

    def _mix(self, best: dict[str, Any] | None) -> dict[str, Any] | None:
        """Give the model the mix of pretrained and trained weights that validates best, and save it in `wise_ft`."""
        setting = self.settings("train_cfg.wise_ft")
        if setting is None or self.val is None:
            return None
        known = {1.0: best["metrics"]} if best else {}
        alpha, found = mix(
            self.model, lambda names: pretrained(self.config, self.classes, names), setting["alphas"], known=known,
            judge=lambda: self._judge(self.val, "predict") or self._leave(), say=self.console.info,
            metric=lambda numbers: self.settings.best_metric(numbers, self.val.better),
        )  # fmt: skip
        checkpoints.write(
            self.work_dir / checkpoints.WISE_FT, best["step"] if best else self.step, self.model, None,
            recipe=self.config, extra=self._identity() | {"wise_ft": {"alpha": alpha}},
        )  # fmt: skip
        self._curves = [curve(found)]
        return {"alpha": alpha, "val": {f"{tried:g}": numbers for tried, numbers in found.items()}}

    def findings(self) -> tuple[Dataset, list[Finding]] | None:
        """What the last evaluation shows beyond numbers, with the dataset that its indices are of."""
        target = self.test or self.val
        if target is None:
            return None
        found = [found for metric in target.metrics for found in metric.findings(target.dataset)]
        return target.dataset, found + self._curves

    # ---- small parts

    def _judge(
        self, target: EvalSet, mode: str, *, interruptible: bool = True, model: nn.Module | None = None
    ) -> dict[str, float] | None:
        """The metrics' numbers; None when a signal ended an interruptible evaluation."""
        with applied(self.average):
            return target.evaluate(
                model or self.model, self.inputs, self.device, self.precision, mode=mode,
                stop=lambda: interruptible and self._signal.received is not None,
            )  # fmt: skip

    def _identity(self) -> dict[str, Any]:
        """What a checkpoint's manifest says beside the recipe."""
        best = self.progress["best"]
        return {"classes": self.classes, "frozen": self.frozen, "plugins": self.plugins, "best": best}

    def _leave(self) -> NoReturn:
        saved = checkpoints.all_in(self.work_dir)
        how = "Continue with --resume." if saved else "Nothing was trained yet: start again with --overwrite."
        raise Interrupted(self._signal.received, f"Interrupted at step {self.step} of {self.steps}. {how}")

    def _log_step(self, numbers: dict[str, float], since: dict[str, Any]) -> None:
        spent = {key: self.progress[key] - since[key] for key in ("seconds", "items", "data_wait_seconds")}
        if numbers.get("grad_norm") == 0.0 and not self._warned:
            self._warned = True
            self.console.warn(
                "No gradient reaches the trained parts: the loss learns nothing from these batches. Do they hold "
                "several classes, and several items of each?"
            )
        numbers["items_per_second"] = round(spent["items"] / spent["seconds"], 2)
        numbers["data_wait_share"] = round(spent["data_wait_seconds"] / spent["seconds"], 4)
        self.log(numbers)
