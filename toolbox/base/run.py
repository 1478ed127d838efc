"""The run as hooks see it."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Protocol

from toolbox.base.model import Model


class Run(Protocol):
    """A training run in progress.

    - `step`: optimizer updates done; `steps`: updates in the whole run; `steps_per_epoch`, no whole number where an
      epoch ends within a step; `epoch`: how many epochs of the training data were read.
    - `model`: the bare model, without wrappers, with the weights that train: where the recipe averages weights, what
      is validated and saved are the averages.
    - `metrics`: newest value of every number logged so far.
    - `better`: "greater" or "less" for each number of the validation metrics, once they have been computed.
    - `work_dir`: the run's folder; write to it only where `is_main` is True.
    """

    step: int
    steps: int
    steps_per_epoch: int | float
    model: Model
    metrics: dict[str, float]
    work_dir: Path
    is_main: bool
    config: dict[str, Any]

    @property
    def epoch(self) -> float:
        """How many epochs of the training data were read."""

    @property
    def better(self) -> dict[str, str]:
        """Which values of the validation metrics are better."""

    def log(self, values: dict[str, float]) -> None:
        """Add one line to metrics.jsonl, with the step."""

    def info(self, text: str) -> None:
        """Write a line to the console and to train.log."""

    def warn(self, text: str) -> None:
        """Write a warning to the console and to train.log."""

    def stop(self, reason: str) -> None:
        """End the run after this step, as if it had reached its length; one process of several is enough."""

    def evaluate(self) -> dict[str, float]:
        """Evaluate on the validation set now, and log the result."""

    def save(self) -> Path:
        """Write a checkpoint of this step now; returns its folder. Raises ToolboxError once training has ended."""
