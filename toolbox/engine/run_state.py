"""The state of a run between two steps: how far it has come, written to a checkpoint, and taken back from one."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import TYPE_CHECKING, Any

from torch import Tensor

from toolbox.base import Hook
from toolbox.engine.assemble import kept_norms
from toolbox.engine.checkpoint import checkpoint as checkpoints
from toolbox.engine.checkpoint import run_folder
from toolbox.engine.checkpoint.files import point
from toolbox.engine.console import Console
from toolbox.engine.data.texts import describe_cut
from toolbox.engine.device import random_state
from toolbox.engine.distributed.tensors import are_sharded
from toolbox.engine.hooks.average import WeightAveraging, restore_weights
from toolbox.engine.resume import differences, turn_back

if TYPE_CHECKING:
    from toolbox.engine.trainer import Trainer


@dataclass
class RunProgress:
    """How far a run has come.

    - `seconds`, `data_wait_seconds`: spent in steps, and of these waiting for data; `items`: read by all processes.
    - `cut_texts`: how many texts that were read had more tokens than the model reads.
    - `pixels`, `before`, `start`: metrics of raw pixels, of the backbone as it was, and of step 0; None if not known.
    - `best`: step, metric, value and all metrics of the best validation; `validated`: the step of the last one.
    - `better`: "greater" or "less" for each number of the validations.
    - `stopped`: why the run ended early; `lines`: of metrics.jsonl.
    - `quantization`: what quantising changed, by backbone.
    """

    seconds: float = 0.0
    data_wait_seconds: float = 0.0
    items: int = 0
    cut_texts: int = 0
    pixels: dict[str, float] | None = None
    before: dict[str, float] | None = None
    start: dict[str, float] | None = None
    best: dict[str, Any] | None = None
    better: dict[str, str] = field(default_factory=dict)
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

    def count_cut(self, count: int, step: int) -> str:
        """Count texts that were cut in a step; returns what is said of it, once in a run, else nothing."""
        text = describe_cut(count, f"in step {step}") if count and not self.cut_texts else ""
        self.cut_texts += count
        return text

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


def save_run(run: Trainer) -> Path:
    """Write a checkpoint of a run's present step, with the weights that are evaluated; returns its folder.

    Raises ToolboxError where a weight is not finite, and when the disk refuses.
    """
    setup, best = run.setup, run.progress.best
    setup.train_step.check_finite(weights=True)
    with run.evaluation_weights():
        state = {
            "update": setup.train_step.state_dict(),
            "random": run.distributed.all_gather(random_state(setup.device)),
            "progress": run.progress.state_dict(),
            "metrics": run.metrics,
            "hooks": [{"hook": type(hook).__name__, "state": hook.state_dict()} for hook in setup.hooks],
            "bad_items": setup.bad_items.found,
            "average": None if (averaging := _find_averaging(run)) is None else averaging.state_dict(),
        }
        path = checkpoints.save(
            run.work_dir,
            run.step,
            run.model,
            state,
            recipe=run.config,
            extra=manifest_entries(run),
            classes=setup.class_names,
            trained=setup.trained_items,
            distributed=run.distributed,
        )
    if run.is_main:
        if best and best["step"] == run.step:
            point(run.work_dir / "best", path)
        checkpoints.rotate(run.work_dir, setup.settings("default_hooks.checkpoint.max_keep_ckpts"))
    return path


def manifest_entries(run: Trainer) -> dict[str, Any]:
    """What a checkpoint's manifest says beside the recipe."""
    setup = run.setup
    return {
        "classes": setup.classes,
        "frozen": setup.frozen,
        "plugins": setup.plugins,
        "best": run.progress.best,
    }


def restore_run(run: Trainer, checkpoint: checkpoints.Checkpoint) -> dict[str, Any] | None:
    """Continue a run from a checkpoint, whose weights its model holds already; its folder is as it was then.

    Returns the state of this process's generators, None where the checkpoint is of another number of processes.
    """
    setup, console, distributed = run.setup, run.console, run.distributed
    for difference in differences(
        checkpoint, setup.recipe, setup.plugins, setup.classes, distributed.world_size, kept_norms(run.model)
    ):
        console.warn(difference)
    parameters = dict(run.model.named_parameters())
    state = checkpoint.state(parameters if are_sharded(parameters) else None)
    setup.train_step.load_state_dict(state["update"])
    _restore_average(run, state.get("average"), parameters | dict(run.model.named_buffers()))
    _restore_hooks(setup.hooks, state["hooks"], console)
    setup.bad_items.found = state["bad_items"]
    run.step, run.metrics, run.progress = checkpoint.step, state["metrics"], RunProgress.from_state(state["progress"])
    then = checkpoint.manifest["recipe"]
    if any(then[key] != setup.recipe[key] for key in ("train_cfg", "custom_hooks")):
        run.progress.stopped = None  # what ended the run was changed: it may go on

    def restore_folder() -> tuple[dict[str, Any] | None, int]:
        best = turn_back(run.work_dir, run.step, run.progress.best, console)
        return best, run_folder.cut_metrics(run.work_dir / "metrics.jsonl", run.step, run.progress.lines)

    run.progress.best, run.progress.lines = distributed.run_on_main(restore_folder)
    console.info(f"Resuming at step {run.step} from {checkpoint.path}.")
    random = state["random"] if isinstance(state["random"], list) else [state["random"]]
    return random[distributed.rank] if len(random) == distributed.world_size else None


def _find_averaging(run: Trainer) -> WeightAveraging | None:
    return next((hook for hook in run.engine_hooks if isinstance(hook, WeightAveraging)), None)


def _restore_average(run: Trainer, state: dict[str, Any] | None, tensors: dict[str, Tensor]) -> None:
    """Put the weights that training goes on from into a model that holds what the checkpoint's model held."""
    averaging = _find_averaging(run)
    if state is not None and averaging is not None:
        averaging.load_state_dict(state)
    elif state is not None:  # averaging was switched off
        restore_weights(tensors, state)


def _restore_hooks(hooks: list[Hook], saved: list[dict[str, Any]], console: Console) -> None:
    """Give each hook its state back. Hooks that are new, gone or in another order are told, and start afresh."""
    if [type(hook).__name__ for hook in hooks] != [item["hook"] for item in saved]:
        console.warn("The hooks are not those of the checkpoint: they start afresh.")
        return
    for hook, item in zip(hooks, saved, strict=True):
        hook.load_state_dict(item["state"])
