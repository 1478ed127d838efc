"""What follows from a recipe's plain settings."""

from __future__ import annotations

import pytest

import toolbox
from toolbox.config import complete, to_dict
from toolbox.engine.length import RunLength
from toolbox.engine.settings import Settings


@pytest.mark.parametrize(
    ("length", "checkpoint", "validate", "save"),
    [
        ("dict(max_epochs=4)", "dict()", 10, 10),
        ("dict(max_epochs=4,val_interval=2)", "dict(interval=3)", 20, 30),
        ("dict(max_steps=400)", "dict()", 10, 10),
        ("dict(max_steps=400,val_interval=2)", "dict(interval=3)", 2, 3),
        ("dict(max_steps=400)", "dict(interval=3,by_epoch=True)", 10, 30),
        ("dict(max_epochs=4)", "dict(interval=3,by_epoch=False)", 10, 3),
    ],
)
def test_intervals_are_epochs_unless_given_in_steps(toy, length, checkpoint, validate, save):
    settings = Settings(complete(to_dict(toy([f"train_cfg={length}", f"default_hooks.checkpoint={checkpoint}"]))))
    run_length = RunLength(settings, 10)
    assert (run_length.validate_every, run_length.save_every) == (validate, save)


def test_more_workers_than_cores_are_said_and_change_nothing_else(toy, capsys):
    toolbox.train(toy(["train_dataloader.num_workers=9", "train_cfg.max_steps=3"]), out="w")
    assert "9 data workers share" in capsys.readouterr().out
