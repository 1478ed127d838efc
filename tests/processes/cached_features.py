"""One of two processes that compute features together and train on them: python cached_features.py FOLDER MODE."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import gradients
import runs
import torch

from toolbox.engine.distributed.context import DistributedContext
from toolbox.engine.distributed.rank_info import detect_rank
from toolbox.feature_cache.writer import Writer
from toolbox.registry import add_local

HERE = Path(__file__).parent
FEATURES = {
    "model.backbone.tune": dict(mode="frozen"),
    "train_dataloader.augment": None,
    "features": dict(dtype="fp32"),
    "train_dataloader.dataset": dict(type="toy.Noise", count=130, bad=[5]),
    "train_dataloader.on_bad_item": "skip",
}


def main(folder: Path) -> None:
    torch.set_num_threads(1)
    os.chdir(folder)
    add_local([str(HERE.parent / "toy_plugin.py")])
    original, own = Writer.write, []

    def write(self, shard, *arguments):
        own.append((self.folder.name, shard.number))
        original(self, shard, *arguments)

    Writer.write = write
    with DistributedContext(detect_rank("pytorch")) as distributed:
        distributed.start(gradients.DEVICE)
        live = {key: value for key, value in FEATURES.items() if key != "features"}
        found = {"live": runs.train(distributed, folder / "live", "ddp", {**runs.SHORT, **live})}
        for mode in ("ddp", "fsdp"):
            found[mode] = runs.train(distributed, folder / mode, mode, {**runs.SHORT, **FEATURES})
        found["written"] = own
        torch.save(found, folder / f"{distributed.rank}.pt")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
