"""A disk that refuses, at any call: one message, nothing that was whole is lost, and the run can go on."""

from __future__ import annotations

import errno
import json
import os
import shutil
from pathlib import Path

import pytest
from disk import Disk
from lives import RECIPE, assert_same_run
from safetensors import SafetensorError

from toolbox.cli import train
from toolbox.engine.checkpoint import checkpoint as checkpoints

ERRORS = (errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EIO)
OPTIONS = [
    "--cfg-options",
    "train_cfg.max_steps=9",
    "train_cfg.val_interval=3",
    "train_dataloader.num_workers=0",
    "val_dataloader.num_workers=0",
    "default_hooks.checkpoint.interval=2",
    "default_hooks.checkpoint.max_keep_ckpts=1",
    "optim_wrapper.average.start=2",
]


def run(*more: str) -> int:
    return train.main([str(RECIPE), "--work-dir", "run", *more, *OPTIONS])


@pytest.fixture(scope="module")
def begun(tmp_path_factory):
    """A run that ended by itself, and one that was stopped at step 6, before that step was judged.

    It is better than step 3, the best until then: a resumed run judges it and saves it again.
    """
    folder = tmp_path_factory.mktemp("begun")
    with pytest.MonkeyPatch.context() as patch:
        (folder / "whole").mkdir()
        patch.chdir(folder / "whole")
        assert run() == 0
        (folder / "stopped").mkdir()
        patch.chdir(folder / "stopped")
        Path("strike.json").write_text('{"stop": 6}')
        assert run() == 143
    assert os.readlink(folder / "stopped/run/best") == "checkpoint-3"
    assert os.readlink(folder / "stopped/run/last") == "checkpoint-6"
    assert os.readlink(folder / "whole/run/best") == "checkpoint-9"
    return folder


@pytest.fixture
def stopped(begun, tmp_path, monkeypatch):
    """An own copy of the stopped run, in the current folder."""
    shutil.copytree(begun / "stopped/run", tmp_path / "run", symlinks=True)
    monkeypatch.chdir(tmp_path)
    return tmp_path / "run"


def calls_of_a_resumed_run(begun: Path, folder: Path) -> list[str]:
    """Every call on the run's folder from step 6 to the end."""
    shutil.copytree(begun / "stopped/run", folder / "run", symlinks=True)
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        disk = Disk(folder / "run").patch(patch.setattr)
        assert run("--resume") == 0
    return disk.calls


def refuses(number: int, error: int, for_good: bool):
    """A disk that refuses one call, or from there on every one that needs space or changes names."""

    def strike(count: int, name: str) -> None:
        if count == number or (for_good and count > number):
            if name == "save_file":
                text = os.strerror(error)
                raise SafetensorError(f"Error while serializing: I/O error: {text} (os error {error})")
            raise OSError(error, os.strerror(error))

    return strike


def survives(begun: Path, folder: Path, number: int, error: int, for_good: bool, capsys) -> None:
    """Resume in `folder` with a disk that refuses call `number`; then again with one that does not."""
    shutil.copytree(begun / "stopped/run", folder / "run", symlinks=True)
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        with pytest.MonkeyPatch.context() as broken:
            disk = Disk(folder / "run", refuses(number, error, for_good)).patch(broken.setattr)
            capsys.readouterr()
            code = run("--resume")
        said = capsys.readouterr().err
        what = f"call {number} ({disk.calls[number - 1]}), {os.strerror(error)}{', for good' * for_good}: {code} {said}"
        assert code in (0, 2), what
        if code:
            assert len(said.splitlines()) == 1, what
            assert os.strerror(error) in said, what
        for name in ("best", "last"):
            assert checkpoints.read(folder / "run" / name).step >= 3, what
        for line in (folder / "run/metrics.jsonl").read_text().splitlines():
            json.loads(line)
        if not for_good:
            left = {path.name for path in (folder / "run").glob(".*")} - {".lock"}
            assert not [name for name in left if disk.calls[number - 1] not in ("unlink", "rmdir")], f"{what} {left}"
        assert run("--resume") == 0, what
        try:
            assert_same_run(begun / "whole/run", folder / "run")
        except AssertionError as difference:
            raise AssertionError(f"{what}: {difference}") from difference


@pytest.mark.faults
@pytest.mark.parametrize("for_good", [False, True], ids=["once", "for_good"])
def test_no_refused_call_loses_anything(begun, tmp_path, capsys, for_good):
    calls = calls_of_a_resumed_run(begun, tmp_path / "counted")
    assert {"open", "write", "save_file", "fsync", "rename", "replace", "mkdir", "symlink"} <= set(calls)
    for number in range(1, len(calls) + 1):
        survives(begun, tmp_path / str(number), number, ERRORS[number % 4], for_good, capsys)
        shutil.rmtree(tmp_path / str(number))


def test_some_refused_calls_lose_nothing(begun, tmp_path, capsys):
    calls = calls_of_a_resumed_run(begun, tmp_path / "counted")
    numbers = {name: number for number, name in enumerate(calls, 1) if number < len(calls) * 3 // 4}
    for number in numbers.values():  # the last of each kind in there
        survives(begun, tmp_path / str(number), number, ERRORS[number % 4], number % 2 == 0, capsys)
