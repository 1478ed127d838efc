"""Where a run continues from, and whether what it continues is the same."""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from toolbox.engine.checkpoint import checkpoint as checkpoints
from toolbox.engine.checkpoint import run_folder
from toolbox.engine.checkpoint.files import point, recover
from toolbox.engine.checkpoint.start import open_start
from toolbox.engine.classes import first_difference
from toolbox.engine.console import Console
from toolbox.engine.distributed.context import DistributedContext
from toolbox.errors import ToolboxError
from toolbox.utils.key_paths import find_differences

PLACE_KEYS = ("work_dir", "resume", "load_from", "load_parts", "env_cfg.device")
"""Keys of a recipe that say where a run lies or begins: another one changes no setting."""


def open_folder(folder: Path, resume: bool | str, overwrite: bool, console: Console) -> checkpoints.Checkpoint | None:
    """Make sure that a run may use its folder; the checkpoint it continues from, None for a new run.

    - `resume`: True for the newest whole checkpoint in `folder`, or a checkpoint's path.
    - `overwrite`: a run that the folder holds will be replaced.
    """
    if not resume:
        if not overwrite:
            run_folder.check_free(folder)
        return None
    recover(folder)
    if isinstance(resume, str):
        checkpoint = checkpoints.read(resume)
        if checkpoint.plain_state() is None:
            raise ToolboxError(
                f"{checkpoint.path} holds weights alone: no training can continue from it.",
                hint="Resume a checkpoint-<step>, or start a new run with load_from.",
            )
        if checkpoint.path.parent != folder.resolve() and run_folder.holds_run(folder):
            raise ToolboxError(
                f"{folder} already holds another run than {checkpoint.path}.",
                hint="Continue that checkpoint in its own folder, or in an empty out folder.",
            )
        return checkpoint
    newest, complaints = checkpoints.newest(folder)
    for complaint in complaints:
        console.warn(complaint)
    if newest is None and complaints:
        raise ToolboxError(f"No checkpoint in {folder} is whole.", hint="Start again with overwrite=True.")
    if newest is None:
        console.warn(f"{folder} holds no checkpoint to resume: the run starts from the beginning.")
        run_folder.cut_metrics(folder / "metrics.jsonl", -1)  # of the run that ended before its first checkpoint
    elif complaints:
        console.warn(f"Falling back to {newest.path.name}.")
    return newest


def open_together(
    folder: Path, resume: bool | str, overwrite: bool, console: Console, distributed: DistributedContext
) -> checkpoints.Checkpoint | None:
    """`open_folder` for all processes: the main one chooses the checkpoint, and the others read it."""
    checkpoint: checkpoints.Checkpoint | None = None

    def open_on_main() -> Path | None:
        nonlocal checkpoint
        # started again by the launcher: what the run itself has saved since is newer than where it was told to begin
        again = distributed.rank_info.restarts > 0 and isinstance(resume, str) and bool(checkpoints.all_in(folder))
        checkpoint = open_folder(folder, again or resume, overwrite, console)
        return None if checkpoint is None else checkpoint.path

    path = distributed.run_on_main(open_on_main)
    return checkpoint if distributed.is_main or path is None else checkpoints.read(path, verify=False)


def start_of(recipe: dict[str, Any], folder: Path, overwrite: bool) -> checkpoints.Checkpoint | None:
    """What a new run starts from: its recipe's `load_from`, None without one.

    Raises ToolboxError where that would be removed with the run that `overwrite` replaces.
    """
    start = open_start(recipe)
    if start is not None and overwrite and start.path.parent == folder.resolve():
        raise ToolboxError(
            "load_from names a checkpoint of the run that would be replaced.", hint="Choose another out folder."
        )
    return start


