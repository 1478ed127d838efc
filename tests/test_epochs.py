"""Epochs, intervals in epochs and accumulation: epochs are of data, also where they end within a step."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from test_exactness import assert_same, interrupt_at
from test_resume import interrupted

import toolbox
from toolbox.builtins.trackers import Tracker
from toolbox.config import complete, to_dict
from toolbox.engine.checkpoint import checkpoint as checkpoints
from toolbox.engine.length import RunLength
from toolbox.engine.settings import Settings

LOGGED = ["evaluate_before=False", "default_hooks.logger.interval=1"]
SAVED = "default_hooks.checkpoint=dict()"


def of(toy, batches, accumulate, length, checkpoint="dict()"):
    options = [
        f"train_cfg=dict({length})",
        f"optim_wrapper.accumulative_counts={accumulate}",
        f"default_hooks.checkpoint={checkpoint}",
    ]
    return RunLength(Settings(complete(to_dict(toy(options)))), batches)


@pytest.mark.parametrize(
    ("batches", "accumulate", "length", "taken", "validated"),
    [
        (6, 4, "max_epochs=4", [4, 8, 12, 16, 20, 24], [2, 3, 5, 6]),
        (6, 4, "max_epochs=4,val_interval=2", [4, 8, 12, 16, 20, 24], [3, 6]),
        (6, 1, "max_epochs=2", list(range(1, 13)), [6, 12]),
        (6, 3, "max_epochs=2", [3, 6, 9, 12], [2, 4]),
        (5, 3, "max_epochs=2", [3, 6, 10], [2, 3]),  # the last step has what is left over
        (2, 5, "max_epochs=5", [5, 10], [1, 2]),  # several epochs in a step
        (2, 5, "max_epochs=2", [4], [1]),  # all of them in one
        (6, 4, "max_steps=5", [4, 8, 12, 16, 20], [2, 3, 5]),
        (6, 4, "max_steps=6,val_interval=2", [4, 8, 12, 16, 20, 24], [2, 4, 6]),
    ],
)
def test_epochs_are_of_data(toy, batches, accumulate, length, taken, validated):
    found = of(toy, batches, accumulate, length)
    numbers = range(1, found.steps + 1)
    assert [found.batches(step) for step in numbers] == taken
    assert [step for step in numbers if found.validates(step)] == validated
    assert found.epoch(0) == 0
    assert [found.epoch(step) for step in numbers] == [count / batches for count in taken]


def test_checkpoints_are_saved_after_epochs_likewise(toy):
    found = of(toy, 6, 4, "max_epochs=6", "dict(interval=2)")
    assert [step for step in range(1, 10) if found.saves(step)] == [3, 6, 9]
    assert found.steps_per_epoch == 1.5
    assert of(toy, 6, 3, "max_epochs=2").steps_per_epoch == 2


def test_a_run_of_epochs_that_end_within_steps(toy, monkeypatch):
    """6 batches an epoch, 4 a step: 4 epochs are 6 steps."""
    options = [
        *LOGGED,
        "train_cfg=dict(max_epochs=4,val_interval=1)",
        "optim_wrapper.accumulative_counts=4",
        "train_dataloader.sampler=dict(type='core.Shuffled',batch_size=10)",
        SAVED,
    ]
    results = toolbox.train(toy(options), out="w")
    lines = [json.loads(line) for line in Path("w/metrics.jsonl").read_text().splitlines()]
    assert results["steps"] == 6
    assert lines[-1]["epoch"] == 4.0
    assert [line["step"] for line in lines if "val/nearest" in line and line["step"]] == [2, 3, 5, 6]
    assert [line["epoch"] for line in lines if "lr" in line] == [0.6667, 1.3333, 2.0, 2.6667, 3.3333, 4.0]
    interrupt_at(monkeypatch, 3)
    interrupted(toy(options), out="stopped")
    toolbox.train(toy(options), out="stopped", resume=True)
    assert_same(Path("w"), Path("stopped"))


def test_the_last_step_has_what_is_left_over(toy, monkeypatch):
    """5 batches an epoch, 3 a step, 2 epochs: 3, 3 and 4; a resumed run reads the same."""
    options = [
        *LOGGED,
        "train_cfg=dict(max_epochs=2)",
        "optim_wrapper.accumulative_counts=3",
        "train_dataloader.sampler=dict(type='core.Shuffled',batch_size=12)",
        SAVED,
    ]
    results = toolbox.train(toy(options), out="w")
    assert results["steps"] == 3
    assert json.loads(Path("w/metrics.jsonl").read_text().splitlines()[-1])["epoch"] == 2.0
    interrupt_at(monkeypatch, 2)
    interrupted(toy(options), out="stopped")
    again = toolbox.train(toy(options), out="stopped", resume=True)
    assert_same(Path("w"), Path("stopped"))
    items = [round(one["items_per_second"] * one["seconds"]) for one in (results, again)]
    assert all(abs(count - 120) <= 2 for count in items), items
    assert checkpoints.read("w/last").step == 3


def test_trackers_are_told_the_epoch(toy):
    told = []

    class Kept(Tracker):
        def start(self, run):
            pass

        def send(self, run, values):
            told.append(values["epoch"])

        def finish(self, failed):
            pass

    class Seen:
        is_main, step, steps_per_epoch, epoch = True, 3, 1.5, 2.0

    hook = Kept()
    hook.before_run(Seen())
    hook.after_log(Seen(), {"loss": 1.0})
    assert told == [2.0]
