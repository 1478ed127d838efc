"""Runs of tools/train.py that are ended early and resumed, and what must be equal at the end."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

from same import assert_equal

from toolbox.engine.checkpoint import checkpoint as checkpoints

HERE = Path(__file__).parent
TRAIN = HERE.parent.parent / "tools" / "train.py"
RECIPE = HERE / "faults_recipe.py"


class Life:
    """One process that trains the recipe in `folder`/run, from where the one before it was.

    - `options`: changes to the recipe; `strike`: what tests/faults/faults_plugin.py is to do.
    """

    def __init__(self, folder: Path, options: list[str] = (), *, resume: bool = True, **strike: int) -> None:
        folder.mkdir(exist_ok=True)
        (folder / "strike.json").write_text(json.dumps(strike))
        more = ["--cfg-options", *options] if options else []
        self.errors = (folder / "errors.txt").open("w+")
        self.process = subprocess.Popen(
            [sys.executable, str(TRAIN), str(RECIPE), "--work-dir", "run", *["--resume"] * resume, *more],
            cwd=folder,
            stdout=subprocess.PIPE,
            stderr=self.errors,
            text=True,
            start_new_session=True,
            env={**os.environ, "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"},
        )

    def wait_for(self, line: str) -> bool:
        """Whether the process has said this; False when it ended before."""
        return any(said.startswith(line) for said in self.process.stdout)

    def send(self, signum: int, *, group: bool = False) -> None:
        """A signal to the process, or to all of its group as a terminal does."""
        if self.process.poll() is None:
            (os.killpg if group else os.kill)(self.process.pid, signum)

    def end(self, timeout: float = 120) -> tuple[int, str]:
        """The exit code and what stood on standard error."""
        try:
            self.process.wait(timeout)  # and not for its data workers, which outlive a kill by some seconds
        except subprocess.TimeoutExpired:
            os.killpg(self.process.pid, signal.SIGKILL)
            raise
        self.process.stdout.close()
        self.errors.seek(0)
        said = self.errors.read()
        self.errors.close()
        return self.process.returncode, said


def to_the_end(folder: Path, options: list[str] = (), **how: Any) -> None:
    """Let a run end by itself."""
    code, said = Life(folder, options, **how).end()
    assert code == 0, said


def assert_same_run(a: Path, b: Path) -> None:
    """Weights, training state, best, numbers and findings are equal bit by bit, times apart; nothing is left over."""
    for name in ("last", "best"):
        ours, theirs = checkpoints.read(a / name), checkpoints.read(b / name)
        assert ours.path.name == theirs.path.name
        assert_equal(ours.model_tensors(), theirs.model_tensors(), name)
        assert_equal(ours.state(), theirs.state(), name)
    assert_equal(_lines(a / "metrics.jsonl"), _lines(b / "metrics.jsonl"), "metrics.jsonl")
    for name in ("train_results.json", "report_items.json"):
        assert_equal(*(json.loads((folder / name).read_text()) for folder in (a, b)), name)
    assert [path.name for path in b.glob(".*")] == [".lock"]
    assert len(checkpoints.all_in(b)) <= 3  # the last two and the best


def _lines(file: Path) -> list[dict]:
    return [json.loads(line) for line in file.read_text().splitlines()]
