"""Hooks for runs that are to be killed, and the blow that a file `strike.json` in the current folder asks for."""

from __future__ import annotations

import json
import os
import signal
import sys
import time
from pathlib import Path

import torch
from disk import Disk

from toolbox.base import Hook, Metric
from toolbox.plugin import Component, hookimpl

namespace = "faults"
PACE = 0.01  # the least that a step lasts, so that moments can be chosen whatever the machine does beside


@hookimpl
def toolbox_components():
    here = __name__
    return [
        Component("hook", "Tally", f"{here}:Tally", "a state of its own that grows with every step"),
        Component("metric", "Spread", f"{here}:Spread", "how unlike the embeddings are, which goes up and down"),
        Component("hook", "Strike", f"{here}:Strike", "says when training begins; may make one step last"),
    ]


class Spread(Metric):
    def reset(self):
        self.rows = []

    def update(self, outputs, batch):
        self.rows.append(outputs["embeddings"])

    def compute(self):
        return {"spread": torch.cat(self.rows).std(0).sum().item()}


class Tally(Hook):
    """Sums up what it sees, draws from the generators where it may, and logs the sum."""

    def __init__(self):
        self.sum, self.seen = torch.zeros(2, dtype=torch.float64), 0

    def before_run(self, run):
        torch.rand(3)

    def after_step(self, run):
        self.seen += 1
        self.sum += torch.rand(2, dtype=torch.float64)
        if self.seen % 7 == 0:
            run.log({"tally": self.sum[0].item()})

    def after_evaluate(self, run, metrics):
        run.log({"judged": self.sum[1].item()})

    def state_dict(self):
        return {"sum": self.sum, "seen": self.seen}

    def load_state_dict(self, state):
        self.sum, self.seen = state["sum"].clone(), state["seen"]


class Strike(Hook):
    """- `stop`: the step at which it sends SIGTERM; `sleep`: the steps after which it sleeps for a minute."""

    def before_run(self, run):
        self.sleep, self.stop = _wanted().get("sleep"), _wanted().get("stop")
        self.begun = False

    def after_step(self, run):
        if not self.begun:  # and not before the run: what it starts from is validated first
            self.begun = True
            print("training begins", file=sys.__stdout__, flush=True)
        time.sleep(PACE)
        if run.step == self.stop:
            os.kill(os.getpid(), signal.SIGTERM)
        if self.sleep is not None:
            self.sleep -= 1
            if self.sleep == 0:
                print("asleep", file=sys.__stdout__, flush=True)
                end = time.monotonic() + 60
                while time.monotonic() < end:
                    time.sleep(0.01)


def _wanted() -> dict:
    file = Path("strike.json")
    return json.loads(file.read_text()) if file.exists() else {}


def _kill_at(number: int) -> None:
    """Let the process die in its `number`th call that changes its run's folder."""

    class Killed(BaseException):
        pass

    def strike(count: int, name: str) -> None:
        if count == number:
            raise Killed

    class Deadly(Disk):
        def _note(self, name, half=lambda: None):
            try:
                super()._note(name, half)
            except Killed:
                print(f"killed in {name}", file=sys.__stdout__, flush=True)
                os.kill(os.getpid(), signal.SIGKILL)

    Deadly(Path("run"), strike).patch()


if "call" in _wanted():
    _kill_at(_wanted()["call"])
