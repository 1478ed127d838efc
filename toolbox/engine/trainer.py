"""A training run from top to bottom: evaluate before, train, evaluate after.

State is saved only between steps, a step being one optimizer update, and everything that a step depends on is either
a pure function of its number or part of the state: so a resumed run repeats the uninterrupted one bit for bit.
"""

from __future__ import annotations

import signal
import time
from collections.abc import Generator, Iterator
from contextlib import ExitStack, closing, contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any, NoReturn

from toolbox.base import Batch, Hook
from toolbox.base.scalars import as_numbers
from toolbox.engine.checkpoint import checkpoint as checkpoints
from toolbox.engine.checkpoint import loading, run_folder
from toolbox.engine.console import shown
from toolbox.engine.data.loader import ready
from toolbox.engine.device import set_random_state
from toolbox.engine.evaluation.run_evaluator import RunEvaluator
from toolbox.engine.hooks.engine_hooks import build_engine_hooks
from toolbox.engine.hooks.profiler import phase
from toolbox.engine.run_results import write_first_results, write_identity, write_results
from toolbox.engine.run_state import RunProgress, restore_run, save_run
from toolbox.engine.setup import RunSetup
from toolbox.engine.signals import Interrupted, StopSignal
from toolbox.errors import ToolboxError


class Trainer:
    """One training run; hooks see it as `toolbox.base.Run`.

    - `setup`: what the run consists of.
    - `profile`: how many steps to profile, None for none.

    `hooks` are the engine's own, then those of the recipe; `batches` are those of the step that is being made.
    """

    def __init__(self, setup: RunSetup, *, profile: int | None = None) -> None:
        self.setup, self.model, self.config, self.work_dir = setup, setup.model, setup.recipe, setup.work_dir
        self.console, self.distributed, self.is_main = setup.console, setup.distributed, setup.distributed.is_main
        self.step, self.steps, self.steps_per_epoch = 0, setup.length.steps, setup.length.steps_per_epoch
        self.metrics: dict[str, float] = {}
        self.progress = RunProgress(quantization=setup.quantization)
        self.batches: list[Batch] = []
        self.evaluator = RunEvaluator(
            setup, weights=self.evaluation_weights, is_interrupted=self._is_interrupted, leave=self._leave
        )
        self._signal = StopSignal()
        self._signum: int | None = None  # the signal that the processes have agreed to follow
        self._random, self._warned, self._ended = setup.random, False, False
        try:
            self.engine_hooks = build_engine_hooks(self, profile)
            self.hooks = [*self.engine_hooks, *setup.hooks]
            if setup.resume_from is not None:
                self._random = restore_run(self, setup.resume_from) or setup.random
        except BaseException:
            setup.unlock()
            raise

    def run(self) -> dict[str, Any]:
        """Run to the end. Returns what train_results.json holds.

        Raises Interrupted after SIGINT or SIGTERM, with a checkpoint of the last step written if there was one.
        """
        with self._signal, ExitStack() as at_end:
            for hook in reversed(self.hooks):
                at_end.callback(hook.after_run, self)  # of each hook, also where another one's fails
            at_end.callback(self._close)
            try:
                self.distributed.run_on_main(lambda: write_identity(self.setup))
                for hook in self.engine_hooks:
                    hook.before_run(self)
                self.evaluate_before()
                for hook in self.setup.hooks:
                    hook.before_run(self)
                self.evaluate_start()
                self.train()
                return self.evaluate_after()
            except Exception as error:
                for hook in self.hooks:
                    hook.on_exception(self, error)
                raise

    def evaluate_before(self) -> None:
        """Evaluate the backbone as it is, without what is new, once in the life of a run."""
        setup, target = self.setup, self.setup.final
        if self.progress.before is not None or target is None or not setup.settings("evaluate_before"):
            return
        if setup.resume_from is not None:
            self.console.warn("The run was resumed before its 'before' was known: it is left out.")
            return
        precision = "" if setup.eval_precision.name == "fp32" else f", in {setup.eval_precision.name}"
        self.console.info(f"Evaluating the backbone as it is on the {target.name} set{precision} ...")
        self.progress.before = self.evaluator.evaluate_baseline(target, "before")
        write_first_results(self)

    def evaluate_start(self) -> None:
        """Evaluate the model before its first step, on the validation set: where its curves begin."""
        setup = self.setup
        if self.step or setup.resume_from is not None or setup.val is None or not setup.settings("evaluate_before"):
            return
        target = setup.val.without_learning()  # of the features as they are, the "before" says what these would
        if not target.metrics:
            return
        metrics = self.evaluator.evaluate_or_leave(target)
        if metrics:
            self.progress.start = metrics
            self._log_validation(metrics)

    def train(self) -> None:
        """Make all steps that are left; log, evaluate and save where these are due."""
        setup, progress, length = self.setup, self.progress, self.setup.length
        step_hooks = [hook for hook in self.hooks if type(hook).after_step is not Hook.after_step]
        interval = setup.settings("default_hooks.logger.interval")
        with closing(self._begin_training()) as stream:
            last_logged = replace(progress)
            while self.step < self.steps and progress.stopped is None:
                started = time.perf_counter()
                batches = self._next_batches(stream, started)
                self.model.before_step(self.step, self.steps)
                self.batches = [batch for batch in batches if len(batch)]
                setup.train_step(self.batches, self.step, self.steps)
                self.batches = []
                self.model.after_step(self.step, self.steps)
                self.step += 1
                for hook in step_hooks:
                    hook.after_step(self)
                self._agree(batches)
                is_logged = self.step % interval == 0 or self.step == self.steps
                metrics = setup.train_step.read() if is_logged else {}
                progress.seconds += time.perf_counter() - started
                if is_logged:
                    self._log_step(metrics, last_logged)
                    last_logged = replace(progress)
                    self._agree_to_stop()
                self.console.advance(self.step, metrics)
                is_best = self._validate_if_due()
                is_last = self.step == self.steps or progress.stopped is not None
                if is_last or is_best or length.saves(self.step) or self._signum:
                    self.save()
                if self._signum:
                    self._leave()
        if setup.train_step.skip_counter:
            setup.train_step.skip_counter.check_end(self.step)
        if progress.stopped:
            self.console.info(f"Stopped at step {self.step}: {progress.stopped}.")

    def evaluate_after(self) -> dict[str, Any]:
        """Evaluate the best checkpoint, or what hooks choose in its place; returns and writes the results."""
        self._ended = True
        for hook in self.hooks:
            hook.after_train(self)
        setup, best = self.setup, self.progress.best
        if best and best["step"] != self.step:
            path = self.work_dir / f"checkpoint-{best['step']}"
            loading.load_into(self.model, checkpoints.read(path, verify=self.is_main))
        name, metrics = "best checkpoint" if best else "last checkpoint", best["metrics"] if best else None
        is_evaluated = True
        for hook in self.hooks:
            choice = hook.choose_weights(self)
            if choice is not None:
                (name, metrics), is_evaluated = choice, False
        target = setup.test or (None if is_evaluated else setup.val)
        if target is not None:
            self.console.info(f"Evaluating the {name} on the {target.name} set ...")
            metrics = self.evaluator.evaluate_or_leave(target, chosen=metrics)
            self.console.info("after: " + shown(metrics))
        return write_results(self, metrics)

    # ---- what hooks may call

    def log(self, values: dict[str, float]) -> None:
        """Add one line to metrics.jsonl, with the step. Raises ToolboxError, naming it, for what is no number."""
        try:
            values = as_numbers(values)
        except ValueError as error:
            message, hint = f"What was logged holds {error}.", "Log {name: number}."
            raise ToolboxError(message, where="custom_hooks", hint=hint) from error
        self.metrics |= values
        if not self.is_main:
            return
        line = {"step": self.step, "epoch": round(self.epoch, 4), **values}
        run_folder.add_metrics(self.work_dir / "metrics.jsonl", line)
        self.progress.lines += 1
        for hook in self.hooks:
            hook.after_log(self, values)

    @property
    def better(self) -> dict[str, str]:
        """Which values of the validation metrics are better."""
        val = self.setup.val
        return self.setup.settings.directions(val.better or self.progress.better) if val is not None else {}

    @property
    def epoch(self) -> float:
        """How many epochs of the training data were read."""
        return self.setup.length.epoch(self.step)

    def info(self, text: str) -> None:
        """Say something on the console and in train.log."""
        self.console.info(text)

    def warn(self, text: str) -> None:
        """Warn the user, on the console and in train.log."""
        self.console.warn(text)

    def stop(self, reason: str) -> None:
        """End the run after this step, as if it had reached its length."""
        self.progress.stopped = reason

    def evaluate(self) -> dict[str, float]:
        """Evaluate on the validation set now, and log the result."""
        if self.setup.val is None:
            raise ToolboxError("There is no validation set.", hint="Set val_dataloader and val_evaluator.")
        metrics = self.evaluator.evaluate_whole(self.setup.val)
        self.log({f"val/{name}": value for name, value in metrics.items()})
        return metrics

    def save(self) -> Path:
        """Write a checkpoint of this step now; returns its folder. Raises ToolboxError when training has ended."""
        if self._ended:  # the model may hold the best weights by now, or a mix, or an update may be half done
            message = f"A hook saved after training had ended, when the model is no longer that of step {self.step}."
            raise ToolboxError(message, where="custom_hooks", hint="Save in after_step or after_evaluate.")
        path = save_run(self)
        for hook in self.hooks:
            hook.after_save(self, path)
        self._agree_to_stop()
        return path

    @contextmanager
    def evaluation_weights(self) -> Iterator[None]:
        """Within, the model holds the weights that are evaluated and saved, as hooks say."""
        with ExitStack() as weights:
            for hook in self.hooks:
                weights.enter_context(hook.evaluation_weights(self))
            yield

    # ---- parts of a step

    def _begin_training(self) -> Generator[Batch, None, None]:
        """The stream of this process's shares of the batches that are left."""
        setup = self.setup
        self.console.start(self.step, self.steps)
        self.model.train()
        stream = setup.batches(setup.length.batches(self.step), setup.length.batches(self.steps))
        set_random_state(setup.device, self._random)  # only now: what came before training may have drawn
        self._agree_to_stop()
        if setup.resume_from is not None and self._validate_if_due():
            self.save()  # the interrupted run was saved before it could be evaluated
        if self._signum:
            self._leave()  # this run was interrupted there too: the next one evaluates this step
        return stream

    def _next_batches(self, stream: Iterator[Batch], started: float) -> list[Batch]:
        """This process's shares of the batches of a step, on the device."""
        setup, length, ranks = self.setup, self.setup.length, self.distributed.world_size
        with phase("waiting for data"):
            count = length.batches(self.step + 1) - length.batches(self.step)
            batches = [ready(next(stream), setup.training_inputs, setup.torch_device) for _ in range(count)]
            for number, batch in enumerate(batches):
                batch.share = (number * ranks + self.distributed.rank, count * ranks)
        self.progress.data_wait_seconds += time.perf_counter() - started
        setup.bad_items.check(batches, ranks)
        return batches

    def _agree(self, batches: list[Batch]) -> None:
        """Tell the other processes what has happened to this one in a step, and learn the same of them."""
        bad_items = self.setup.bad_items
        fresh = bad_items.fresh(batches)
        items, is_stopped = sum(len(batch) for batch in batches), int(self.progress.stopped is not None)
        cut = sum(count for batch in batches for count in batch.cut.values())
        everyone = self.distributed.all_gather_ints(self._signal.received or 0, is_stopped, len(fresh), items, cut)
        self._signum = max(signum for signum, *_ in everyone) or None
        self.progress.items += sum(count for *_, count, _ in everyone)
        if text := self.progress.count_cut(sum(count for *_, count in everyone), self.step + 1):
            self.warn(text)
        self._stop_all(any(stopped for _, stopped, *_ in everyone))
        if any(count for _, _, count, *_ in everyone):
            bad_items.note([item for items in self.distributed.all_gather(fresh) for item in items])

    def _agree_to_stop(self) -> None:
        """Called where hooks have been: one that stops the run on a single process stops it on all."""
        if self.setup.hooks:
            everyone = self.distributed.all_gather_ints(int(self.progress.stopped is not None))
            self._stop_all(any(stopped for (stopped,) in everyone))

    def _stop_all(self, is_stopped: bool) -> None:
        if is_stopped:
            reasons = self.distributed.all_gather(self.progress.stopped)
            self.progress.stopped = next(reason for reason in reasons if reason is not None)

    def _log_validation(self, metrics: dict[str, float]) -> None:
        self.log({f"val/{name}": value for name, value in metrics.items()})
        self.console.info(f"step {self.step} val: {shown(metrics)}")

    def _log_step(self, metrics: dict[str, float], since: RunProgress) -> None:
        if metrics.get("grad_norm") == 0.0 and not self._warned:
            self._warned = True
            self.console.warn(
                "No gradient reaches the trained parts: the loss learns nothing from these batches. Do they hold "
                "several classes, and several items of each?"
            )
        metrics |= self.progress.rates(since)
        self.log(metrics)

    def _validate_if_due(self) -> bool:
        """Evaluate this step on the validation set, once; whether it is the best so far."""
        setup, val = self.setup, self.setup.val
        is_last = self.step == self.steps or self.progress.stopped is not None
        is_due = self.step and (is_last or setup.length.validates(self.step))
        if val is None or not is_due or self.progress.validated == self.step:
            return False
        try:
            metrics = self.evaluator.evaluate(val)
            if metrics is None:
                return False  # interrupted: the resumed run does it
            name, greater = setup.settings.best_metric(metrics, val.better)
        except ToolboxError:
            if self.distributed.world_size == 1:  # of several processes one may fail alone, and saving takes them all
                self.save()  # no step is lost to an evaluation that cannot be made
            raise
        self.model.on_validation_end(metrics, val.classifiers)
        self.progress.validated, self.progress.better = self.step, val.better
        self._log_validation(metrics)
        is_best = self.progress.update_best(self.step, name, metrics, greater=greater)
        for hook in self.hooks:
            hook.after_evaluate(self, metrics)
        self._agree_to_stop()
        return is_best

    # ---- beginning and ending

    def _close(self) -> None:
        self._ended = True
        self.setup.unlock()
        self.console.stop()

    def _leave(self) -> NoReturn:
        is_saved = checkpoints.all_in(self.work_dir)
        how = "Continue with resume=True." if is_saved else "Nothing was trained yet: start again with overwrite=True."
        raise Interrupted(self._signum or signal.SIGINT, f"Interrupted at step {self.step} of {self.steps}. {how}")

    def _is_interrupted(self) -> bool:
        """Whether a signal has reached any process; all of them must ask."""
        everyone = self.distributed.all_gather_ints(self._signal.received or 0)
        self._signum = max(signum for (signum,) in everyone) or None
        return self._signum is not None
