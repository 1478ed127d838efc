"""A recipe made ready to run: complete, its local plugins loaded, and all that is wrong with it found first."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from toolbox import prerequisites
from toolbox.config import complete, get_places, load_plugins, to_dict, validate
from toolbox.config.places import Places
from toolbox.errors import Problem, ToolboxError, command_line

if TYPE_CHECKING:
    from toolbox.engine.preflight.plan import Plan


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
    from toolbox.engine.preflight.plan import Plan
    from toolbox.engine.preflight.preflight import check_recipe

    recipe, places, notes = as_plain(config), get_places(config), adapt(config)
    found = Plan(problems=[] if is_valid else validate(recipe), notes=notes)
    if not found.problems:
        try:
            start = prerequisites.start_from(recipe)
            found = check_recipe(on_device(complete(recipe | {"load_from": start}), device), with_data=data)
            found.notes = [*notes, *found.notes]
            if weights and found.parts and not recipe.get("load_from"):
                found.problems += weight_problems(recipe)
        except ToolboxError as error:
            found.problems += error.problems
        else:
            if start is None and recipe.get("load_from"):
                found.notes.append(f"{recipe['load_from']} is trained first.")
    if found.problems:
        found.problems += [
            Problem(
                f"{given['out']} is not there yet.", f"prepare.{index}.out", f"{command_line('train')} writes it first."
            )
            for index, given in enumerate(recipe.get("prepare") or [])
            if isinstance(given, dict) and isinstance(given.get("out"), str) and not Path(given["out"]).exists()
        ]
    found.problems = located(found.problems, places)
    return found


def runnable(config: Mapping[str, Any], device: str | None, *, training: bool = True) -> dict[str, Any]:
    """The complete recipe. Raises ToolboxError with all its problems."""
    return planned(config, device, training=training)[0]


def planned(
    config: Mapping[str, Any], device: str | None, *, training: bool = True, is_valid: bool = False
) -> tuple[dict[str, Any], Plan]:
    """`runnable`, and what the recipe would do; `is_valid` as of `plan`."""
    found = plan(config, data=training, device=device, is_valid=is_valid)
    if found.problems or found.dry_run is None:
        raise ToolboxError.from_problems(found.problems)
    recipe = found.dry_run.recipe
    return recipe | {"load_from": recipe["load_from"] or config.get("load_from")}, found


def on_device(recipe: dict[str, Any], device: str | None) -> dict[str, Any]:
    if device is not None:
        recipe["env_cfg"]["device"] = device
    return recipe


def as_plain(config: Mapping[str, Any]) -> dict[str, Any]:
    """A recipe as plain dicts, its local plugins loaded."""
    load_plugins(to_dict(config).get("plugins") or [])
    adapt(config)
    return to_dict(config)


def adapt(config: Mapping[str, Any]) -> list[str]:
    """Fit a loaded recipe, in place and once, to the encoders that its overrides name; returns notes on it."""
    from toolbox.other_encoder import adapt_recipe

    if not getattr(config, "overridden", None) or isinstance(config, dict):
        return []
    notes = config.__dict__.get("adapted")
    if notes is None:
        notes = adapt_recipe(config._cfg_dict, config.overridden, config.original)
        object.__setattr__(config, "adapted", notes)
    return notes


def name_of(config: Mapping[str, Any]) -> str:
    """A recipe's name: its file's, without the ending."""
    filename = getattr(config, "filename", None) if not isinstance(config, dict) else None
    return Path(filename).stem if filename else "run"


def placed(error: ToolboxError, config: Mapping[str, Any]) -> ToolboxError:
    return ToolboxError.from_problems(located(list(error.problems), get_places(config)))


def located(problems: list[Problem], places: Places | None) -> list[Problem]:
    """Key paths get the file and line of the literal nearest to them."""
    if places is None:
        return problems
    located = []
    for problem in problems:
        place = places.find(problem.where) if problem.where else ""
        located.append(replace(problem, where=f"{place} {problem.where}") if place else problem)
    return located
