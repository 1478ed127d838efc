"""Demos as a user would type them, in a folder in which their encoder is trained once."""

from __future__ import annotations

import fcntl
import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from toolbox.cli import train

DEMOS = Path(__file__).parents[1] / "configs" / "demo"
SEEDS = (0, 1, 2)


@contextmanager
def share_folder(factory: pytest.TempPathFactory) -> Iterator[Path]:
    """The folder in which all demos are run, so that their encoder is trained once, by whoever needs it first."""
    before, base = Path.cwd(), factory.getbasetemp()
    folder = (base.parent if "PYTEST_XDIST_WORKER" in os.environ else base) / "demos"
    folder.mkdir(exist_ok=True)
    os.chdir(folder)
    with (folder / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not Path("work_dirs/first").exists():
            assert train.main([str(DEMOS / "dinov3_cifar10.py"), "--work-dir", "work_dirs/first"]) == 0
    yield folder
    os.chdir(before)


def run_demo(demo: str, *options: str, folder: str | None = None) -> dict:
    """What train_results.json holds in the end; `folder`: of the run, by default the name of the demo."""
    changes = ["--cfg-options", *options] if options else []
    folder = folder or demo
    assert train.main([str(DEMOS / f"{demo}.py"), "--work-dir", folder, "--overwrite", *changes]) == 0
    assert Path(folder, "report.html").is_file()
    return json.loads(Path(folder, "train_results.json").read_text())