def check_classes(checkpoint: checkpoints.Checkpoint, names: list[str] | None) -> None:
    """Raise ToolboxError where as many classes have other names than in the checkpoint: labels mean others now.

    - `names`: those of the training data. A checkpoint without names is taken as it is.
    """
    then = checkpoint.class_names()
    if then is None or names is None or len(then) != len(names):
        return  # `differences` reports another number
    if difference := first_difference(then, names):
        raise ToolboxError(
            f"The training data have other classes than those of the checkpoint {checkpoint.path}: {difference}.",
            where="train_dataloader.dataset",
            hint="Resume with the data that the run began with, or start a new run with load_from.",
        )


def differences(
    checkpoint: checkpoints.Checkpoint,
    recipe: dict[str, Any],
    plugins: dict[str, Any],
    classes: int | None,
    processes: int = 1,
    kept_norms: Sequence[str] = (),
) -> list[str]:
    """Notes on settings, plugins and training classes that are not those of the checkpoint.

    - `classes`: how many the training data have now; `processes`: how many train now.
    - `kept_norms`: paths of backbones that train, whose batch norms keep their running statistics.
    """
    notes = []
    changed = find_differences(checkpoint.manifest["recipe"], recipe, ignored=PLACE_KEYS)
    is_older = "decay_tokens" not in checkpoint.manifest["recipe"]["optim_wrapper"]
    if is_older and kept_norms:
        ways = " and ".join(f"model.{path}.tune.norm_stats='train'" for path in kept_norms)
        notes.append(
            "The checkpoint is of a version whose batch norms updated their running statistics in training; in this "
            f"one those of pretrained backbones keep them: {ways} goes on as it did."
        )
    if is_older and not recipe["optim_wrapper"].get("decay_tokens"):
        changed = [path for path in changed if path != "optim_wrapper.decay_tokens"]
        notes.append(
            "The checkpoint is of a version that decayed class tokens and position embeddings; this one leaves them "
            "out: optim_wrapper.decay_tokens=True goes on as it did."
        )
    if changed:
        notes.append(f"The recipe differs from the checkpoint's in: {', '.join(changed)}.")
    for namespace, then in checkpoint.manifest["plugins"].items():
        now = plugins.get(namespace)
        if now and now["sources"] != then["sources"]:
            notes.append(
                f"The plugin {namespace} has changed since the checkpoint ({then['version']} -> {now['version']}): "
                "the run may not continue exactly."
            )
    if (then := checkpoint.manifest.get("processes", 1)) != processes:
        notes.append(
            f"The checkpoint is of {then} process{'es' * (then > 1)}, and the run goes on with {processes}: batches "
            "stay the same, but sums are rounded and dropout is drawn otherwise."
        )
    if (then := checkpoint.manifest["classes"]) != classes:
        notes.append(
            f"The training data had {then or 'no'} classes and have {classes or 'none'} now: batches and labels are "
            "not those that the run would have had."
        )
    return notes


def turn_back(folder: Path, step: int, best: dict[str, Any] | None, console: Console) -> dict[str, Any] | None:
    """Make a run's folder what it was at `step`; returns `best`, unless that checkpoint is not there."""
    _set_aside_newer(folder, step, console)
    shutil.rmtree(folder / checkpoints.WISE_FT, ignore_errors=True)  # of an end of the run, which will come again
    if (here := folder / f"checkpoint-{step}").is_dir():
        point(folder / "last", here)  # the run may have been killed before it moved the link
    if best and not (folder / f"checkpoint-{best['step']}").is_dir():
        console.warn(f"The best checkpoint, of step {best['step']}, is not here: the search for it restarts.")
        return None
    if best:
        point(folder / "best", folder / f"checkpoint-{best['step']}")
    return best


def _set_aside_newer(folder: Path, step: int, console: Console) -> None:
    """Move checkpoints after `step` to `abandoned/`: the run takes another way from here, or they are damaged."""
    newer = [path for path in checkpoints.all_in(folder) if int(path.name.rpartition("-")[2]) > step]
    for path in newer:
        target = folder / "abandoned" / path.name
        target.parent.mkdir(exist_ok=True)
        number = 1
        while target.exists():
            number += 1
            target = folder / "abandoned" / f"{path.name}.{number}"
        path.rename(target)
        console.warn(f"{path.name} is newer than the step to continue from: moved to {target}.")
