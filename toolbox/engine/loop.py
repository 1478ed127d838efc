"""A training run from top to bottom: set up, evaluate before, train, evaluate after.

State is saved only between steps, a step being one optimizer update, and everything that a step depends on is either
a pure function of its number or part of the state: so a resumed run repeats the uninterrupted one bit for bit.
"""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from torch import nn

from toolbox.base import Batch, Dataset, Example, Hook, Sampler, world
from toolbox.engine import checkpoint as checkpoints
from toolbox.engine import workdir
from toolbox.engine.assemble import build_augment, build_model
from toolbox.engine.console import Console
from toolbox.engine.data import Fetch, Plan, batches, inputs_of, to_device
from toolbox.engine.device import choose_device, peak_memory, random_state, set_random_state, set_threads
from toolbox.engine.evaluate import EvalSet, Pixels
from toolbox.engine.files import write_json, write_text
from toolbox.engine.groups import parameter_groups
from toolbox.engine.precision import Precision
from toolbox.engine.settings import Settings
from toolbox.engine.signals import Interrupted, StopSignal
from toolbox.engine.step import Step
from toolbox.errors import ToolboxError
from toolbox.registry import build, provenance


class Run:
    """One training run; hooks see it as `toolbox.base.Run`.

    - `recipe`: a validated recipe of plain dicts.
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
        self.metrics: dict[str, float] = {}
        self.progress: dict[str, Any] = {
            "seconds": 0.0, "data_wait_seconds": 0.0, "items": 0,
            "pixels": None, "before": None, "best": None, "validated": 0, "bad": [],
        }  # fmt: skip
        self._signal = StopSignal()
        self._stop_reason: str | None = None
        self._open_folder(resume, overwrite)
        self._build()

    # ---- set up

    def _open_folder(self, resume: bool | str, overwrite: bool) -> None:
        self._from: checkpoints.Checkpoint | None = None
        if resume:
            workdir.check_writable(self.work_dir)
            self._from = self._find(resume)
        elif overwrite and workdir.holds_run(self.work_dir):
            workdir.check_writable(self.work_dir)
            workdir.clear(self.work_dir)
        else:
            workdir.check_free(self.work_dir)

    def _find(self, resume: bool | str) -> checkpoints.Checkpoint | None:
        if isinstance(resume, str):
            return checkpoints.read(resume)
        found, complaints = checkpoints.newest(self.work_dir)
        for complaint in complaints:
            self.console.warn(complaint)
        if found is None and complaints:
            raise ToolboxError(f"No checkpoint in {self.work_dir} is whole.", hint="Start again with --overwrite.")
        if found is None:
            self.console.warn(f"{self.work_dir} holds no checkpoint to resume: the run starts from the beginning.")
        elif complaints:
            self.console.warn(f"Falling back to {found.path.name}.")
        return found

    def _build(self) -> None:
        recipe, settings = self.config, self.settings
        loader = recipe["train_dataloader"]
        self.dataset: Dataset = build(loader["dataset"], "dataset", where="train_dataloader.dataset")
        self.sampler: Sampler = build(settings.sampler(), "sampler", where="train_dataloader.sampler")
        try:
            self.sampler.setup(self.dataset, settings("randomness.seed"))
        except ValueError as error:
            raise ToolboxError(str(error), where="train_dataloader.sampler") from error
        classes = len(self.dataset.classes) if self.dataset.classes is not None else None
        start = self._from or (checkpoints.read(recipe["load_from"]) if recipe.get("load_from") else None)
        self.model = build_model(recipe, seed=settings("randomness.seed"), classes=classes, checkpoint=start)
        self.frozen = checkpoints.frozen_identity(self.model)
        self.classes = classes
        self.torch_device = torch.device(str(self.device))
        self.model.to(self.torch_device)
        self.inputs = inputs_of(self.model)
        self.precision = Precision(settings("optim_wrapper.precision"), self.device)
        optimizer = build(recipe["optim_wrapper"]["optimizer"], "optimizer", where="optim_wrapper.optimizer")
        groups = parameter_groups(
            self.model, optimizer, settings("optim_wrapper.parts") or {}, settings("optim_wrapper.decay_one_dim")
        )
        clip = settings("optim_wrapper.clip_grad")
        self.update = Step(
            self.model, groups, lambda found: optimizer.build(found, fused=self.device.fused_optimizer),
            [build(item, "schedule", where="param_scheduler") for item in settings.schedules()],
            self.precision, clip["max_norm"] if clip else None,
        )  # fmt: skip
        self.hooks: list[Hook] = [
            build(item, "hook", where=f"custom_hooks.{index}")
            for index, item in enumerate(recipe.get("custom_hooks") or [])
        ]
        self._step_hooks = [hook for hook in self.hooks if type(hook).after_step is not Hook.after_step]
        self.accumulate = settings("optim_wrapper.accumulative_counts")
        self.steps_per_epoch = max(1, len(self.sampler) // self.accumulate)
        self.steps = settings.steps(self.steps_per_epoch)
        self.step = 0
        self.val = self._eval_set("val")
        self.test = self._eval_set("test")
        if self._from is not None:
            self._restore(self._from)

    def _eval_set(self, name: str) -> EvalSet | None:
        loader, evaluator = self.config.get(f"{name}_dataloader"), self.config.get(f"{name}_evaluator")
        return EvalSet(loader, evaluator, name=name) if loader and evaluator else None

    def _restore(self, checkpoint: checkpoints.Checkpoint) -> None:
        changed = changed_settings(checkpoint.manifest["recipe"], self.config)
        if changed:
            self.console.warn(f"The recipe differs from the checkpoint's in: {', '.join(changed)}.")
        plugins = provenance(self.settings.namespaces())
        for namespace, then in checkpoint.manifest["plugins"].items():
            now = plugins.get(namespace)
            if now and now["sources"] != then["sources"]:
                self.console.warn(
                    f"The plugin {namespace} has changed since the checkpoint ({then['version']} -> {now['version']}): "
                    "the run may not continue exactly."
                )
        state = checkpoint.state()
        self.step = checkpoint.step
        self.update.load_state_dict(state["update"])
        for hook, saved in zip(self.hooks, state["hooks"], strict=False):
            hook.load_state_dict(saved)
        self.progress = state["progress"]
        set_random_state(self.device, state["random"])
        workdir.cut_metrics(self.work_dir / "metrics.jsonl", self.step)
        self.console.info(f"Resuming at step {self.step} from {checkpoint.path}.")

    # ---- what hooks may call

    def log(self, values: dict[str, float]) -> None:
        """Add one line to metrics.jsonl, with the step."""
        self.metrics |= values
        if not self.is_main:
            return
        line = {"step": self.step, "epoch": round(self.step / self.steps_per_epoch, 4), **values}
        try:
            with (self.work_dir / "metrics.jsonl").open("a", encoding="utf-8") as file:
                file.write(json.dumps(line) + "\n")
        except OSError as error:
            raise ToolboxError(
                f"metrics.jsonl cannot be written: {error.strerror or error}.",
                hint="Free some space, then --resume: checkpoints are untouched.",
            ) from error
        for hook in self.hooks:
            hook.after_log(self, values)

    def stop(self, reason: str) -> None:
        """End the run after this step, as if it had reached its length."""
        self._stop_reason = reason

    def evaluate(self) -> dict[str, float]:
        """Evaluate on the validation set now, and log the result."""
        if self.val is None:
            raise ToolboxError("There is no validation set.", hint="Set val_dataloader and val_evaluator.")
        found = self._judge(self.val, "predict")
        self.log({f"val/{name}": value for name, value in found.items()})
        return found

    def save(self) -> Path:
        """Write a checkpoint of this step now; returns its folder."""
        self.update.check_finite()
        state = {
            "update": self.update.state_dict(), "random": random_state(self.device),
            "hooks": [hook.state_dict() for hook in self.hooks], "progress": self.progress,
        }  # fmt: skip
        path = checkpoints.save(
            self.work_dir, self.step, self.model, state, recipe=self.config,
            extra={
                "classes": self.classes, "frozen": self.frozen, "plugins": provenance(self.settings.namespaces()),
                "best": self.progress["best"],
            },
        )  # fmt: skip
        if self.progress["best"] and self.progress["best"]["step"] == self.step:
            checkpoints.point(self.work_dir / "best", path)
        checkpoints.rotate(self.work_dir, self.settings("default_hooks.checkpoint.max_keep_ckpts"))
        for hook in self.hooks:
            hook.after_save(self, path)
        return path

    # ---- the run

    def execute(self) -> dict[str, Any]:
        """Run to the end. Returns what train_results.json holds.

        Raises Interrupted after SIGINT or SIGTERM, with a checkpoint of the last step written.
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
                self.console.stop()
                for hook in self.hooks:
                    hook.after_run(self)

    def _write_identity(self) -> None:
        write_text(self.work_dir / "config.py", self.source)
        plugins = provenance(self.settings.namespaces())
        write_json(self.work_dir / "environment.json", workdir.environment(str(self.device), plugins))
        self.console.log_file = self.work_dir / "train.log"
        for note in self.sampler.notes():
            self.console.info(note)

    def _before(self) -> None:
        target = self.test or self.val
        if self.progress["before"] is not None or target is None or not self.settings("evaluate_before"):
            return
        if self._from is not None:
            self.console.warn("The run was resumed before its 'before' was known: it is left out.")
            return
        if self.settings("evaluate_pixels"):
            self.progress["pixels"] = self._judge(target, "predict", model=Pixels())
            self.console.info("raw pixels: " + shown(self.progress["pixels"]))
        self.console.info(f"Evaluating the backbone as it is on the {target.name} set ...")
        self.progress["before"] = self._judge(target, "baseline")
        self.console.info("before: " + shown(self.progress["before"]))
        known = {name: self.progress[name] for name in ("pixels", "before")}
        write_json(self.work_dir / "train_results.json", known)

    def _train(self) -> None:
        self.console.start(self.step, self.steps)
        self.model.train()
        stream = self._stream()
        interval = self.settings("default_hooks.logger.interval")
        validate_every = self.settings.validate_every(self.steps_per_epoch)
        save_every = self.settings.save_every(self.steps_per_epoch)
        mark = dict(self.progress)
        if self.val is not None and self.step and self.step % validate_every == 0:
            self._validate_once()  # the interrupted run was saved before it could
        while self.step < self.steps and self._stop_reason is None:
            started = time.perf_counter()
            got = [to_device(next(stream), self.torch_device) for _ in range(self.accumulate)]
            self.progress["data_wait_seconds"] += time.perf_counter() - started
            self._count(got)
            self.model.before_step(self.step, self.steps)
            self.update([batch for batch in got if batch["items"]], self.step, self.steps)
            self.model.after_step(self.step, self.steps)
            self.step += 1
            for hook in self._step_hooks:
                hook.after_step(self)
            due = self.step % interval == 0 or self.step == self.steps
            numbers = self.update.read() if due else {}
            self.progress["seconds"] += time.perf_counter() - started
            if due:
                self._log_step(numbers, mark)
                mark = dict(self.progress)
            self.console.advance(self.step, numbers)
            last = self.step == self.steps or self._stop_reason is not None
            better = self.val is not None and (last or self.step % validate_every == 0) and self._validate_once()
            if last or better or self._stop_reason or self.step % save_every == 0 or self._signal.received:
                self.save()
            if self._signal.received:
                self._leave()
        if self._stop_reason:
            self.console.info(f"Stopped at step {self.step}: {self._stop_reason}.")

    def _stream(self) -> Iterator[Batch]:
        loader = self.config["train_dataloader"]
        augment = loader.get("augment")
        fetch = Fetch(
            self.dataset, self.inputs, seed=self.settings("randomness.seed"), blocks=self.sampler.blocks,
            augment=build_augment(augment) if augment else None,
            skip_bad=self.settings("train_dataloader.on_bad_item") == "skip",
        )  # fmt: skip
        plan = Plan(self.sampler, self.step * self.accumulate, self.steps * self.accumulate)
        return batches(
            fetch, plan, workers=self.settings("train_dataloader.num_workers"),
            prefetch=self.settings("train_dataloader.prefetch_factor"), pin_memory=self.device.type != "cpu",
        )  # fmt: skip

    def _validate_once(self) -> bool:
        """Evaluate this step on the validation set; whether it is the best so far. An interrupted one is not done."""
        if self.progress["validated"] == self.step:
            return False
        found = self._judge(self.val, "predict", interruptible=True)
        self.model.train()
        if found is None:
            return False
        self.progress["validated"] = self.step
        self.log({f"val/{name}": value for name, value in found.items()})
        self.console.info(f"step {self.step} val: {shown(found)}")
        for hook in self.hooks:
            hook.after_evaluate(self, found)
        name, greater = self.settings.best_metric(found)
        best = self.progress["best"]
        if best is None or (found[name] > best["value"] if greater else found[name] < best["value"]):
            self.progress["best"] = {"step": self.step, "metric": name, "value": found[name], "metrics": found}
            return True
        return False

    def _after(self) -> dict[str, Any]:
        best = self.progress["best"]
        if best and best["step"] != self.step and (self.work_dir / "best").exists():
            checkpoints.load_into(self.model, checkpoints.read(self.work_dir / "best"))
        after = best["metrics"] if best else None
        if self.test is not None:
            self.console.info("Evaluating the best checkpoint on the test set ...")
            after = self._judge(self.test, "predict")
            self.console.info("after: " + shown(after))
        seconds = self.progress["seconds"]
        results = {
            "pixels": self.progress["pixels"], "before": self.progress["before"], "after": after, "best": best,
            "steps": self.step,
            "seconds": round(seconds, 3),
            "items_per_second": round(self.progress["items"] / seconds, 2) if seconds else None,
            "data_wait_seconds": round(self.progress["data_wait_seconds"], 3),
            "peak_memory_bytes": peak_memory(self.device), "device": str(self.device), "threads": self.threads,
            "unreadable_items": len(self.progress["bad"]),
        }  # fmt: skip
        write_json(self.work_dir / "train_results.json", results)
        return results

    def examples(self, count: int = 24, results: int = 10) -> tuple[Dataset, list[Example]] | None:
        """What the last evaluation put first for some items, with the dataset that their indices are of."""
        target = self.test or self.val
        if target is None:
            return None
        found = [example for metric in target.metrics for example in metric.examples(count, results)]
        return target.dataset, found[:count]

    # ---- small parts

    def _judge(
        self, target: EvalSet, mode: str, *, interruptible: bool = False, model: nn.Module | None = None
    ) -> dict[str, float] | None:
        found = target.evaluate(
            model or self.model, self.inputs, self.device, self.precision, mode=mode,
            stop=lambda: self._signal.received is not None,
        )  # fmt: skip
        if found is None and not interruptible:
            self._leave()
        return found

    def _leave(self) -> None:
        signum = self._signal.received
        saved = "Continue with --resume." if checkpoints.all_in(self.work_dir) else "Nothing was trained yet."
        raise Interrupted(signum, f"Interrupted at step {self.step} of {self.steps}. {saved}")

    def _count(self, got: list[Batch]) -> None:
        if not any(batch["items"] for batch in got):
            raise ToolboxError("No item of this batch can be read.", where="train_dataloader", hint="Mend the files.")
        self.progress["items"] += sum(batch["items"] for batch in got)
        fresh = {index: message for batch in got for index, message in batch["bad"]}
        for index in sorted(fresh.keys() - set(self.progress["bad"])):
            self.progress["bad"].append(index)
            with (self.work_dir / "bad_items.jsonl").open("a", encoding="utf-8") as file:
                file.write(json.dumps({"index": index, "error": fresh[index]}, ensure_ascii=False) + "\n")
            self.console.warn(f"Left out item {index}: {fresh[index]}")
        allowed = self.settings("train_dataloader.max_bad_share") * len(self.dataset)
        if len(self.progress["bad"]) > allowed:
            raise ToolboxError(
                f"{len(self.progress['bad'])} of {len(self.dataset)} items cannot be read, more than max_bad_share.",
                where="train_dataloader", hint=f"They are named in {self.work_dir / 'bad_items.jsonl'}.",
            )  # fmt: skip

    def _log_step(self, numbers: dict[str, float], since: dict[str, Any]) -> None:
        spent = {key: self.progress[key] - since[key] for key in ("seconds", "items", "data_wait_seconds")}
        numbers["items_per_second"] = round(spent["items"] / spent["seconds"], 2)
        numbers["data_wait_share"] = round(spent["data_wait_seconds"] / spent["seconds"], 4)
        self.log(numbers)


def shown(metrics: dict[str, float]) -> str:
    """Metrics on one line."""
    return " ".join(f"{name} {value:.4f}" if isinstance(value, float) else f"{name} {value}"
                    for name, value in metrics.items())  # fmt: skip


def changed_settings(before: Any, now: Any, path: str = "") -> list[str]:
    """The key paths in which two recipes differ, leaving aside where and how long they run."""
    if path in ("work_dir", "resume", "load_from", "env_cfg.device"):
        return []
    if isinstance(before, dict) and isinstance(now, dict):
        keys = sorted(before.keys() | now.keys())
        return [
            found
            for key in keys
            for found in changed_settings(before.get(key), now.get(key), f"{path}.{key}" if path else key)
        ]
    return [] if before == now else [path]
