"""Recipes by name: those that the toolbox and its plugins ship, outside any checkout."""

from __future__ import annotations

import json
import tomllib
from pathlib import Path
from types import ModuleType

import pytest

import toolbox
from toolbox.cli.main import main
from toolbox.config import find_recipe, list_recipes, load_config, to_dict
from toolbox.loading import find_model_kind
from toolbox.plugin import hookimpl
from toolbox.testing import isolated_catalog

ROOT = Path(__file__).parents[1]
CONFIGS = ROOT / "configs"
CHILD = '''"""The demo, cut short."""
_base_ = ['{}']
train_cfg = dict(max_steps=3)
'''


@pytest.fixture
def elsewhere(tmp_path, monkeypatch):
    """An empty current folder."""
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture
def house(elsewhere):
    """`house(base)`: a plugin `house` that ships the recipe `short`, whose base is that; the core is there too."""

    def write(base, *others):
        (elsewhere / "recipes").mkdir()
        (elsewhere / "recipes" / "short.py").write_text(CHILD.format(base))
        plugin = ModuleType("house")
        plugin.toolbox_config_dirs = hookimpl(lambda: [str(elsewhere / "recipes")])
        return isolated_catalog(plugin, *others)

    return write


def refusal(name) -> str:
    with pytest.raises(toolbox.ToolboxError) as caught:
        load_config(name)
    return str(caught.value)


def test_a_name_is_enough_outside_a_checkout(elsewhere):
    for name in ("dinov3_sop", "demo/dinov3_sop", "core:demo/dinov3_sop", "core:dinov3_sop.py"):
        assert find_recipe(name) == CONFIGS / f"{name.removeprefix('core:').removesuffix('.py')}.py"
    assert find_model_kind("dinov3_sop") == find_model_kind("core:dinov3_sop") == "recipe"
    assert find_model_kind("vits16") == find_model_kind("_base_/runtime") == "backbone"
    assert load_config("demo/dinov3_food101").load_from == str(CONFIGS / "demo" / "dinov3_trunk.py")


def test_a_path_that_exists_wins(elsewhere):
    (elsewhere / "demo").mkdir()
    mine = elsewhere / "demo" / "dinov3_sop.py"
    mine.write_text("train_cfg = dict(max_steps=1)")
    assert find_recipe("demo/dinov3_sop.py") == Path("demo/dinov3_sop.py")
    assert find_recipe("demo/dinov3_sop") == CONFIGS / "demo" / "dinov3_sop.py", "that is no path"
    (elsewhere / "dinov3_sop").mkdir()
    assert find_recipe("dinov3_sop") == CONFIGS / "dinov3_sop.py", "an empty folder is no recipe"
    (elsewhere / "dinov3_sop" / "config.py").write_text("")
    assert "This is a folder of a run" in refusal("dinov3_sop")


def test_an_unknown_name_gets_near_ones(elsewhere, capsys):
    assert main(["train", "dinov3_spo"]) == 2
    assert capsys.readouterr().err.startswith("dinov3_spo: There is no such recipe. Did you mean dinov3_sop or ")
    assert "Did you mean demo/dinov3_sop or " in refusal("demo/dinov3_spo")
    assert "Did you mean dinov3_sop or " in refusal("configs/dinov3_sop.py"), "a path of a checkout that is not here"
    assert "Did you mean core:dinov3_sop or " in refusal("core:dinov3_spo")
    assert "_base_" not in refusal("runtime")
    assert "Recipes are, e.g., " in refusal("xxxxxxxxxxxx")


