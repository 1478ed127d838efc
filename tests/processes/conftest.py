"""What several processes find, computed once for all tests of this folder."""

from __future__ import annotations

import fcntl
import os
import sys
from pathlib import Path

import pytest

HERE = Path(__file__).parent
sys.path.insert(0, str(HERE))

SIZES = (2, 1, 4)  # what two processes leave behind, others go on from


@pytest.fixture(scope="session")
def found(tmp_path_factory):
    """{number of processes: what worker.py found in each of them, by rank}; their runs are in "folder"."""
    import torch

    if "PYTEST_XDIST_WORKER" in os.environ:  # once for all workers of pytest
        shared = tmp_path_factory.getbasetemp().parent
        folder = shared / "processes"
        with (shared / "processes.lock").open("w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            if not folder.exists():
                folder.mkdir()
                _find(folder)
    else:
        folder = tmp_path_factory.mktemp("processes")
        _find(folder)
    by_size = {size: [torch.load(folder / f"{size}-{rank}.pt") for rank in range(size)] for size in SIZES}
    return {**by_size, "folder": folder}


def _find(folder):
    import group

    for size in SIZES:
        group.run(size, HERE / "worker.py", folder)
