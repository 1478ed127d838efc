"""How far a run has come: what is kept in its checkpoints beside weights and states."""

from __future__ import annotations

from dataclasses import asdict, dataclass, fields
from typing import Any


@dataclass
class RunProgress:
    """How far a run has come.

    - `seconds`, `data_wait_seconds`: spent in steps, and of these waiting for data; `items`: read by all processes.
    - `pixels`, `before`, `start`: metrics of raw pixels, of the backbone as it was, and of step 0; None if not known.
    - `best`: step, metric, value and all metrics of the best validation; `validated`: the step of the last one.
    - `stopped`: why the run ended early; `lines`: of metrics.jsonl.
    - `quantization`: what quantising changed, by backbone.
    """

    seconds: float = 0.0
    data_wait_seconds: float = 0.0
    items: int = 0
    pixels: dict[str, float] | None = None
    before: dict[str, float] | None = None
    start: dict[str, float] | None = None
    best: dict[str, Any] | None = None
    validated: int = 0
    stopped: str | None = None
    lines: int = 0
    quantization: dict[str, Any] | None = None

    def rates(self, since: RunProgress) -> dict[str, float]:
        """Items a second, and the share of the time that was spent waiting for data, since an earlier progress."""
        seconds = self.seconds - since.seconds
        waited = self.data_wait_seconds - since.data_wait_seconds
        return {
            "items_per_second": round((self.items - since.items) / seconds, 2),
            "data_wait_share": round(waited / seconds, 4),
        }

    def update_best(self, step: int, name: str, metrics: dict[str, float], *, greater: bool) -> bool:
        """Remember a validation that is the best so far by the metric `name`; whether it is.

        - `greater`: whether greater values are better; of equal ones the first is best.
        """
        value = metrics[name]
        if self.best is not None and not (value > self.best["value"] if greater else value < self.best["value"]):
            return False
        self.best = {"step": step, "metric": name, "value": value, "metrics": metrics}
        return True

    def state_dict(self) -> dict[str, Any]:
        """What a checkpoint keeps."""
        return asdict(self)

    @classmethod
    def from_state(cls, state: dict[str, Any]) -> RunProgress:
        """The progress that a checkpoint has kept."""
        known = {item.name for item in fields(cls)}
        return cls(**{name: value for name, value in state.items() if name in known})

    def results(self) -> dict[str, Any]:
        """What train_results.json tells of it."""
        return {
            "pixels": self.pixels or None,
            "before": self.before or None,
            "best": self.best,
            "start": self.start,
            "stopped": self.stopped,
            "seconds": round(self.seconds, 3),
            "items_per_second": round(self.items / self.seconds, 2) if self.seconds else None,
            "data_wait_seconds": round(self.data_wait_seconds, 3),
            "quantization": self.quantization,
        }
