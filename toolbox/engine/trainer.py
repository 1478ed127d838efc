"""A training run from top to bottom: set up, evaluate before, train, evaluate after.

State is saved only between steps, a step being one optimizer update, and everything that a step depends on is either
a pure function of its number or part of the state: so a resumed run repeats the uninterrupted one bit for bit.
"""

from __future__ import annotations

import time
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from toolbox.base import Batch
from toolbox.base.scalars import as_numbers, as_plain
from toolbox.engine import out_of_memory
from toolbox.engine import resume as resuming
from toolbox.engine.checkpoint import checkpoint as checkpoints
from toolbox.engine.checkpoint import loading, run_folder
from toolbox.engine.checkpoint.files import write_json, write_text
from toolbox.engine.console import shown
from toolbox.engine.data.loader import ready, training_batches
from toolbox.engine.data_line import count_data, describe_data
from toolbox.engine.device import cores, peak_memory, random_state, set_random_state
from toolbox.engine.hooks.profiler import phase
from toolbox.engine.run_evaluation import Judging
from toolbox.errors import Problem, ToolboxError


class Trainer(Judging):
    """One training run, with the arguments of `Prepared`; hooks see it as `toolbox.base.Run`."""

    # ---- what hooks may call

    def log(self, values: dict[str, float]) -> None:
        """Add one line to metrics.jsonl, with the step. Raises ToolboxError, naming it, for what is no number."""
        try:
            values = as_numbers(values)
        except ValueError as error:
            raise ToolboxError(
                f"What was logged holds {error}.", where="custom_hooks", hint="Log {name: number}."
            ) from error
        self.metrics |= values
        if not self.is_main:
            return
        line = {"step": self.step, "epoch": round(self.epoch, 4), **values}
        run_folder.add_metrics(self.work_dir / "metrics.jsonl", line)
        self.progress["lines"] += 1
        for hook in self.hooks:
            hook.after_log(self, values)

    @property
    def better(self) -> dict[str, str]:
        """Which values of the validation metrics are better."""
        return self.settings.directions(self.val.better) if self.val is not None else {}

    @property
    def epoch(self) -> float:
        """How many epochs of the training data were read."""
        return self.length.epoch(self.step)

    def info(self, text: str) -> None:
        """Say something on the console and in train.log."""
        self.console.info(text)

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
        """Write a checkpoint of this step now; returns its folder. Raises ToolboxError when training has ended."""
        if self._ended:  # the model may hold the best weights by now, or a mix, or an update may be half done
            raise ToolboxError(
                f"A hook saved after training had ended, when the model is no longer that of step {self.step}.",
                where="custom_hooks",
                hint="Save in after_step or after_evaluate.",
            )
        self.update.check_finite(weights=True)
        best, extra = self.progress["best"], self._identity()
        with self._judged_weights():
            state = {
                "update": self.update.state_dict(),
                "random": self.distributed.all_gather(random_state(self.device)),
                "progress": self.progress,
                "metrics": self.metrics,
                "hooks": resuming.hook_states(self.hooks),
                "bad_items": self.bad_items.found,
                "average": self.average.state_dict() if self.average else None,
            }
            path = checkpoints.save(
                self.work_dir,
                self.step,
                self.model,
                state,
                recipe=self.config,
                extra=extra,
                classes=self.class_names,
                trained=self.trained_items,
                distributed=self.distributed,
            )
        if self.is_main:
            if best and best["step"] == self.step:
                checkpoints.point(self.work_dir / "best", path)
            checkpoints.rotate(self.work_dir, self.settings("default_hooks.checkpoint.max_keep_ckpts"))
        for hook in self.hooks:
            hook.after_save(self, path)
        self._agree_to_stop()
        return path

    # ---- the run

    def execute(self) -> dict[str, Any]:
        """Run to the end. Returns what train_results.json holds.

        Raises Interrupted after SIGINT or SIGTERM, with a checkpoint of the last step written if there was one.
        """
        with self._signal, ExitStack() as ends:
            for hook in reversed(self.hooks):
                ends.callback(hook.after_run, self)  # of each hook, also where another one's fails
            ends.callback(self._end)
            self.distributed.run_on_main(self._write_identity)
            self._before()
            for hook in self.hooks:
                hook.before_run(self)
            self._validate_start()
            self._train()
            return self._after()

    def _end(self) -> None:
        self._ended = True
        if self._stream is not None:
            self._stream.close()  # its workers end now, also where an error keeps hold of it
        self._unlock()
        self.console.stop()

    def _write_identity(self) -> None:
        if self._overwrite:
            run_folder.clear(self.work_dir)
        self.distributed.begin()
        write_text(self.work_dir / "config.py", self.source)
        about = run_folder.environment(str(self.device), self.plugins, self.overridden)
        write_json(self.work_dir / "environment.json", about)
        self.console.log_file = self.work_dir / "train.log"
        for note in (describe_data(self.datasets), *self.dataset.notes(), *self.sampler.notes()):
            self.console.info(note)
        workers = self.settings("train_dataloader.num_workers")
        if workers > cores():
            self.console.info(f"{workers} data workers share {cores()} cores: fewer may be as fast.")

    def _train(self) -> None:
        self.console.start(self.step, self.steps)
        self.model.train()
        stream = self._stream = training_batches(
            self.settings,
            self.dataset,
            self.sampler,
            self.training_inputs,
            first=self.length.batches(self.step),
            last=self.length.batches(self.steps),
            pin_memory=self.device.type != "cpu",
            tell=self.console.warn,
            stored=self.feature_cache and self.feature_cache.of(self.settings("train_dataloader"), training=True),
        )
        set_random_state(self.device, self._random)  # only now: what came before training may have drawn
        self._agree_to_stop()
        if self._from is not None and self._validate_if_due():
            self.save()  # the interrupted run was saved before it could be judged
        if self._asked:
            self._leave()  # this run was interrupted there too: the next one judges this step
        interval = self.settings("default_hooks.logger.interval")
        mark = dict(self.progress)
        while self.step < self.steps and self.progress["stopped"] is None:
            started = time.perf_counter()
            with phase("waiting for data"):
                count = self.length.batches(self.step + 1) - self.length.batches(self.step)
                got = [ready(next(stream), self.training_inputs, self.torch_device) for _ in range(count)]
                for number, batch in enumerate(got):
                    batch.share = (
                        number * self.distributed.world_size + self.distributed.rank,
                        count * self.distributed.world_size,
                    )
            self.progress["data_wait_seconds"] += time.perf_counter() - started
            self.bad_items.check(got, self.distributed.world_size)
            self.model.before_step(self.step, self.steps)
            own = [batch for batch in got if len(batch)]
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
                self._agree_to_stop()
            self.console.advance(self.step, numbers)
            better = self._validate_if_due()
            last = self.step == self.steps or self.progress["stopped"] is not None
            if last or better or self.length.saves(self.step) or self._asked:
                self.save()
            if self._asked:
                self._leave()
        if self.update.left_out:
            self.update.left_out.check_end(self.step)
        if self.progress["stopped"]:
            self.console.info(f"Stopped at step {self.step}: {self.progress['stopped']}.")

    def _agree(self, got: list[Batch]) -> None:
        """Tell the other processes what has happened to this one in a step, and learn the same of them."""
        fresh = self.bad_items.fresh(got)
        items = sum(len(batch) for batch in got)
        stopped = self.progress["stopped"]
        told = self.distributed.all_gather_ints(self._signal.received or 0, int(stopped is not None), len(fresh), items)
        self._asked = max(signum for signum, _, _, _ in told) or None
        self.progress["items"] += sum(count for _, _, _, count in told)
        self._stop_all(any(stop for _, stop, _, _ in told))
        if any(count for _, _, count, _ in told):
            self.bad_items.note([one for found in self.distributed.all_gather(fresh) for one in found])

    def _agree_to_stop(self) -> None:
        """Called where hooks have been: one that stops the run on a single process stops it on all."""
        if self.hooks:
            told = self.distributed.all_gather_ints(int(self.progress["stopped"] is not None))
            self._stop_all(any(stop for (stop,) in told))

    def _stop_all(self, wanted: bool) -> None:
        if wanted:
            reasons = self.distributed.all_gather(self.progress["stopped"])
            self.progress["stopped"] = next(reason for reason in reasons if reason is not None)

    def _validate_if_due(self) -> bool:
        """Evaluate this step on the validation set, once; whether it is the best so far."""
        last = self.step == self.steps or self.progress["stopped"] is not None
        due = self.step and (last or self.length.validates(self.step))
        if self.val is None or not due or self.progress["validated"] == self.step:
            return False
        try:
            found = self._judge(self.val, "predict")
            if found is None:
                return False  # interrupted: the resumed run does it
            name, greater = self.settings.best_metric(found, self.val.better)
        except ToolboxError:
            if self.distributed.world_size == 1:  # of several processes one may fail alone, and saving takes them all
                self.save()  # the step is good, only its judge failed
            raise
        self.model.on_validation_end(found, self.val.classifiers)
        self.progress["validated"] = self.step
        self.log({f"val/{name}": value for name, value in found.items()})
        self.console.info(f"step {self.step} val: {shown(found)}")
        best = self.progress["best"]
        better = best is None or (found[name] > best["value"] if greater else found[name] < best["value"])
        if better:
            self.progress["best"] = {"step": self.step, "metric": name, "value": found[name], "metrics": found}
        for hook in self.hooks:
            hook.after_evaluate(self, found)
        self._agree_to_stop()
        return better

    def _after(self) -> dict[str, Any]:
        self._ended = True
        best = self.progress["best"]
        if self.average:
            self.average.swap()  # for good: from here on the model is what checkpoints hold
            self.average = None
        if best and best["step"] != self.step:
            path = self.work_dir / f"checkpoint-{best['step']}"
            loading.load_into(self.model, checkpoints.read(path, verify=self.is_main))
        mixed = self._mix(best)
        after, target = best["metrics"] if best else None, self.test or (self.val if mixed else None)
        if target is not None:
            what = f"mix with alpha {mixed['alpha']:g}" if mixed else "best checkpoint" if best else "last checkpoint"
            self.console.info(f"Evaluating the {what} on the {target.name} set ...")
            chosen = mixed["val"][f"{mixed['alpha']:g}"] if mixed else best and best["metrics"]
            after = self._judge_or_leave(target, "predict", chosen=chosen)
            self.console.info("after: " + shown(after))
        self._compare_with_start()
        results = run_folder.results(self.progress, after) | {
            "start": self.progress.get("start"),
            "better": (target or self.val).better if target or self.val else {},
            "settings": (target or self.val).settings if target or self.val else [],
            "before_head": self._evaluate_before_head(after),
            "wise_ft": mixed,
            "quantization": self.progress.get("quantization"),
            "steps": self.step,
            "peak_memory_bytes": peak_memory(self.device),
            "precision": self.precision.name,
            "eval_precision": self.eval_precision.name,
            "device": str(self.device),
            "processes": self.distributed.world_size,
            "threads": self.threads,
            "unreadable_items": len(self.bad_items.found),
            "skipped_steps": self.update.left_out.count if self.update.left_out else 0,
            "features": self.feature_cache.results() if self.feature_cache else None,
            "data": count_data(self.datasets),
        }
        wrong: list[Problem] = []
        for number, hook in enumerate(self.hooks):
            entries = hook.on_run_end(self, results)
            try:
                results = as_plain(dict(entries)) | results
            except (TypeError, ValueError) as error:
                message = f"{type(hook).__name__}.on_run_end gives what JSON cannot hold: {error}."
                wrong.append(Problem(message, f"custom_hooks.{number}", "Return numbers, text, lists and dicts."))
        self._write_results(results)
        if wrong:  # only now: the results of the run are on disk
            raise ToolboxError.of(wrong)
        return results

    # ---- small parts

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
