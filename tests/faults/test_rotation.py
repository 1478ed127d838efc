"""Which checkpoints are kept: the best and the last N, and always a whole one."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import pytest
from disk import Disk

import toolbox
from toolbox.engine.checkpoint import checkpoint as checkpoints


def steps(folder: str) -> list[int]:
    return [checkpoints.read(path).step for path in checkpoints.all_in(Path(folder))]


@pytest.fixture
def best_is(toy, monkeypatch):
    """`best_is(values)`: what the validations of the next run find."""
    from toolbox.registry import get_catalog

    toy()
    nearest = get_catalog().resolve("toy.Nearest")

    def set_values(*values: float) -> None:
        left = iter(values)
        monkeypatch.setattr(nearest, "compute", lambda self: {"nearest": next(left)})

    return set_values


@pytest.mark.parametrize(("keep", "left"), [(1, [4, 12]), (2, [4, 10, 12]), (3, [4, 8, 10, 12])])
def test_the_best_and_the_last_few_are_kept(toy, best_is, keep, left):
    best_is(0.1, 0.1, 0.5, 0.9, 0.3, 0.2, 0.3, 0.4, 0.9)  # before, steps 0, 2 to 12, after
    options = ["train_cfg.val_interval=2", "default_hooks.checkpoint.interval=2"]
    toolbox.train(toy([*options, f"default_hooks.checkpoint.max_keep_ckpts={keep}"]), out="run")
    assert os.readlink("run/best") == "checkpoint-4"
    assert steps("run") == left


def test_wherever_rotation_is_cut_off_best_and_last_are_whole(toy, tmp_path, monkeypatch):
    """At every call of a rotation the process is gone; what it left is cleaned by the run that goes on."""
    options = [
        "train_cfg.max_steps=6",
        "train_cfg.val_interval=2",
        "default_hooks.checkpoint.interval=1",
        "default_hooks.checkpoint.max_keep_ckpts=9",
    ]
    toolbox.train(toy(options), out="full")
    shutil.copytree("full", "counted", symlinks=True)
    with pytest.MonkeyPatch.context() as patch:
        disk = Disk(tmp_path / "counted").patch(patch.setattr)
        checkpoints.rotate(Path("counted"), 1)
        count = len(disk.calls)
    assert count > 20
    before = {checkpoints.read(f"full/{name}").step for name in ("best", "last")}

    class Gone(BaseException):
        pass

    def strike(number, name):
        if number >= at:
            raise Gone  # nothing after it happens either

    for at in range(1, count + 1):
        folder = Path(f"cut-{at}")
        shutil.copytree("full", folder, symlinks=True)
        with pytest.MonkeyPatch.context() as patch:
            Disk(tmp_path / folder, strike).patch(patch.setattr)
            with pytest.raises(Gone):
                checkpoints.rotate(folder, 1)
        assert {checkpoints.read(folder / name).step for name in ("best", "last")} == before
        steps(folder)  # each that is there is whole
        if at % 10 == 1:
            toolbox.train(toy(options), out=str(folder), resume=True)
            assert [path.name for path in folder.glob(".*")] == [".lock"]
            assert {checkpoints.read(folder / name).step for name in ("best", "last")} == before
        shutil.rmtree(folder)


def test_a_checkpoint_that_cannot_be_removed_does_not_end_the_run(toy, tmp_path, monkeypatch):
    """A file that is open on a network disk keeps its folder there."""

    def strike(number, name):
        if name == "rmdir":
            raise OSError(39, "Directory not empty")

    Disk(tmp_path / "run", strike).patch(monkeypatch.setattr)
    options = ["default_hooks.checkpoint.interval=1", "default_hooks.checkpoint.max_keep_ckpts=1"]
    assert toolbox.train(toy(options), out="run")["steps"] == 12
    monkeypatch.undo()
    os.chdir(tmp_path)
    assert checkpoints.read("run/last").step == 12
    toolbox.train(toy(options), out="run", resume=True)
    assert [path.name for path in Path("run").glob(".*")] == [".lock"]


def test_keeping_one_never_removes_the_only_whole_one(toy):
    """Neither a rotation beside a damaged newest one, nor the fall back from it."""
    options = ["train_cfg.val_interval=12", "default_hooks.checkpoint.max_keep_ckpts=1"]
    toolbox.train(toy([*options, "train_cfg.max_steps=8"]), out="run")
    shutil.copytree("run/checkpoint-8", "run/checkpoint-9")
    (Path("run/checkpoint-9/state.json")).write_text("{}")
    toolbox.train(toy([*options, "train_cfg.max_steps=12"]), out="run", resume=True)
    assert checkpoints.read("run/last").step == 12
    assert Path("run/abandoned/checkpoint-9").is_dir()
