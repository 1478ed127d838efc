"""A training run from top to bottom: set up, evaluate before, train, evaluate after.

State is saved only between steps, a step being one optimizer update, and everything that a step depends on is either
a pure function of its number or part of the state: so a resumed run repeats the uninterrupted one bit for bit.
"""

from __future__ import annotations

import time
from collections.abc import Generator
from pathlib import Path
from typing import Any, NoReturn

import torch
from torch import nn

from toolbox.base import Batch, Dataset, Finding, Hook, Sampler
from toolbox.engine import checkpoint as checkpoints
from toolbox.engine import out_of_memory, speed, workdir
from toolbox.engine import resume as resuming
from toolbox.engine.assemble import build_model, pretrained
from toolbox.engine.average import Average, applied
from toolbox.engine.bad_items import BadItems
from toolbox.engine.console import Console, Mute, shown
from toolbox.engine.data import inputs_of, ready, share, training_batches
from toolbox.engine.device import (
    choose_device,
    cores,
    peak_memory,
    random_state,
    seed_everything,
    set_random_state,
    set_threads,
)
from toolbox.engine.distributed.parallel import spread
from toolbox.engine.distributed.team import ALONE, Team, check_same
from toolbox.engine.distributed.tensors import are_sharded
from toolbox.engine.evaluate import EvalSet, Pixels
from toolbox.engine.files import as_json, sha256_of, write_json, write_text
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
    - `team`: the processes of the run, of which this is one.
    - `idle`: whether some trained parameters get no gradient.
    """

    def __init__(
        self, recipe: dict[str, Any], work_dir: Path, *, source: str = "", resume: bool | str = False,
        overwrite: bool = False, console: Console | None = None, team: Team = ALONE, idle: bool = False,
    ) -> None:  # fmt: skip
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
        self._overwrite, self._warned = overwrite, False
        team.start(self.device)
        self._lock = workdir.lock(work_dir) if self.is_main else None
        try:
            self._from = resuming.open_together(work_dir, resume, overwrite, self.console, team)
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
        self.classes = len(self.dataset.classes) if self.dataset.classes is not None else None
        start = self._from or resuming.start_of(recipe, self.work_dir, self._overwrite)
        self.model = build_model(recipe, seed=settings("randomness.seed"), classes=self.classes, checkpoint=start)
        if start is not None and start.parts:
            self.console.info(f"load_from {start.path}: {checkpoints.compare(self.model, start).summary()}.")
        self.frozen = frozen_identity(self.model)
        self.torch_device = torch.device(str(self.device))
        speed.prepare(self.model, settings("env_cfg"), self.torch_device)
        self.precision = Precision(settings("optim_wrapper.precision"), self.device)
        self.parallel = spread(
            self.model, self.team, settings("env_cfg.parallel"), self.device, self.precision, idle=self._idle
        )
        self.inputs = inputs_of(self.model)
        self.training_inputs = inputs_of(self.model, training=True)

    def _build_training(self) -> None:
        recipe, settings = self.config, self.settings
        self.sampler: Sampler = build(settings.sampler(), "sampler", where="train_dataloader.sampler")
        try:
            self.sampler.setup(self.dataset, settings("randomness.seed"))
        except ValueError as error:
            raise ToolboxError(str(error), where="train_dataloader.sampler") from error
        self._check_team()
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
            self.parallel, groups, lambda found: optimizer.build(found, fused=self.device.fused_optimizer),
            [build(item, "schedule", where="param_scheduler") for item in settings.schedules()],
            self.precision, clip["max_norm"] if clip else None,
            GradCache(self.parallel.module, cache["chunk_size"], self.precision, self.device) if cache else None,
            settings("optim_wrapper.max_skipped") if settings("optim_wrapper.on_nonfinite") == "skip" else None,
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
            self.console, self.is_main,
        )  # fmt: skip
        self.val, self.test = self._eval_set("val"), self._eval_set("test")

    def _eval_set(self, name: str) -> EvalSet | None:
        loader, evaluator = self.config[f"{name}_dataloader"], self.config[f"{name}_evaluator"]
        training = self.config["train_dataloader"]
        return EvalSet(loader, evaluator, name=name, training=training) if loader and evaluator else None

    def _restore(self, checkpoint: checkpoints.Checkpoint) -> None:
        for difference in resuming.differences(checkpoint, self.config, self.plugins, self.classes, self.team.size):
            self.console.warn(difference)
        parameters = dict(self.model.named_parameters())
        state = checkpoint.state(parameters if are_sharded(parameters) else None)
        self.step = checkpoint.step
        self.update.load_state_dict(state["update"])
        resuming.restore_average(self.average, state.get("average"), parameters)
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
        best, extra = self.progress["best"], self._identity()
        with applied(self.average):
            state = {
                "update": self.update.state_dict(), "random": self.team.everywhere(random_state(self.device)),
                "progress": self.progress, "metrics": self.metrics, "hooks": resuming.hook_states(self.hooks),
                "bad_items": self.bad_items.found, "average": self.average.state_dict() if self.average else None,
            }  # fmt: skip
            path = checkpoints.save(
                self.work_dir, self.step, self.model, state, recipe=self.config, extra=extra, team=self.team
            )
        if self.is_main:
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
                self.team.from_main(self._write_identity)
                self._before()
                for hook in self.hooks:
                    hook.before_run(self)
                self._train()
                return self._after()
            finally:
                if self._stream is not None:
                    self._stream.close()  # its workers end now, also where an error keeps hold of it
                self._unlock()
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
        self._write_results({name: self.progress[name] for name in ("pixels", "before")})

    def _train(self) -> None:
        self.console.start(self.step, self.steps)
        self.model.train()
        stream = self._stream = training_batches(
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
            self.bad_items.check(got, self.team.size)
            self.model.before_step(self.step, self.steps)
            own = [batch for batch in got if batch["items"]]
            with out_of_memory.training(self.config, self.classes, own, self.step + 1, self.device):
                self.update(own, self.step, self.steps)
            self.model.after_step(self.step, self.steps)
            self.step += 1
            if self.average:
                self.average.update(self.step)
            for hook in self._step_hooks:
                hook.after_step(self)
            self._agree(got)
            due = self.step % interval == 0 or self.step == self.steps
            numbers = self.update.read() if due else {}
            self.progress["seconds"] += time.perf_counter() - started
            if due:
                self._log_step(numbers, mark)
                mark = dict(self.progress)
            self.console.advance(self.step, numbers)
            better = self._validate_if_due()
            last = self.step == self.steps or self.progress["stopped"] is not None
            if last or better or self.step % save_every == 0 or self._asked:
                self.save()
            if self._asked:
                self._leave()
        if self.progress["stopped"]:
            self.console.info(f"Stopped at step {self.step}: {self.progress['stopped']}.")

    def _agree(self, got: list[Batch]) -> None:
        """Tell the other processes what has happened to this one in a step, and learn the same of them."""
        fresh = self.bad_items.fresh(got)
        items = sum(batch["items"] for batch in got)
        stopped = self.progress["stopped"]
        told = self.team.numbers(self._signal.received or 0, int(stopped is not None), len(fresh), items)
        self._asked = max(signum for signum, _, _, _ in told) or None
        self.progress["items"] += sum(count for _, _, _, count in told)
        if any(stop for _, stop, _, _ in told):
            self.progress["stopped"] = next(filter(None, self.team.everywhere(stopped)))
        if any(count for _, _, count, _ in told):
            self.bad_items.note([one for found in self.team.everywhere(fresh) for one in found])

    def _asked_to_leave(self) -> bool:
        """Whether a signal has reached any process; all of them must ask."""
        self._asked = max(signum for (signum,) in self.team.numbers(self._signal.received or 0)) or None
        return self._asked is not None

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
            path = self.work_dir / f"checkpoint-{best['step']}"
            checkpoints.load_into(self.model, checkpoints.read(path, verify=self.is_main))
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
            "skipped_steps": self.update.skipping.count if self.update.skipping else 0,
        }  # fmt: skip
        self._write_results(results)
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
            recipe=self.config, extra=self._identity() | {"wise_ft": {"alpha": alpha}}, team=self.team,
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

    def _check_team(self) -> None:
        """Raise ToolboxError where the processes differ, or would find too little in a batch."""
        if self.team.size == 1:
            return
        plugins = {f"plugin {name}": f"{p['version']} ({p['sources'][:8]})" for name, p in self.plugins.items()}
        recipe = sha256_of(as_json({**self.config, "work_dir": None}))
        facts = {"torch": torch.__version__, **plugins, "recipe": recipe[:8], "device type": self.device.type}
        facts |= {"training items": len(self.dataset), "training classes": self.classes}
        check_same(self.team, facts)
        rank, size = self.team.rank, self.team.size
        for number in (0, len(self.sampler) - 1):
            share(self.sampler.draws(number), rank, size, self.sampler.blocks)
        if not all(self.team.everywhere((self.work_dir / ".lock").is_file())):
            raise ToolboxError(
                f"Not every process sees {self.work_dir}.", where="work_dir",
                hint="Put it on a file system that all machines share: --work-dir.",
            )  # fmt: skip

    def _write_results(self, results: dict[str, Any]) -> None:
        if self.is_main:
            write_json(self.work_dir / "train_results.json", results)

    def _unlock(self) -> None:
        if self._lock is not None:
            self._lock.close()

    def _judge(
        self, target: EvalSet, mode: str, *, interruptible: bool = True, model: nn.Module | None = None
    ) -> dict[str, float] | None:
        """The metrics' numbers; None when a signal ended an interruptible evaluation."""
        with applied(self.average):
            return target.evaluate(
                model or self.parallel.module, self.inputs, self.device, self.precision, mode=mode,
                stop=lambda: interruptible and self._asked_to_leave(),
            )  # fmt: skip

    def _identity(self) -> dict[str, Any]:
        """What a checkpoint's manifest says beside the recipe."""
        best = self.progress["best"]
        return {"classes": self.classes, "frozen": self.frozen, "plugins": self.plugins, "best": best}

    def _leave(self) -> NoReturn:
        saved = checkpoints.all_in(self.work_dir)
        how = "Continue with --resume." if saved else "Nothing was trained yet: start again with --overwrite."
        raise Interrupted(self._asked, f"Interrupted at step {self.step} of {self.steps}. {how}")

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
