"""What several processes find, computed once for all tests of this folder."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

HERE = Path(__file__).parent
sys.path.insert(0, str(HERE))

SIZES = (1, 2, 4)


@pytest.fixture(scope="session")
def found(tmp_path_factory):
    """{number of processes: what worker.py found in each of them, by rank}."""
    import group
    import torch

    folder = tmp_path_factory.mktemp("processes")
    for size in SIZES:
        group.run(size, HERE / "worker.py", folder)
    return {size: [torch.load(folder / f"{size}-{rank}.pt") for rank in range(size)] for size in SIZES}
