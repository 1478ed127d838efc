"""One of several processes: python worker.py FOLDER. Writes what it finds to FOLDER/<size>-<rank>.pt."""

from __future__ import annotations

import sys
from pathlib import Path

import aligned
import gathers
import gradients
import logged
import metrics
import outputs
import probes
import runs
import torch

from toolbox.engine.distributed.context import DistributedContext
from toolbox.engine.distributed.rank_info import detect_rank
from toolbox.registry import add_local

HERE = Path(__file__).parent


def main(folder: Path) -> None:
    torch.set_num_threads(1)
    plugins = HERE.parent / "toy_plugin.py", HERE / "processes_plugin.py", HERE.parent / "contract_plugin.py"
    add_local([str(plugin) for plugin in plugins])
    with DistributedContext(detect_rank("pytorch")) as distributed:
        distributed.start(gradients.DEVICE)
        found = {"gradients": gradients.everything(distributed), "metrics": metrics.everything(distributed)}
        found["aligned"] = aligned.everything(distributed)
        found["gathers"] = gathers.everything(distributed)
        found["outputs"] = outputs.everything(distributed)
        found["probes"] = probes.everything(distributed)
        found["logged"] = logged.everything(distributed, folder)
        found["runs"] = runs.everything(distributed, folder)
        torch.save(found, folder / f"{distributed.world_size}-{distributed.rank}.pt")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
