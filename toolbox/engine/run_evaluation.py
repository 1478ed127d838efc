"""What a run judges before, beside and after its steps: its start, raw features, mixes of weights."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import closing, contextmanager
from typing import Any, NoReturn

from torch import nn

from toolbox.base import Batch, Dataset, ReportItem
from toolbox.engine.assemble import pretrained
from toolbox.engine.checkpoint import checkpoint as checkpoints
from toolbox.engine.checkpoint.files import write_json
from toolbox.engine.console import shown
from toolbox.engine.data.loader import ready, training_batches
from toolbox.engine.device import random_state, set_random_state
from toolbox.engine.evaluation.before_head import compare_with_head
from toolbox.engine.evaluation.evaluator import Evaluator, RawPixels
from toolbox.engine.evaluation.start_comparison import worse_than_start
from toolbox.engine.hooks.average import applied
from toolbox.engine.hooks.wise_ft import curve, mix
from toolbox.engine.norm_statistics import BATCHES
from toolbox.engine.setup import Prepared
from toolbox.engine.signals import Interrupted


class Judging(Prepared):
    """A run that can judge its model; when it does is for `toolbox.engine.trainer` to say."""

    def _before(self) -> None:
        target = self.test or self.val
        if self.progress["before"] is not None or target is None or not self.settings("evaluate_before"):
            return
        if self._from is not None:
            self.console.warn("The run was resumed before its 'before' was known: it is left out.")
            return
        if self.settings("evaluate_pixels"):
            self.console.info(f"Evaluating raw pixels on the {target.name} set ...")
            self.progress["pixels"] = self._judge_bare(target, "raw pixels", RawPixels())
        how = "" if self.eval_precision.name == "fp32" else f", in {self.eval_precision.name}"
        self.console.info(f"Evaluating the backbone as it is on the {target.name} set{how} ...")
        self.progress["before"] = self._judge_bare(target, "before")
        self._write_results({name: self.progress[name] or None for name in ("pixels", "before")})

    def _judge_bare(self, target: Evaluator, what: str, model: nn.Module | None = None) -> dict[str, float]:
        """The numbers of those metrics that can judge without what is trained."""
        found = self._judge_or_leave(target, "baseline", model=model, chosen=self._choose_bare(target, model))
        if found:
            others = [type(metric).__name__ for metric in target.metrics if metric not in target.judges]
            if others:
                self.console.info(f"{what}: {', '.join(others)} cannot judge it (a check of the recipe says why)")
        else:
            for problem in target.left_out:
                self.console.info(f"{what}: left out: {problem}")
        self.console.info(f"{what}: {shown(found) if found else 'no metric can judge it'}")
        return found

    def _choose_bare(self, target: Evaluator, model: nn.Module | None = None) -> dict[str, float] | None:
        """What the validation set chooses without what is trained, where metrics of a test set have a choice."""
        if target.name != "test" or self.val is None or not any(metric.has_choice for metric in target.metrics):
            return None
        return self._judge_or_leave(self.val.with_new_metrics(), "baseline", model=model)

    def _validate_start(self) -> None:
        """Judge the model before its first step, on the validation set: where its curves begin."""
        if self.step or self._from is not None or self.val is None or not self.settings("evaluate_before"):
            return
        target = self.val.without_learning()  # of the features as they are, the "before" says what these would
        if not target.metrics:
            return
        found = self._judge_or_leave(target, "predict")
        if not found:
            return
        self.progress["start"] = found
        self.log({f"val/{name}": value for name, value in found.items()})
        self.console.info(f"step 0 val: {shown(found)}")

    def _compare_with_start(self) -> None:
        """Say where training has made the model worse."""
        said = worse_than_start(self.progress.get("start"), self.progress["best"], self.better, self.config)
        if said:
            self.console.warn(said)

    def _evaluate_before_head(self, after: dict[str, float] | None) -> dict[str, float] | None:
        """The numbers of the trained features before the head; None where they are those of `after`, or there is none.

        - `after`: the numbers behind the head, on the test set, else on the validation set.
        """
        target = self.test or self.val
        if not (after and self.settings("evaluate_features") and self.model.predicts_through_head):
            return None
        target = target.with_new_metrics()
        features = self._judge_or_leave(target, "baseline", chosen=self._choose_bare(target))
        self.console.info(compare_with_head(features, after, target.better))
        return features or None

    def _mix(self, best: dict[str, Any] | None) -> dict[str, Any] | None:
        """Give the model the mix of pretrained and trained weights that validates best, and save it in `wise_ft`."""
        setting = self.settings("train_cfg.wise_ft")
        if setting is None or self.val is None:
            return None
        known = {1.0: best["metrics"]} if best else {}
        alpha, found = mix(
            self.model,
            lambda names: pretrained(self.config, self.classes, names),
            setting["alphas"],
            known=known,
            judge=lambda: self._judge_or_leave(self.val, "predict"),
            say=self.console.info,
            metric=lambda numbers: self.settings.best_metric(numbers, self.val.better),
            estimate=self._estimate_statistics,
        )
        checkpoints.write(
            self.work_dir / checkpoints.WISE_FT,
            best["step"] if best else self.step,
            self.model,
            None,
            recipe=self.config,
            extra=self._identity() | {"wise_ft": {"alpha": alpha}},
            classes=self.class_names,
            trained=self.trained_items,
            distributed=self.distributed,
        )
        self._curves = [curve(found)]
        return {"alpha": alpha, "val": {f"{tried:g}": numbers for tried, numbers in found.items()}}

    def report_items(self, results: dict[str, Any]) -> tuple[Dataset, list[ReportItem]] | None:
        """What the last evaluation shows beyond numbers, with the dataset that its indices are of.

        - `results`: what `execute` returned.
        """
        target = self.test or self.val
        if target is None:
            return None
        found = [found for hook in self.hooks for found in hook.report_items(results)]
        found += [found for metric in target.metrics for found in metric.report_items(target.dataset)]
        return target.dataset, found + self._curves

    def _write_results(self, results: dict[str, Any]) -> None:
        if self.is_main:
            write_json(self.work_dir / "train_results.json", results)

    def _judge(
        self,
        target: Evaluator,
        mode: str,
        *,
        interruptible: bool = True,
        model: nn.Module | None = None,
        chosen: dict[str, float] | None = None,
    ) -> dict[str, float] | None:
        """The metrics' numbers; None when a signal ended an interruptible evaluation."""
        with self._judged_weights():
            numbers = target.evaluate(
                model or self.parallel.module,
                self.inputs,
                self.device,
                self.eval_precision,
                mode=mode,
                stop=lambda: interruptible and self._asked_to_leave(),
                feature_cache=None if model else self.feature_cache,
                chosen=chosen,
            )
        for remark in target.remarks:
            if remark not in self._remarks:  # the same at every validation
                self._remarks.add(remark)
                self.console.info(f"{target.name}: {remark}")
        return numbers

    def _judge_or_leave(self, target: Evaluator, mode: str, **options: Any) -> dict[str, float]:
        """`_judge`, whose numbers may be none; a signal that ends it ends the run."""
        found = self._judge(target, mode, **options)
        if found is None:
            self._leave()
        return found

    @contextmanager
    def _judged_weights(self) -> Iterator[None]:
        """Within, the model is what is judged and saved: the averages, with statistics of their own."""
        with applied(self.average):
            if self.average and self.average.count and self._estimated != self.step:
                self._estimate_statistics()
                self._estimated = self.step
            yield

    def _estimate_statistics(self) -> None:
        """Give batch norms the statistics of the weights that the model holds, from the run's first batches."""
        if not self.statistics.norms:
            return
        stored = self.feature_cache and self.feature_cache.of(self.settings("train_dataloader"), training=True)
        stream = training_batches(
            self.settings,
            self.dataset,
            self.sampler,
            self.training_inputs,
            first=0,
            last=min(BATCHES, self.length.batches(self.steps)),
            pin_memory=self.device.type != "cpu",
            tell=self.console.warn,
            stored=stored,
        )

        def predict(batch: Batch) -> None:
            if all(items for (items,) in self.distributed.all_gather_ints(len(batch))):
                with self.precision.autocast():
                    self.parallel.module(ready(batch, self.training_inputs, self.torch_device), "predict")

        random = random_state(self.device)
        with closing(stream):
            self.statistics.estimate(predict, stream)
        set_random_state(self.device, random)

    def _identity(self) -> dict[str, Any]:
        """What a checkpoint's manifest says beside the recipe."""
        best = self.progress["best"]
        return {"classes": self.classes, "frozen": self.frozen, "plugins": self.plugins, "best": best}

    def _leave(self) -> NoReturn:
        saved = checkpoints.all_in(self.work_dir)
        how = "Continue with resume=True." if saved else "Nothing was trained yet: start again with overwrite=True."
        raise Interrupted(self._asked, f"Interrupted at step {self.step} of {self.steps}. {how}")

    def _asked_to_leave(self) -> bool:
        """Whether a signal has reached any process; all of them must ask."""
        self._asked = max(signum for (signum,) in self.distributed.all_gather_ints(self._signal.received or 0)) or None
        return self._asked is not None
