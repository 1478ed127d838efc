"""Evaluate the model of a run, before, beside and after its steps."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager
from typing import NoReturn

from torch import nn

from toolbox.engine.console import shown
from toolbox.engine.evaluation.evaluator import Evaluator
from toolbox.engine.setup import RunSetup


class RunEvaluator:
    """Evaluates the model of a run.

    - `weights`: gives a context within which the model holds the weights that are evaluated.
    - `is_interrupted`: whether a signal has reached any process; all of them ask together.
    - `leave`: ends the run after such a signal.
    """

    def __init__(
        self,
        setup: RunSetup,
        *,
        weights: Callable[[], AbstractContextManager[None]],
        is_interrupted: Callable[[], bool],
        leave: Callable[[], NoReturn],
    ) -> None:
        self.setup, self._weights, self._is_interrupted, self._leave = setup, weights, is_interrupted, leave
        self._remarks: set[str] = set()

    def evaluate(
        self,
        target: Evaluator,
        mode: str = "predict",
        *,
        model: nn.Module | None = None,
        chosen: dict[str, float] | None = None,
        stop: Callable[[], bool] | None = None,
    ) -> dict[str, float] | None:
        """The metrics of a set; None when `stop` ended the evaluation, by default a signal.

        - `mode`: "predict", or "baseline" for the backbone alone; `model`: another one than the run's.
        - `chosen`: on the test set, the metrics of the validation that chose settings.
        """
        setup = self.setup
        with self._weights():
            metrics = target.evaluate(
                model or setup.parallel.module,
                setup.inputs,
                setup.device,
                setup.eval_precision,
                mode=mode,
                stop=stop or self._is_interrupted,
                feature_cache=None if model else setup.feature_cache,
                chosen=chosen,
            )
        for remark in target.remarks:
            if remark not in self._remarks:  # the same at every validation
                self._remarks.add(remark)
                setup.console.info(f"{target.name}: {remark}")
        return metrics

    def evaluate_whole(self, target: Evaluator) -> dict[str, float]:
        """The metrics of a set, whatever signal comes meanwhile."""
        metrics = self.evaluate(target, stop=lambda: False)
        assert metrics is not None
        return metrics

    def evaluate_or_leave(
        self,
        target: Evaluator,
        mode: str = "predict",
        *,
        model: nn.Module | None = None,
        chosen: dict[str, float] | None = None,
    ) -> dict[str, float]:
        """The same; a signal that ends the evaluation ends the run."""
        metrics = self.evaluate(target, mode, model=model, chosen=chosen)
        if metrics is None:
            self._leave()
        return metrics

    def evaluate_baseline(self, target: Evaluator, name: str, model: nn.Module | None = None) -> dict[str, float]:
        """The metrics of those that can judge without what is trained; empty where none can.

        - `name`: what is evaluated, for messages; `model`: another one than the run's.
        """
        console = self.setup.console
        chosen = self.choose_baseline(target, model)
        metrics = self.evaluate_or_leave(target, "baseline", model=model, chosen=chosen)
        if metrics:
            others = [type(metric).__name__ for metric in target.metrics if metric not in target.active_metrics]
            if others:
                console.info(f"{name}: {', '.join(others)} cannot judge it (a check of the recipe says why)")
        else:
            for problem in target.left_out:
                console.info(f"{name}: left out: {problem}")
        console.info(f"{name}: {shown(metrics) if metrics else 'no metric can judge it'}")
        return metrics

    def choose_baseline(self, target: Evaluator, model: nn.Module | None = None) -> dict[str, float] | None:
        """What the validation set chooses without what is trained, where metrics of a test set have a choice."""
        val = self.setup.val
        if target.name != "test" or val is None or not any(metric.has_choice for metric in target.metrics):
            return None
        return self.evaluate_or_leave(val.with_new_metrics(), "baseline", model=model)
