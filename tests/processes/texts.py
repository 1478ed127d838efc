"""One of some processes that train on items with several texts, live and stored: python texts.py FOLDER."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import torch

HERE = Path(__file__).parent
sys.path.insert(0, str(HERE.parent))

from test_contracts_in_runs import ALIGNMENT, recipe  # noqa: E402
from test_texts import CAPTIONS, STORED  # noqa: E402

import toolbox  # noqa: E402
from toolbox.engine.console import QuietConsole  # noqa: E402
from toolbox.engine.distributed.context import DistributedContext  # noqa: E402
from toolbox.engine.distributed.rank_info import detect_rank  # noqa: E402

# dropout of another number of processes is drawn otherwise
STILL = {f"model__vision__{name}__backbone__tune": dict(mode="frozen") for name in ("image", "fine")}


def train(folder: Path, distributed: DistributedContext | None = None) -> None:
    """A run with live texts and one with stored ones, in `folder`."""
    torch.set_num_threads(1)
    os.chdir(folder)
    for name, more in (("live", {}), ("stored", STORED)):
        config = recipe(ALIGNMENT, **CAPTIONS, **STILL, **more)
        toolbox.train(config, out=name, distributed=distributed, console=QuietConsole())


if __name__ == "__main__":
    with DistributedContext(detect_rank("pytorch")) as distributed:
        train(Path(sys.argv[1]), distributed)
