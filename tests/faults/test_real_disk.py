"""Disks that are really full or cannot be written, and files that may not grow."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from lives import RECIPE, TRAIN, assert_same_run

from toolbox.engine.checkpoint import checkpoint as checkpoints

STEPS = ["train_cfg.max_steps=12", "train_dataloader.num_workers=0", "val_dataloader.num_workers=0"]
ENVIRONMENT = {**os.environ, "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"}


def command(*more: str) -> list[str]:
    return [sys.executable, str(TRAIN), str(RECIPE), "--work-dir", "run", "--cfg-options", *STEPS, *more]


def done(folder: Path, arguments: list[str], **options) -> subprocess.CompletedProcess:
    folder.mkdir(exist_ok=True)
    return subprocess.run(
        arguments, cwd=folder, capture_output=True, text=True, timeout=120, env=ENVIRONMENT, **options
    )


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    folder = tmp_path_factory.mktemp("whole")
    found = done(folder, command())
    assert found.returncode == 0, found.stderr
    return folder / "run"


def assert_one_message(found: subprocess.CompletedProcess, *words: str) -> None:
    assert found.returncode == 2, found.stderr
    assert len(found.stderr.splitlines()) == 1, found.stderr
    for word in words:
        assert word in found.stderr


@pytest.mark.faults
def test_files_that_may_not_grow(whole, tmp_path):
    """A limit on the size of a file stands for a quota: writing past it fails half way through."""
    wide = "model.backbone.width=128"
    first = done(tmp_path, command("train_cfg.max_steps=5", wide))
    assert first.returncode == 0, first.stderr
    largest = max(path.stat().st_size for path in (tmp_path / "run/last/").iterdir())

    def limited() -> None:
        import resource

        resource.setrlimit(resource.RLIMIT_FSIZE, (largest // 2, largest // 2))

    assert_one_message(done(tmp_path, command(wide, "--resume"), preexec_fn=limited), "checkpoint-", "File too large")
    assert checkpoints.read(tmp_path / "run/last").step == 5
    assert done(tmp_path, command(wide, "--resume")).returncode == 0
    assert checkpoints.read(tmp_path / "run/last").step == 12


def on_a_small_disk(folder: Path, kilobytes: int, program: str) -> subprocess.CompletedProcess:
    """Run a shell program in a file system of its own, mounted at `disk`; skip the test where that is not allowed."""
    (folder / "disk").mkdir(parents=True)
    mount = f"mount -t tmpfs -o size={kilobytes}k none disk && cd disk"
    if not shutil.which("unshare") or done(folder, ["unshare", "-rm", "sh", "-c", mount]).returncode:
        pytest.skip("no file system can be mounted here")
    return done(folder, ["unshare", "-rm", "sh", "-c", f"{mount} && {program}"])


def quoted(*more: str) -> str:
    return " ".join(f"'{word}'" for word in command(*more))


@pytest.mark.parametrize(
    "kilobytes",
    [
        pytest.param(160, marks=pytest.mark.slow),
        pytest.param(60, marks=pytest.mark.faults),
        pytest.param(100, marks=pytest.mark.faults),
        pytest.param(130, marks=pytest.mark.faults),
    ],
)
def test_a_disk_that_is_full(whole, tmp_path, kilobytes):
    """What was whole on it is whole afterwards, and ends the same where there is room."""
    found = on_a_small_disk(tmp_path, kilobytes, f"{quoted()}; code=$?; df . >&1; cp -a run ../ ; exit $code")
    assert_one_message(found, "No space left on device")
    run = tmp_path / "run"
    assert not list(run.glob(".*.partial"))
    if checkpoints.all_in(run):
        assert checkpoints.read(run / "last")
    for line in (run / "metrics.jsonl").read_text().splitlines() if (run / "metrics.jsonl").exists() else ():
        json.loads(line)
    again = done(tmp_path, command("--resume"))
    assert again.returncode == 0, again.stderr
    if checkpoints.all_in(run):
        assert_same_run(whole, run)


def test_a_disk_that_can_only_be_read(tmp_path):
    found = on_a_small_disk(tmp_path, 999, f"mount -o remount,ro . && {quoted()}")
    assert_one_message(found, "Nothing can be written to run", "Read-only file system", "--work-dir")
