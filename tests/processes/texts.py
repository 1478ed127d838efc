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

from contract_models import DualEncoder as ToyDualEncoder  # noqa: E402
from test_contracts_in_runs import ALIGNMENT, recipe  # noqa: E402
from test_texts import CAPTIONS, STORED  # noqa: E402
from toolbox_alignment.dual_encoder import DualEncoder  # noqa: E402

import toolbox  # noqa: E402
from toolbox.base import Model  # noqa: E402
from toolbox.engine.console import QuietConsole  # noqa: E402
from toolbox.engine.distributed.context import DistributedContext  # noqa: E402
from toolbox.engine.distributed.rank_info import detect_rank  # noqa: E402

# dropout of another number of processes is drawn otherwise
STILL = {f"model__vision__{name}__backbone__tune": dict(mode="frozen") for name in ("image", "fine")}


HEAD = dict(type="core.Projection", dim=8)
STEADY = dict(type="contract.Patches", dropout=0.0)
WORDS = dict(backbone=dict(type="contract.Letters", weights="letters"), pool="last", head=HEAD)
TOWERS = dict(
    type="alignment.DualEncoder",
    vision=dict(
        image=dict(backbone=STEADY, pool="mean", head=HEAD),
        fine=dict(backbone=STEADY | dict(dim=8, patch=8, weights="small"), pool="mean", head=HEAD),
    ),
    text=dict(text=WORDS, title=WORDS),
    loss=dict(type="losses.SigLIP"),
    tower_dropout=0.5,
)
ZERO_SHOT = dict(type="alignment.ZeroShot", ks=[1])
RUNS: dict[str, dict[str, Any]] = {
    "live": {},
    "stored": STORED,
    "workers": {"train_dataloader__num_workers": 2},
    "towers": {"model": TOWERS, "val_evaluator": ZERO_SHOT},
    "towers in chunks": {
        "model": TOWERS | {"compare": "fused"},
        "val_evaluator": ZERO_SHOT,
        "optim_wrapper__grad_cache": dict(chunk_size=3),
    },
}
STOPPED = 3
"""After which step the run "resumed" goes on, as "live" would."""


def train(folder: Path, distributed: DistributedContext | None = None) -> None:
    """Runs with live texts, with stored ones, with data workers, with towers that drop out, and resumed, in `folder`.

    What each process read, {draw: digest of its text}, is in `RUN-drawn-RANK.pt`.
    """
    torch.set_num_threads(1)
    os.chdir(folder)
    rank, drawn = distributed.rank if distributed else 0, {}
    for kind in (ToyDualEncoder, DualEncoder):
        _remember_texts(kind, drawn)
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


def _remember_texts(kind: type[Model], drawn: dict[int, int]) -> None:
    """Let models note the text of each draw that they compute a loss of."""
    compute = kind.compute_loss

    def compute_loss(self, representations, batch):
        if batch.draws and batch.texts["text"].device.type != "meta":  # which the dry run has
            drawn.update(zip(batch.draws, batch.texts["text"].tolist(), strict=True))
        return compute(self, representations, batch)

    kind.compute_loss = compute_loss


def _copy_until(step: int, source: Path, target: Path) -> None:
    """What a run that died after `step` had left."""
    shutil.copytree(source, target, symlinks=True)
    for path in target.glob("checkpoint-*"):
        if int(path.name.partition("-")[2]) > step:
            shutil.rmtree(path)


if __name__ == "__main__":
    with DistributedContext(detect_rank("pytorch")) as distributed:
        train(Path(sys.argv[1]), distributed)
