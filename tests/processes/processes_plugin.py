"""Data and hooks for runs of several processes."""

from __future__ import annotations

import os
import signal
import sys
from pathlib import Path

import torch
from toolbox_retrieval.embedder import Embedder
from toy_plugin import Noise, Patches

from toolbox.base import Batch, Features, Hook, Loss, Metric, get_dist_info
from toolbox.plugin import Component, Problem, hookimpl

namespace = "processes"


@hookimpl
def toolbox_components():
    here = __name__
    return [
        Component("backbone", "NoRegisters", f"{here}:NoRegisters", "an empty parameter beside its tokens"),
        Component("dataset", "Asked", f"{here}:Asked", "noise of which some items are queries"),
        Component("dataset", "Written", f"{here}:Written", "noise that must be prepared"),
        Component("metric", "Own", f"{here}:Own", "forgets that there are other processes"),
        Component("loss", "Explodes", f"{here}:Explodes", "is not finite once, on the last process alone"),
        Component("model", "OwnNumbers", f"{here}:OwnNumbers", "returns numbers of this process's rows"),
        Component("hook", "Keep", f"{here}:Keep", "writes down the whole weights beside every checkpoint"),
        Component("hook", "Break", f"{here}:Break", "one process fails at a step"),
        Component("hook", "Stop", f"{here}:Stop", "one process stops the run"),
        Component("hook", "Past", f"{here}:Past", "calls the model past what it is wrapped in"),
        Component("hook", "Draw", f"{here}:Draw", "draws from the generators"),
    ]


class NoRegisters(Patches):
    """As a vision transformer whose library keeps the registers that it does not have."""

    def __init__(self, dropout: float = 0.0):
        super().__init__(dropout=dropout)
        self.registers = torch.nn.Parameter(torch.empty(1, 0, self.dim))

    def forward(self, inputs, *, layers=1, mask=None):
        tokens = super().forward(inputs).tokens
        return Features(torch.cat([self.registers.expand(len(tokens), -1, -1), tokens], dim=1))


class Asked(Noise):
    """Every third item is a query, the others are the gallery."""

    def __getitem__(self, index):
        return {**super().__getitem__(index), "role": "gallery" if index % 3 else "query"}


class Written(Noise):
    """Noise once `root` has been written; every writing adds a line."""

    def __init__(self, root: str, count: int = 32):
        super().__init__(count)
        self.root = root

    def check(self):
        return [] if Path(self.root).exists() else [Problem(f"{self.root} is not there.", "root")]

    @classmethod
    def prepare(cls, out: str) -> str:
        with Path(out).open("a") as file:
            file.write("written\n")
        return f"wrote {out}"


class Own(Metric):
    def reset(self):
        self.ids = []

    def update(self, outputs, batch):
        self.ids += batch.ids

    def compute(self):
        return {"own": float(sum(self.ids))}


class Explodes(Loss):
    def __init__(self, at: int = 2):
        super().__init__()
        self.at, self.calls = at, 0

    def compute(self, embeddings, labels, ref_embeddings, ref_labels):
        self.calls += 1
        x = torch.nn.functional.normalize(embeddings, dim=-1)
        loss = (x @ x.T * torch.where(labels[:, None] == labels, -1.0, 1.0)).mean()
        rank, size = get_dist_info()
        return loss * torch.nan if self.calls == self.at and rank == size - 1 else loss


class OwnNumbers(Embedder):
    """Beside its loss the mean label of this process's rows."""

    def compute_loss(self, representations, batch):
        return super().compute_loss(representations, batch) | {"label": batch.labels.float().mean()}


class Keep(Hook):
    def after_save(self, run, path):
        state = run.model.state_dict()
        whole = {
            name: tensor.full_tensor() if hasattr(tensor, "full_tensor") else tensor for name, tensor in state.items()
        }
        if run.is_main:
            torch.save({name: tensor.clone() for name, tensor in whole.items()}, path.parent / f"{path.name}.pt")


class Draw(Hook):
    def before_run(self, run):
        torch.rand(3)


class Break(Hook):
    """- `rank`: which process; `step`: after which step, once a folder; `how`: "error", "kill" or "terminate"."""

    def __init__(self, rank: int = 1, step: int = 3, how: str = "error"):
        self.rank, self.step, self.how = rank, step, how

    def before_run(self, run):
        print(f"training begins {os.getpid()}", file=sys.__stdout__, flush=True)

    def after_step(self, run):
        mark = Path(run.work_dir).parent / f"broken-{get_dist_info()[0]}"
        if run.step != self.step or get_dist_info()[0] != self.rank or mark.exists():
            return
        mark.touch()
        if self.how == "error":
            raise RuntimeError("the process of this test broke down")
        os.kill(
            os.getpid() if self.how == "kill" else os.getppid(),
            signal.SIGKILL if self.how == "kill" else signal.SIGTERM,
        )


class Stop(Hook):
    """- `place`: the method in which the main process stops the run; `step`: at which step."""

    def __init__(self, place: str, step: int):
        self.place, self.step = place, step

    def _at(self, place, run):
        if run.is_main and place == self.place and run.step == self.step:
            run.stop("enough")

    def before_run(self, run):
        self._at("before_run", run)

    def after_step(self, run):
        self._at("after_step", run)

    def after_log(self, run, values):
        self._at("after_log", run)

    def after_evaluate(self, run, metrics):
        self._at("after_evaluate", run)

    def after_save(self, run, path):
        self._at("after_save", run)


class Past(Hook):
    """- `function`: of the model, called directly; None calls the model itself."""

    def __init__(self, function: str | None = None):
        self.function = function

    def after_step(self, run):
        batch = Batch.example({"image": torch.zeros(2, 3, 16, 16)})
        with torch.no_grad():
            getattr(run.model, self.function)(batch) if self.function else run.model(batch, "predict")
