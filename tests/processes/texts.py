"""One of some processes that train on items with several texts, live and stored: python texts.py FOLDER."""

from __future__ import annotations

import os
import shutil
import sys
from pathlib import Path
from typing import Any

import torch

HERE = Path(__file__).parent
sys.path.insert(0, str(HERE.parent))

from contract_models import DualEncoder  # noqa: E402
from test_contracts_in_runs import ALIGNMENT, recipe  # noqa: E402
from test_texts import CAPTIONS, STORED  # noqa: E402

import toolbox  # noqa: E402
from toolbox.engine.console import QuietConsole  # noqa: E402
from toolbox.engine.distributed.context import DistributedContext  # noqa: E402
from toolbox.engine.distributed.rank_info import detect_rank  # noqa: E402

# dropout of another number of processes is drawn otherwise
STILL = {f"model__vision__{name}__backbone__tune": dict(mode="frozen") for name in ("image", "fine")}


RUNS: dict[str, dict[str, Any]] = {
    "live": {},
    "stored": STORED,
    "workers": {"train_dataloader__num_workers": 2},
}
STOPPED = 3
"""After which step the run "resumed" goes on, as "live" would."""


def train(folder: Path, distributed: DistributedContext | None = None) -> None:
    """A run with live texts, one with stored ones, one with data workers and a resumed one, in `folder`.

    What each process read, {draw: digest of its text}, is in `RUN-drawn-RANK.pt`.
    """
    torch.set_num_threads(1)
    os.chdir(folder)
    rank, loss, drawn = distributed.rank if distributed else 0, DualEncoder.loss, {}

    def remember(self, batch):
        if batch.draws and self.training and batch.texts["text"].device.type != "meta":
            drawn.update(zip(batch.draws, batch.texts["text"].tolist(), strict=True))
        return loss(self, batch)

    DualEncoder.loss = remember
    for name, more in (*RUNS.items(), ("resumed", {})):
        drawn.clear()
        config = recipe(ALIGNMENT, **CAPTIONS, **STILL, **more)
        if name == "resumed" and rank == 0:
            _copy_until(STOPPED, Path("live"), Path(name))
        if distributed:
            distributed.barrier()
        how = dict(resume=True) if name == "resumed" else {}
        toolbox.train(config, out=name, distributed=distributed, console=QuietConsole(), **how)
        torch.save(drawn, f"{name}-drawn-{rank}.pt")


def _copy_until(step: int, source: Path, target: Path) -> None:
    """What a run that died after `step` had left."""
    shutil.copytree(source, target, symlinks=True)
    for path in target.glob("checkpoint-*"):
        if int(path.name.partition("-")[2]) > step:
            shutil.rmtree(path)


if __name__ == "__main__":
    with DistributedContext(detect_rank("pytorch")) as distributed:
        train(Path(sys.argv[1]), distributed)
