"""Whatever stands in the place of a component, a recipe is checked to the end: problems, and no traceback."""

from __future__ import annotations

import copy
from pathlib import Path

import pytest

from toolbox import api
from toolbox.cli import train
from toolbox.config import load_config, validate
from toolbox.config.load import to_dict

RECIPES = sorted((Path(__file__).parent.parent / "configs").rglob("*.py"))


OPTIONAL = {
    ("train_dataloader", "augment"),
    ("param_scheduler",),
    ("val_evaluator",),
    ("model", "head"),
    ("model", "loss"),  # of a model that is only evaluated: told with the data
}
MANY = ("param_scheduler", "val_evaluator", "test_evaluator", "custom_hooks")


def slots(value, path=()):
    """The places of components in a recipe."""
    if isinstance(value, dict) and "type" in value and path:
        yield path
    items = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, item in items:
        yield from slots(item, (*path, key))


def apply_changes(recipe, path, value):
    recipe = copy.deepcopy(recipe)
    *parents, last = path
    place = recipe
    for key in parents:
        place = place[key]
    place[last] = value
    return recipe


@pytest.mark.parametrize("value", [None, 5, "nothing", [], {}, [None], {"type": None}, {"type": 3}, True])
def test_a_slot_of_the_toy_recipe(toy, value):
    recipe = to_dict(toy())
    recipe["model"]["pool"] = {"type": "core.Pool", "mode": "mean"}
    tried = list(slots(recipe))
    assert ("model", "backbone") in tried
    for path in tried:
        plan = api.plan(apply_changes(recipe, path, value), data=False)
        if value is None:
            accepted = path in OPTIONAL
        else:  # lists of none, and an augment that names no input
            accepted = (value in ([], {}, [None]) and path[0] in MANY) or (value == {} and path[-1] == "augment")
        assert accepted or plan.problems, (path, value)


@pytest.mark.parametrize("recipe", RECIPES, ids=lambda path: path.stem)
def test_a_slot_of_every_recipe(recipe, monkeypatch):
    monkeypatch.chdir(recipe.parent)
    content = to_dict(load_config(str(recipe)))
    if "model" not in content or validate(content):
        return  # a base of others
    for path in slots(content):
        for value in (5, []):
            many = value == [] and path[0] in MANY
            assert many or validate(apply_changes(content, path, value)), (path, value)


@pytest.mark.parametrize("override", ["model.pool=None", "model.backbone=None", "model=None", "model.backbone=3"])
def test_the_command_says_so_and_ends_with_2(toy, override, capsys):
    here = Path(__file__).parent
    options = ["--plugin", str(here / "toy_plugin.py"), "--check", "--cfg-options", override]
    assert train.main([str(here / "toy_recipe.py"), *options]) == 2
    assert override.split("=")[0] in "".join(capsys.readouterr())