def test_the_list_says_what_each_needs(elsewhere, capsys):
    assert [recipe.name for recipe in list_recipes()] == sorted(
        (
            path.relative_to(CONFIGS).with_suffix("").as_posix()
            for path in CONFIGS.rglob("[!_]*.py")
            if path.parent.name != "_base_"
        ),
        key=lambda name: ("/" in name, name),
    )
    assert main(["recipes", "--json"]) == 0
    records = {record["name"]: record for record in json.loads(capsys.readouterr().out)}
    assert all(record["summary"].endswith((".", ":")) and not record["problems"] for record in records.values())
    assert {"datasets", "dinov3", "glyphs", "losses"} <= set(records["demo/dinov3_sop"]["plugins"])
    assert "glyphs" not in records["dinov3_sop"]["plugins"]
    with isolated_catalog():
        assert main(["recipes"]) == 0
    said = capsys.readouterr().out
    assert records["dinov3_sop"]["summary"] in said
    missing = "there is no plugin 'losses' here. It is vision-encoder-toolbox-losses, of the toolbox's repository."
    assert said.count(missing) == 1
    assert said.count("needs ") == said.count("(see below)") == len(records)


def test_a_recipe_whose_plugin_is_missing_says_what_to_install(elsewhere, capsys):
    with isolated_catalog():
        assert main(["train", "demo/dinov3_sop"]) == 2
    said = capsys.readouterr().err.splitlines()
    assert sum("It is vision-encoder-toolbox-dinov3, of the toolbox's repository." in line for line in said) == 1
    assert not (elsewhere / "work_dirs").exists()


def test_recipes_of_the_toolbox_need_only_what_has_a_name_of_that_form():
    for file in (ROOT / "plugins").glob("*/pyproject.toml"):
        project = tomllib.loads(file.read_text())["project"]
        [namespace] = project["entry-points"]["toolbox.v1"]
        assert project["name"] == f"vision-encoder-toolbox-{namespace}"
        assert file.parent.name.startswith(namespace)  # qwen3 is in qwen3-text


def test_a_plugin_ships_recipes_on_bases_of_another_distribution(house, capsys):
    with house("core:demo/dinov3_sop"):
        config = load_config("house:short")
        assert (config.train_cfg.max_steps, config.optim_wrapper.optimizer.lr) == (3, 2e-3)
        assert list_recipes()[-1].name == "house:short"
        assert list_recipes()[-1].summary == "The demo, cut short."
        problems = "\n".join(map(str, toolbox.check_config(config, data=False)))
        assert "demo/dinov3_sop.py:18 model.backbone.type: there is no plugin 'dinov3' here." in problems
        assert main(["recipes"]) == 0
        assert "house:short" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("base", "words"),
    [
        ("other:demo/dinov3_sop", ["short.py:2: there is no plugin 'other' here."]),
        ("losses:x", ["short.py:2: there is no plugin 'losses' here.", "vision-encoder-toolbox-losses"]),
        (
            "core:demo/dinov3_spo",
            ["short.py:2: The plugin 'core' ships no recipe", "Did you mean core:demo/dinov3_sop"],
        ),
        (
            "../../toolbox/configs/_base_/runtime.py",
            ["short.py:2", "does not exist", "Did you mean core:_base_/runtime"],
        ),
    ],
)
def test_a_base_that_is_not_here(house, base, words):
    with house(base):
        said = refusal("house:short")
        assert all(word in said for word in words), said


def test_a_base_of_a_broken_plugin_says_why(house, elsewhere):
    (elsewhere / "broken.py").write_text("import no_such_module")
    with house("broken:x", str(elsewhere / "broken.py")):
        said = refusal("house:short")
    assert "short.py:2" in said
    assert "no_such_module" in said


def test_a_recipe_of_ones_own_stands_on_a_shipped_one(elsewhere):
    (elsewhere / "mine.py").write_text(CHILD.format("core:demo/dinov3_sop").replace("3)", "5)"))
    mine, theirs = to_dict(load_config("mine.py")), to_dict(load_config("demo/dinov3_sop"))
    assert mine["train_cfg"]["max_steps"] == 5
    assert {key for key in theirs if mine[key] != theirs[key]} == {"train_cfg"}
