"""What a recipe needs and can make itself, once: data that `prepare` writes, and the run that `load_from` starts from.

Both are looked for first, and a message says what is made.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeGuard

from toolbox.config import load_config, to_dict
from toolbox.errors import ToolboxError, format_command
from toolbox.registry import get_catalog

if TYPE_CHECKING:
    from toolbox.base import Dataset
    from toolbox.engine.console import Console
    from toolbox.engine.distributed.context import DistributedContext

Train = Callable[..., dict[str, Any]]


def prepare_data(recipe: Mapping[str, Any], console: Console, distributed: DistributedContext) -> None:
    """Write the data that the recipe's `prepare` names, where they are not complete yet.

    Raises ToolboxError when they cannot be written.
    """

    def write() -> None:
        for index, entry in enumerate(recipe.get("prepare") or []):
            options = dict(entry)
            where, name, out = f"prepare.{index}", options.pop("dataset"), options.pop("out")
            if not Path(out).exists():
                console.info(f"Preparing {out}, once ...")
            dataset_class: type[Dataset] = get_catalog().resolve(name, "dataset", where=where)
            try:
                summary = dataset_class.prepare(out, **options)
            except (OSError, ValueError) as error:
                raise ToolboxError(str(error), where=where) from error
            console.info(summary)

    distributed.run_on_main(write)


def find_start(recipe: Mapping[str, Any]) -> str | None:
    """What `load_from` means: a checkpoint, or the folder of the run that it names by its recipe.

    None where that run has not come to its end yet. Raises ToolboxError where its folder holds another run.
    """
    named = recipe.get("load_from")
    if not is_recipe(named):
        return named
    start_recipe = to_dict(load_config(named))
    folder = get_run_folder(start_recipe, Path(named).stem)
    if not is_finished(folder):
        return None
    if differing := _list_differences(folder, start_recipe):
        raise ToolboxError(
            f"{folder} holds a run of another recipe than {named}: {', '.join(differing)}.",
            where="load_from",
            hint=f"Train it again: {format_command('train')} {named} --overwrite",
        )
    return str(folder)


def train_start(
    recipe: Mapping[str, Any], train: Train, *, device: str | None, console: Console, distributed: DistributedContext
) -> None:
    """Train the recipe that `load_from` names, unless that was done before; a run that was interrupted goes on.

    Raises ToolboxError as training does, and where several processes would have to do it.
    """
    from toolbox.engine.checkpoint.run_folder import holds_run
    from toolbox.engine.signals import Interrupted

    named = recipe.get("load_from")
    if not is_recipe(named) or find_start(recipe) is not None:
        return
    if distributed.world_size > 1:
        raise ToolboxError(
            f"{named} has not been trained yet, and one process does that.",
            where="load_from",
            hint=f"Run it first: {format_command('train')} {named}",
        )
    config = load_config(named)
    folder = get_run_folder(to_dict(config), Path(named).stem)
    console.info(f"This recipe starts from what {named} trains: doing that first, once, in {folder}.")
    try:
        train(config, out=folder, device=device, console=console, resume=holds_run(folder))
    except Interrupted as interrupted:
        text = f"Interrupted while {named} was trained. The same command goes on from there."
        raise Interrupted(interrupted.signum, text) from interrupted
    console.info(f"{folder} is ready.")


def is_recipe(load_from: Any) -> TypeGuard[str]:
    """Whether a `load_from` names a recipe."""
    return isinstance(load_from, str) and load_from.endswith(".py")


def get_run_folder(recipe: Mapping[str, Any], name: str) -> Path:
    """Where the run of a recipe of this name lies: its `work_dir`, or work_dirs/<name>."""
    return Path(recipe.get("work_dir") or Path("work_dirs") / name)


def is_finished(folder: Path) -> bool:
    """Whether the run in a folder has come to its end."""
    from toolbox.base.files import resolve_run_link

    try:
        results = json.loads((folder / "train_results.json").read_text(encoding="utf-8"))
    except (OSError, ValueError):  # it is trained on, and writes them anew
        return False
    return (
        isinstance(results, dict)
        and "steps" in results
        and any(resolve_run_link(folder / name).is_dir() for name in ("best", "last"))
    )


def _list_differences(folder: Path, recipe: dict[str, Any]) -> list[str]:
    """The keys in which the run in `folder` differs from the recipe as it is now."""
    from toolbox.config import complete
    from toolbox.engine.checkpoint import checkpoint as checkpoints
    from toolbox.engine.resume import PLACE_KEYS
    from toolbox.utils.key_paths import find_differences

    trained = checkpoints.read(folder, verify=False).manifest["recipe"]
    return find_differences(trained, complete(recipe), ignored=PLACE_KEYS)
