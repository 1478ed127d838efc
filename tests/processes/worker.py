"""One of several processes: python worker.py FOLDER. Writes what it finds to FOLDER/<size>-<rank>.pt."""

from __future__ import annotations

import sys
from pathlib import Path

import gathers
import gradients
import logged
import metrics
import outputs
import probes
import runs
import torch

from toolbox.engine.distributed.launch import find_place
from toolbox.engine.distributed.team import Team
from toolbox.registry import add_local

HERE = Path(__file__).parent


def main(folder: Path) -> None:
    torch.set_num_threads(1)
    add_local([str(HERE.parent / "toy_plugin.py"), str(HERE / "processes_plugin.py")])
    with Team(find_place("pytorch")) as team:
        team.start(gradients.DEVICE)
        found = {"gradients": gradients.everything(team), "metrics": metrics.everything(team)}
        found["gathers"] = gathers.everything(team)
        found["outputs"] = outputs.everything(team)
        found["probes"] = probes.everything(team)
        found["logged"] = logged.everything(team, folder)
        found["runs"] = runs.everything(team, folder)
        torch.save(found, folder / f"{team.size}-{team.rank}.pt")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
