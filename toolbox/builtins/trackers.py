"""Hooks that send what a run logs to an experiment tracker: every line of metrics.jsonl, and the recipe.

A tracker never ends a run. One that cannot start is a ToolboxError before the first step, as for any wrong setting;
one that fails later is reported once and left out from then on: metrics.jsonl has everything.
"""

from __future__ import annotations

import json
import os
import re
import secrets
import sys
import time
from abc import abstractmethod
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any, Literal

from toolbox.base import Hook, Run
from toolbox.base.files import write_text
from toolbox.errors import Problem, ToolboxError


class Tracker(Hook):
    """Opens a tracker before the first step, sends it every logged line, closes it at the end."""

    _open = _failed = False

    @abstractmethod
    def start(self, run: Run) -> None:
        """Open the tracker and tell it the recipe."""

    @abstractmethod
    def send(self, run: Run, values: dict[str, float]) -> None:
        """Log numbers at `run.step`."""

    @abstractmethod
    def finish(self, failed: bool) -> None:
        """Close the tracker; `failed`: the run came to no regular end."""

    def before_run(self, run: Run) -> None:
        if not run.is_main:
            return
        try:
            self.start(run)
        except Exception as error:  # any library's own kinds
            with suppress(Exception):  # as far as it was opened
                self.finish(failed=True)
            name = type(self).__name__
            raise ToolboxError(
                f"core.{name} cannot start: {_describe_error(error)}",
                where="custom_hooks",
                hint=f"Log in, update the package, try mode='offline' where there is one, or remove core.{name}.",
            ) from error
        self._open = True

    def after_log(self, run: Run, values: dict[str, float]) -> None:
        self._try(run, lambda: self.send(run, {"epoch": run.epoch, **values}))

    def _try(self, run: Run, action: Callable[[], None]) -> None:
        """Have the open tracker do something; the first time that it cannot is told, and it is asked no more."""
        if not self._open or self._failed:
            return
        try:
            action()
        except Exception as error:
            self._failed = True
            run.warn(
                f"core.{type(self).__name__} failed at step {run.step} and is left out for the rest of the run: "
                f"{_describe_error(error)}. metrics.jsonl holds every number."
            )

    def after_run(self, run: Run) -> None:
        if not self._open:
            return
        self._open = False
        try:
            self.finish(failed=sys.exc_info()[0] is not None)
        except Exception as error:
            if self._failed:
                return  # it was told already that this one does not work
            run.warn(f"core.{type(self).__name__} could not be closed: {_describe_error(error)}.")


class TensorBoard(Tracker):
    """Writes event files for TensorBoard.

    - `log_dir`: where; the run's folder gets one of its name there. None: `tensorboard` in the run's folder.

    A resumed run replaces what was written after the step that it continues from.
    """

    def __init__(self, log_dir: str | None = None):
        self.log_dir = log_dir

    def start(self, run: Run) -> None:
        from torch.utils.tensorboard import SummaryWriter

        folder = run.work_dir / "tensorboard" if self.log_dir is None else Path(self.log_dir) / run.work_dir.name
        self._writer = SummaryWriter(str(folder), purge_step=run.step + 1 if run.step else 0)
        if not run.step:
            text = json.dumps(run.config, indent=2, default=str)
            self._writer.add_text("config", "\n".join(f"    {line}" for line in text.splitlines()), 0)

    def send(self, run: Run, values: dict[str, float]) -> None:
        for name, value in values.items():
            self._writer.add_scalar(name, value, run.step)

    def after_save(self, run: Run, path: Any) -> None:
        self._try(run, lambda: self._writer.flush())  # a run that continues from here finds all lines before it

    def finish(self, failed: bool) -> None:
        self._writer.close()


class Service(Tracker):
    """A tracker that knows runs by an id. A resumed run goes on under its id and sends no line twice.

    What was sent is noted in `trackers.json` in the run's folder: a killed run repeats the lines since its last
    checkpoint, with the same numbers, and they are there already.
    """

    resumed = False
    _run: Any  # the library's own

    def __init__(self, project: str, name: str | None = None, mode: str | None = None) -> None:
        self.id = secrets.token_hex(11)[:21]  # SwanLab wants 21 characters
        self.project, self.name, self.mode = project, name, mode

    @abstractmethod
    def open(self, run: Run) -> None:
        """Open the run `self.id` as `_run`; it exists already where `self.resumed`."""

    def log(self, values: dict[str, float], step: int) -> None:
        """Log numbers at a step."""
        self._run.log(values, step=step)

    def finish(self, failed: bool) -> None:
        self._run.finish()

    def check(self, metrics: list[str] | None) -> list[Problem]:
        return [] if self.project.strip() else [Problem("A project has a name.", "project")]

    def start(self, run: Run) -> None:
        sent = _read(run.work_dir / "trackers.json").get(self.id, {})
        self._step, self._names = sent.get("step", -1), set(sent.get("names", ()))
        self.open(run)

    def send(self, run: Run, values: dict[str, float]) -> None:
        new = {k: v for k, v in values.items() if run.step > self._step or k not in self._names}
        if run.step < self._step or not new.keys() - {"epoch"}:
            return
        self.log(new, run.step)
        self._names = (self._names if run.step == self._step else set()) | new.keys()
        self._step = run.step
        file = run.work_dir / "trackers.json"
        known = _read(file) | {self.id: {"step": self._step, "names": sorted(self._names)}}
        write_text(file, json.dumps(known))

    def state_dict(self) -> dict[str, Any]:
        return {"id": self.id}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.id, self.resumed = state["id"], True


