"""The extension point for what happens at named points of a run."""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext
from typing import Any

from toolbox.base.report_items import ReportItem
from toolbox.base.run import Run
from toolbox.errors import Problem


class Hook:
    """Override what you need; hooks run in the order of the recipe.

    Of several processes each has its hooks, and calls all of these except `after_log`, which the main process calls
    alone. What concerns all of them (`run.evaluate`, `run.save`, the model's state) must be called on all of them.

    For example:

        class StopWhenGood(Hook):
            def __init__(self, metric: str = "recall@1", value: float = 0.9):
                self.metric, self.value = metric, value
            def after_evaluate(self, run, metrics):
                if metrics[self.metric] >= self.value:
                    run.stop(f"{self.metric} reached {self.value}")
    """

    def check(self, metrics: list[str] | None) -> list[Problem]:
        """Problems of its settings; `metrics`: names of the validation metrics, None if they are not known before."""
        return []

    def before_run(self, run: Run) -> None:
        """Once, before the first step (also of a resumed run)."""

    def after_step(self, run: Run) -> None:
        """After every step; keep it cheap and free of device synchronisation."""

    def after_log(self, run: Run, values: dict[str, float]) -> None:
        """After numbers were logged."""

    def after_evaluate(self, run: Run, metrics: dict[str, float]) -> None:
        """After each evaluation on the validation set."""

    def after_save(self, run: Run, path: Any) -> None:
        """After a checkpoint is complete; `path` is its folder."""

    def evaluation_weights(self, run: Run) -> AbstractContextManager[None]:
        """A context within which the model holds the weights that are evaluated and saved; default: as they are."""
        return nullcontext()

    def after_train(self, run: Run) -> None:
        """Once, after the last step, before the best checkpoint is loaded and evaluated."""

    def choose_weights(self, run: Run) -> tuple[str, dict[str, float]] | None:
        """Once, with the weights of the best checkpoint in the model: give it others that are evaluated in their place.

        Returns what they are called in messages and their validation metrics, None to leave the weights as they are.
        """

    def on_exception(self, run: Run, error: Exception) -> None:
        """Called when an error ends the run; raise another one from it to explain more."""

    def after_run(self, run: Run) -> None:
        """Once, at the end, also when the run failed or was interrupted."""

    def on_run_end(self, run: Run, results: dict[str, Any]) -> dict[str, Any]:
        """After the last evaluation: the hook's entries for train_results.json; `results` is its content so far."""
        return {}

    def report_items(self, results: dict[str, Any]) -> list[ReportItem]:
        """Items of the hook for the report; `results` is the content of train_results.json."""
        return []

    def state_dict(self) -> dict[str, Any]:
        """State that a resumed run needs: numbers, strings, lists, dicts and tensors."""
        return {}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Take back what `state_dict` returned."""
