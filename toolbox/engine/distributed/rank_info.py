"""Which process of how many this one is, from what torchrun or SLURM tell it in the environment."""

from __future__ import annotations

import os
import re
from collections.abc import MutableMapping
from dataclasses import dataclass

from toolbox.errors import ToolboxError

_TORCHRUN = ("RANK", "WORLD_SIZE", "LOCAL_RANK", "LOCAL_WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT")
_SLURM = ("SLURM_PROCID", "SLURM_NTASKS", "SLURM_LOCALID", "SLURM_JOB_ID", "SLURM_JOB_NODELIST")


@dataclass(frozen=True)
class RankInfo:
    """A process among those of a run.

    - `rank` of `world_size`: over all machines; `local_rank` of `local_world_size`: on this one.
    - `restarts`: how often the launcher has started the run again.
    """

    rank: int = 0
    world_size: int = 1
    local_rank: int = 0
    local_world_size: int = 1
    restarts: int = 0


def detect_rank(launcher: str | None, environment: MutableMapping[str, str] | None = None) -> RankInfo:
    """The rank of this process, and of how many.

    - `launcher`: "none", "pytorch" (torchrun), "slurm" (srun); None is "pytorch" where torchrun started this process.
    - `environment`: default: that of this process. SLURM's is completed by what torch reads.

    Raises ToolboxError where the environment does not fit the launcher.
    """
    known = os.environ if environment is None else environment
    by_torchrun = "TORCHELASTIC_RUN_ID" in known
    launcher = launcher or ("pytorch" if by_torchrun else "none")
    if launcher == "none":
        if by_torchrun and int(known.get("WORLD_SIZE", 1)) > 1:
            raise ToolboxError(
                f"torchrun has started {known['WORLD_SIZE']} processes, and each of them would train alone.",
                where="--launcher none",
                hint="Use --launcher pytorch, or start one process without torchrun.",
            )
        return RankInfo()
    if launcher == "slurm":
        _as_torchrun(known)
    names = (*_TORCHRUN[:4], "MASTER_PORT")
    rank, world_size, local_rank, local_world_size, _ = _numbers(known, names, launcher, needed=_TORCHRUN)
    restarts = int(known.get("TORCHELASTIC_RESTART_COUNT", 0))
    rank_info = RankInfo(rank, world_size, local_rank, local_world_size, restarts)
    if not (
        0 <= rank_info.rank < rank_info.world_size
        and 0 <= rank_info.local_rank < rank_info.local_world_size <= rank_info.world_size
    ):
        listed = ", ".join(f"{name}={known[name]}" for name in _TORCHRUN[:4])
        raise ToolboxError(f"These do not fit together: {listed}.", where=f"--launcher {launcher}")
    return rank_info


def _numbers(known: MutableMapping[str, str], names: tuple[str, ...], launcher: str, needed: tuple[str, ...]) -> list:
    """The values of variables as whole numbers, once all that is needed is there."""
    starts = {
        "pytorch": "Start it with torchrun: torchrun --nproc_per_node=2 -m toolbox train CONFIG --launcher pytorch",
        "slurm": "Start it with srun: srun --ntasks-per-node=2 python -m toolbox train CONFIG --launcher slurm",
    }
    where, hint = f"--launcher {launcher}", starts[launcher]
    absent = [name for name in needed if not known.get(name)]
    if absent:
        raise ToolboxError(f"The environment has no {', '.join(absent)}.", where=where, hint=hint)
    wrong = [name for name in names if not known[name].isdecimal()]
    if wrong:
        raise ToolboxError(f"{wrong[0]}={known[wrong[0]]} is no whole number.", where=where, hint=hint)
    return [int(known[name]) for name in names]


def _as_torchrun(known: MutableMapping[str, str]) -> None:
    """Give SLURM's facts torchrun's names; MASTER_ADDR and MASTER_PORT stay where they are set."""
    rank, size, local_rank, job = _numbers(known, _SLURM[:4], "slurm", needed=_SLURM)
    node = int(known.get("SLURM_NODEID", 0))
    known["RANK"], known["WORLD_SIZE"], known["LOCAL_RANK"] = str(rank), str(size), str(local_rank)
    known["LOCAL_WORLD_SIZE"] = str(_tasks_on(node, known.get("SLURM_STEP_TASKS_PER_NODE", ""), size))
    known.setdefault("MASTER_ADDR", first_host(known["SLURM_JOB_NODELIST"]))
    # steps of one job, and jobs on one machine, must not meet each other
    step = int(known["SLURM_STEP_ID"]) if known.get("SLURM_STEP_ID", "").isdecimal() else 0
    known.setdefault("MASTER_PORT", str(20000 + (job * 31 + step) % 20000))


def first_host(nodes: str) -> str:
    """The first machine of SLURM's list, e.g. gpu003 of "gpu[003-006,9],big1"."""
    match = re.match(r"[^,\[\]](?:[^,\[\]]|\[[^\]]+\])*", nodes)
    if match is None:
        raise ToolboxError(f"SLURM_JOB_NODELIST={nodes} names no machine.", hint="Set MASTER_ADDR.")
    return re.sub(r"\[([^,\-\]]+)[^\]]*\]", r"\1", match[0]).strip()


def _tasks_on(node: int, counts: str, size: int) -> int:
    """The processes on machine number `node`, of SLURM's "4(x2),3"; without it, all of them."""
    expanded = [
        int(count) for count, times in re.findall(r"(\d+)(?:\(x(\d+)\))?", counts) for _ in range(int(times or 1))
    ]
    return expanded[node] if node < len(expanded) else size
