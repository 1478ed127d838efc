"""What `train --resume` need not be told again: the recipe, the folder and the options of the run."""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path

from toolbox.errors import ToolboxError


def complete_resume(arguments: argparse.Namespace) -> list[str]:
    """Fill in, in place, what a command with `--resume` leaves out; returns the options that the run keeps.

    - `--resume RUN` without a recipe takes that of the run's config.py, and its folder.
    - `--resume` with a recipe keeps the `--cfg-options` that the run was started with, unless they are given anew.

    Raises ToolboxError where there is no recipe, and no run that holds one.
    """
    from toolbox.config import is_shipped

    named = arguments.resume
    if isinstance(named, str):
        run = find_run(Path(named))
        if arguments.config is None and run is None and (named.endswith(".py") or is_shipped(named)):
            arguments.config, arguments.resume = named, True
        elif run is not None:
            is_folder = run == Path(named)
            if arguments.work_dir is None and (is_folder or arguments.config is None):
                arguments.work_dir = str(run)
            if is_folder and Path(arguments.work_dir).resolve() == run.resolve():
                arguments.resume = True  # its newest checkpoint, not its best
            arguments.config = arguments.config or str(run / "config.py")
    elif arguments.resume and arguments.config is None and arguments.work_dir and find_run(Path(arguments.work_dir)):
        arguments.config = str(Path(arguments.work_dir) / "config.py")
    if arguments.config is None:
        reason = f", and {named} is no folder of a run and no checkpoint in one" if isinstance(named, str) else ""
        raise ToolboxError(
            f"No recipe is named{reason}.", hint="Name a recipe, or continue a run with --resume work_dirs/RUN."
        )
    if not arguments.resume or arguments.overwrite:
        return []
    kept = list_kept_options(_find_run_folder(arguments), [text.partition("=")[0] for text in arguments.cfg_options])
    arguments.cfg_options = [*kept, *arguments.cfg_options]
    return kept


def find_run(path: Path) -> Path | None:
    """The folder of the run that a path means: itself, or that of a checkpoint in it."""
    return next((folder for folder in (path, path.parent) if (folder / "config.py").is_file()), None)


def list_kept_options(folder: Path, replaced: list[str]) -> list[str]:
    """The options that the run in a folder was started with, as `KEY=VALUE`, but for those that are `replaced`."""
    from toolbox.recipe_text import read_recipe
    from toolbox.utils.key_paths import get_value, has_key, is_within

    try:
        keys = json.loads((folder / "environment.json").read_text(encoding="utf-8")).get("overridden") or []
        recipe = read_recipe((folder / "config.py").read_text(encoding="utf-8"))
    except OSError:  # a folder without a run keeps nothing
        return []
    except ValueError as error:
        print(f"The options that {folder} was started with are not kept: {error}. Give them again.", file=sys.stderr)
        return []
    keys = [key for key in keys if not any(is_within(key, other) for other in replaced)]
    keys = [key for key in keys if key not in ("work_dir", "resume") and has_key(recipe, key)]
    return [f"{key}={get_value(recipe, key)!r}" for key in keys]


def _find_run_folder(arguments: argparse.Namespace) -> Path:
    from toolbox import api, prerequisites
    from toolbox.config import to_dict

    if arguments.work_dir:
        return Path(arguments.work_dir)
    config = api.load_config(arguments.config, arguments.cfg_options, arguments.plugin)
    return prerequisites.get_run_folder(to_dict(config), api.get_recipe_name(config))
