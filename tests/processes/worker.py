"""One of several processes: python worker.py FOLDER. Writes what it finds to FOLDER/<size>-<rank>.pt."""

from __future__ import annotations

import sys
import time
from pathlib import Path

import torch

sys.path.insert(0, str(Path(__file__).parent))
import gradients

from toolbox.engine.distributed.launch import find_place
from toolbox.engine.distributed.team import Team


def main(folder: Path) -> None:
    torch.set_num_threads(1)
    with Team(find_place("pytorch")) as team:
        team.start(gradients.DEVICE)
        started = time.perf_counter()
        found = {"gradients": gradients.everything(team)}
        print(time.perf_counter() - started)
        torch.save(found, folder / f"{team.size}-{team.rank}.pt")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