class WandB(Service):
    """Sends metrics and the recipe to Weights & Biases.

    - `project`: where the run appears; `name`: of the run, None for that of its folder.
    - `mode`: "online", "offline" (files in the run's folder, for `wandb sync`) or "disabled"; None: as W&B is set up.
    """

    def __init__(
        self, project: str, name: str | None = None, mode: Literal["online", "offline", "disabled"] | None = None
    ):
        super().__init__(project, name, mode)

    def open(self, run: Run) -> None:
        import wandb

        self._run = wandb.init(
            project=self.project,
            name=self.name or run.work_dir.name,
            id=self.id,
            dir=str(run.work_dir),
            config=run.config,
            mode=self.mode,
            resume="allow" if self.resumed else None,
            allow_val_change=True,
        )
        # an axis of our own: on W&B's, a resumed run can add nothing to the last step that it has logged
        self._run.define_metric("step", hidden=True)
        self._run.define_metric("*", step_metric="step")

    def log(self, values: dict[str, float], step: int) -> None:
        self._run.log({"step": step, **values})

    def finish(self, failed: bool) -> None:
        self._run.finish(exit_code=int(failed))


class Trackio(Service):
    """Logs metrics and the recipe with Trackio, locally; `trackio show` displays them.

    - `project`: where the run appears; `name`: of the run, None for that of its folder and a few digits. A run of
      this name that the project has already is continued only by `--resume`.
    """

    def __init__(self, project: str, name: str | None = None):
        super().__init__(project, name)

    def open(self, run: Run) -> None:
        import trackio

        self._run = trackio.init(
            project=self.project,
            name=self.name or f"{run.work_dir.name}-{self.id[:6]}",
            config=run.config,
            resume="allow" if self.resumed else "never",
        )


class SwanLab(Service):
    """Sends metrics and the recipe to SwanLab.

    - `project`: where the run appears; `name`: of the run, None for that of its folder.
    - `mode`: "cloud", "local", "offline" or "disabled"; None: as SwanLab is set up.
    """

    def __init__(
        self,
        project: str,
        name: str | None = None,
        mode: Literal["cloud", "local", "offline", "disabled"] | None = None,
    ):
        super().__init__(project, name, mode)

    def open(self, run: Run) -> None:
        import swanlab

        resumable = {"id": self.id, "resume": "allow"} if self.mode in (None, "cloud") else {}
        self._run = swanlab.init(
            project=self.project,
            experiment_name=self.name or run.work_dir.name,
            config=run.config,
            mode=self.mode,
            logdir=str(run.work_dir / "swanlog"),
            **resumable,
        )


class MLflow(Service):
    """Logs metrics and the recipe with MLflow; `mlflow ui --backend-store-uri URI` displays them.

    - `experiment`: where the run appears; it is made if there is none. `name`: of the run, None for that of its folder.
    - `tracking_uri`: a server or a store, such as "http://host:5000" or "sqlite:////data/mlflow.db". None: as
      MLFLOW_TRACKING_URI says, else `mlflow.db` in the run's folder.

    The recipe is there as parameters, one for every key. An interrupted run is marked as killed, one with an error as
    failed; both run again when they are resumed.
    """

    def __init__(self, experiment: str = "toolbox", name: str | None = None, tracking_uri: str | None = None):
        super().__init__(experiment, name)
        self.experiment, self.tracking_uri = experiment, tracking_uri

    def check(self, metrics: list[str] | None) -> list[Problem]:
        return [] if self.experiment.strip() else [Problem("An experiment has a name.", "experiment")]

    def open(self, run: Run) -> None:
        from mlflow import MlflowClient
        from mlflow.entities import Param

        default = f"sqlite:///{run.work_dir.resolve() / 'mlflow.db'}"
        uri = self.tracking_uri or os.environ.get("MLFLOW_TRACKING_URI") or default
        self._client = MlflowClient(tracking_uri=uri)
        if self.resumed:
            self._client.update_run(self.id, status="RUNNING")
            return
        experiment = self._client.get_experiment_by_name(self.experiment)
        experiment_id = experiment.experiment_id if experiment else self._client.create_experiment(self.experiment)
        self.id = self._client.create_run(experiment_id, run_name=self.name or run.work_dir.name).info.run_id
        self._step, self._names = -1, set()
        keys = [Param(key, str(value)[:_LONGEST]) for key, value in flatten(run.config).items()]
        for start in range(0, len(keys), _AT_ONCE):
            self._client.log_batch(self.id, params=keys[start : start + _AT_ONCE])

    def log(self, values: dict[str, float], step: int) -> None:
        from mlflow.entities import Metric

        now = int(time.time() * 1000)
        self._client.log_batch(
            self.id, metrics=[Metric(name, float(value), now, step) for name, value in values.items()]
        )

    def finish(self, failed: bool) -> None:
        error = sys.exc_info()[1]
        interrupted = isinstance(error, KeyboardInterrupt) or hasattr(error, "signum")
        self._client.set_terminated(self.id, "KILLED" if interrupted else "FAILED" if failed else "FINISHED")


_LONGEST, _AT_ONCE = 500, 100  # what every MLflow server takes: characters of a parameter, parameters of one call


def flatten(value: Any, path: str = "") -> dict[str, Any]:
    """{"key.path": plain value} of nested dicts and lists; "_" stands for letters that MLflow refuses."""
    items = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    values: dict[str, Any] = {}
    for key, item in items:
        values |= flatten(item, f"{path}.{key}" if path else str(key))
    return values or {re.sub(r"[^\w\-. :/]", "_", path): value}


def _read(path: Path) -> dict[str, Any]:
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):  # lines are sent again then, with the same numbers
        return {}


def _describe_error(error: Exception) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0].rstrip(".")
