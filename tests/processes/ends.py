"""A process of a run that ends in some way: python ends.py CASE FOLDER. Prints "ended" where it comes to its end."""

from __future__ import annotations

import sys
import time
from pathlib import Path

import gradients  # which finds the toys
import runs
import torch

from toolbox.engine.distributed.context import DistributedContext, OtherProcessFailed
from toolbox.engine.distributed.rank_info import detect_rank
from toolbox.errors import ToolboxError
from toolbox.registry import add_local

HERE = Path(__file__).parent


def stop(distributed: DistributedContext, folder: Path) -> None:
    """One process asks to stop, at each of the places where a hook can."""
    steps = {}
    for place in ("before_run", "after_step", "after_log", "after_evaluate", "after_save"):
        hook = dict(type="processes.Stop", place=place, step=0 if place == "before_run" else 3)
        options = {**runs.SHORT, "default_hooks.logger.interval": 1, "custom_hooks": [hook]}
        steps[place] = runs.train(distributed, folder / place, "ddp", options)["steps"]
    print(steps)


def judge(distributed: DistributedContext, folder: Path) -> None:
    """The last validation batch, that of the second process, cannot be read."""
    data = dict(type="toy.Noise", count=32, seed=1, bad=list(range(16, 32)))
    validation = dict(dataset=data, batch_size=16, num_workers=0, on_bad_item="skip", max_bad_share=0.1)
    runs.train(
        distributed, folder / "judge", "ddp", {**runs.SHORT, "val_dataloader": validation, "evaluate_before": False}
    )


def before(distributed: DistributedContext, folder: Path) -> None:
    """One process fails before the others can talk to it."""
    if not distributed.is_main:
        time.sleep(2)
        raise ToolboxError("this machine lacks something")
    distributed.start(gradients.DEVICE)


def after(distributed: DistributedContext, folder: Path) -> None:
    """The main process fails in its last lines, when the others have nothing left to do."""
    distributed.start(gradients.DEVICE)
    if distributed.is_main:
        time.sleep(2)
        raise ToolboxError("the report cannot be written")


def prepare(distributed: DistributedContext, folder: Path) -> None:
    """The data are not there before the run."""
    root = str(folder / "written")
    loader = dict(dataset=dict(type="processes.Written", root=root), batch_size=8, num_workers=0)
    options = {"prepare": [dict(dataset="processes.Written", out=root)], "train_dataloader": loader}
    runs.train(distributed, folder / "prepare", "ddp", {**runs.SHORT, **options})


def untrained(distributed: DistributedContext, folder: Path) -> None:
    """The run starts from another one, which nobody has trained."""
    start = HERE.parent / "toy_recipe.py"
    runs.train(distributed, folder / "untrained", "ddp", {"load_from": str(start), "load_parts": ["model.backbone"]})


def main(case: str, folder: Path) -> int:
    torch.set_num_threads(1)
    add_local([str(HERE.parent / "toy_plugin.py"), str(HERE / "processes_plugin.py")])
    try:
        with DistributedContext(detect_rank("pytorch")) as distributed:
            cases = {"stop": stop, "judge": judge, "before": before, "after": after}
            (cases | {"prepare": prepare, "untrained": untrained})[case](distributed, folder)
    except ToolboxError as error:
        print(error, file=sys.stderr)
        return 2
    except OtherProcessFailed as failure:
        return failure.code
    print("ended")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1], Path(sys.argv[2])))
