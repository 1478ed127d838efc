"""What a recipe would do, and the complete recipe: all that is wrong with it is reported before anything runs."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from toolbox import prerequisites
from toolbox.config import Config, complete, get_places, load_plugins, to_dict, validate
from toolbox.config.places import Places
from toolbox.errors import Problem, ToolboxError, format_command

if TYPE_CHECKING:
    from toolbox.preflight.dry_run import DryRun
    from toolbox.preflight.plan import Plan


def plan(
    config: Mapping[str, Any],
    *,
    data: bool = True,
    device: str | None = None,
    weights: bool = False,
    is_valid: bool = False,
) -> Plan:
    """What a recipe would do: its problems, table of parts, length and memory.

    - `device` replaces the recipe's; `weights`: whether pretrained weights are looked for, without a download.
    - `is_valid`: whether the recipe was validated already.
    """
    from toolbox.engine.assemble import weight_problems
    from toolbox.preflight.plan import Plan
    from toolbox.preflight.preflight import check_recipe

    recipe, places, notes = make_plain(config), get_places(config), adapt(config)
    plan = Plan(problems=[] if is_valid else validate(recipe), notes=notes)
    if not plan.problems:
        try:
            start = prerequisites.find_start(recipe)
            plan = check_recipe(set_device(complete(recipe | {"load_from": start}), device), with_data=data)
            plan.notes = [*notes, *plan.notes]
            if weights and plan.parts and not recipe.get("load_from"):
                plan.problems += weight_problems(recipe)
        except ToolboxError as error:
            plan.problems += error.problems
        else:
            if start is None and recipe.get("load_from"):
                plan.notes.append(f"{recipe['load_from']} is trained first.")
    if plan.problems:
        plan.problems += [
            Problem(
                f"{entry['out']} is not there yet.",
                f"prepare.{index}.out",
                f"{format_command('train')} writes it first.",
            )
            for index, entry in enumerate(recipe.get("prepare") or [])
            if isinstance(entry, dict) and isinstance(entry.get("out"), str) and not Path(entry["out"]).exists()
        ]
    plan.problems = locate_problems(plan.problems, places)
    return plan


def make_runnable(config: Mapping[str, Any], device: str | None, *, training: bool = True) -> dict[str, Any]:
    """The complete recipe. Raises ToolboxError with all its problems."""
    return plan_run(config, device, training=training)[0]


def plan_run(
    config: Mapping[str, Any], device: str | None, *, training: bool = True, is_valid: bool = False
) -> tuple[dict[str, Any], Plan, DryRun]:
    """The complete recipe, what it would do, and the dry run that showed it; `is_valid` as of `plan`.

    Raises ToolboxError with all problems of the recipe.
    """
    checked = plan(config, data=training, device=device, is_valid=is_valid)
    if checked.problems or checked.dry_run is None:
        raise ToolboxError.from_problems(checked.problems)
    recipe = checked.dry_run.recipe
    return recipe | {"load_from": recipe["load_from"] or config.get("load_from")}, checked, checked.dry_run


def set_device(recipe: dict[str, Any], device: str | None) -> dict[str, Any]:
    """The complete recipe with its device replaced, unless `device` is None."""
    if device is not None:
        recipe["env_cfg"]["device"] = device
    return recipe


def make_plain(config: Mapping[str, Any]) -> dict[str, Any]:
    """A recipe as plain dicts, its local plugins loaded."""
    load_plugins(to_dict(config).get("plugins") or [])
    adapt(config)
    return to_dict(config)


def adapt(config: Mapping[str, Any]) -> list[str]:
    """Fit a loaded recipe, in place and once, to the encoders that its overrides name; returns notes on it."""
    from toolbox.other_encoder import adapt_recipe

    if not isinstance(config, Config) or not getattr(config, "overridden", None):
        return []
    notes = config.__dict__.get("adapted")
    if notes is None:
        notes = adapt_recipe(config._cfg_dict, config.overridden, config.original)
        object.__setattr__(config, "adapted", notes)
    return notes


def get_recipe_name(config: Mapping[str, Any]) -> str:
    """A recipe's name: its file's, without the ending."""
    filename = getattr(config, "filename", None) if isinstance(config, Config) else None
    return Path(filename).stem if filename else "run"


@contextmanager
def locate_error(config: Mapping[str, Any]) -> Iterator[None]:
    """An error inside says in which file and line of the recipe its key paths are."""
    try:
        yield
    except ToolboxError as error:
        raise ToolboxError.from_problems(locate_problems(list(error.problems), get_places(config))) from error


def locate_problems(problems: list[Problem], places: Places | None) -> list[Problem]:
    """The problems, with file and line of the literal nearest to their key paths."""
    if places is None:
        return problems
    located = []
    for problem in problems:
        place = places.find(problem.where) if problem.where else ""
        located.append(replace(problem, where=f"{place} {problem.where}") if place else problem)
    return located
