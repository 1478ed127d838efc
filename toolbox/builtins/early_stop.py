"""Ending a run that improves no more."""

from __future__ import annotations

import math
from typing import Any, Literal

from toolbox.base import Hook, Run
from toolbox.errors import Problem, ToolboxError


class EarlyStop(Hook):
    """Ends the run after `patience` evaluations in a row without a new best.

    - `metric`: a name that the validation metrics report.
    - `patience`: evaluations without improvement, at least 1.
    - `mode`: "max" when larger is better, "min" when smaller is; None as the metric says (`Metric.better`).
    - `min_delta`: how much better than the best so far counts as an improvement.

    The count survives a resume. Raises ValueError for values outside these, and ToolboxError at the first evaluation
    when there is no such metric.
    """

    def __init__(
        self,
        metric: str = "recall@1",
        patience: int = 3,
        mode: Literal["max", "min"] | None = None,
        min_delta: float = 0.0,
    ):
        if patience < 1:
            raise ValueError(f"patience={patience}, and a run needs at least 1 evaluation to improve in.")
        if mode not in ("max", "min", None):
            raise ValueError(f"mode={mode!r} does not exist. Try 'max' or 'min', or None: as the metric says.")
        if min_delta < 0:
            raise ValueError(f"min_delta={min_delta} must be 0 or positive; mode='min' says that smaller is better.")
        self.metric, self.patience, self.mode, self.min_delta = metric, patience, mode, min_delta
        self.best: float | None = None
        self.waited = 0

    def check(self, metrics: list[str] | None) -> list[Problem]:
        if metrics is None or self.metric in metrics:
            return []
        known = ", ".join(metrics) or "none, as there is no val_evaluator"
        return [Problem(f"There is no validation metric '{self.metric}'.", "metric", f"There are: {known}.")]

    def after_evaluate(self, run: Run, metrics: dict[str, float]) -> None:
        if self.metric not in metrics:
            raise ToolboxError(
                f"core.EarlyStop watches '{self.metric}', and the evaluation reports no such number.",
                hint=f"Set metric to one of {', '.join(sorted(metrics)) or 'none: there is no val_evaluator'}.",
            )
        value = float(metrics[self.metric])
        # a run that tells no directions, in a test of a hook, has metrics whose greater numbers are better
        less = (self.mode or getattr(run, "better", {}).get(self.metric)) in ("min", "less")
        gain = math.inf if self.best is None else self.best - value if less else value - self.best
        if gain > self.min_delta and not math.isnan(value):  # a NaN never is the best
            self.best, self.waited = value, 0
            return
        self.waited += 1
        if self.waited >= self.patience:
            best = "none" if self.best is None else f"{self.best:.4g}"
            run.stop(f"{self.metric} has not improved on {best} in {self.waited} evaluations")

    def state_dict(self) -> dict[str, Any]:
        return {"best": self.best, "waited": self.waited}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.best, self.waited = state["best"], state["waited"]
