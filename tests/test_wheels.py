"""What `make wheels` builds: installed by one name into a fresh environment, it does every job outside a checkout."""

from __future__ import annotations

import json
import re
import tomllib
from pathlib import Path

import pytest
from fresh_environment import FreshEnvironment

from toolbox.config import list_namespaces, list_recipes, load_config, to_dict

ROOT = Path(__file__).parents[1]
CORE = "vision-encoder-toolbox"
QUICK = [
    "--device",
    "cpu",
    "--cfg-options",
    "train_dataloader.num_workers=0",
    "val_dataloader.num_workers=0",
    "test_dataloader.num_workers=0",
    "evaluate_pixels=False",
]


def extras() -> dict[str, set[str]]:
    """{extra: the plugins that it installs, by namespace}, of those that install some."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    found = {
        name: {match[1] for text in requirements if (match := re.fullmatch(rf"{CORE}-(\w+)", text))}
        for name, requirements in project["optional-dependencies"].items()
    }
    return {name: plugins for name, plugins in found.items() if plugins}


def test_one_extra_installs_every_plugin():
    projects = [tomllib.loads(file.read_text())["project"] for file in (ROOT / "plugins").glob("*/pyproject.toml")]
    assert extras()["all"] == {project["name"].removeprefix(f"{CORE}-") for project in projects}


def test_each_recipe_is_covered_by_the_extra_of_a_job():
    jobs = {name: plugins | {"core"} for name, plugins in extras().items() if name != "all"}
    recipes = list_recipes()
    assert jobs
    assert recipes
    for recipe in recipes:
        config = to_dict(load_config(recipe.path))
        made = {data["dataset"].partition(".")[0] for data in config.get("prepare") or []}
        needs = list_namespaces(config) | made
        assert any(needs <= plugins for plugins in jobs.values()), (recipe.name, needs)


@pytest.fixture(scope="module")
def fresh(tmp_path_factory):
    return FreshEnvironment(tmp_path_factory.mktemp("fresh"), [f"{CORE}[all]"])


@pytest.mark.slow
def test_one_requirement_brings_everything(fresh):
    wheels = {path.name.partition("-")[0] for path in fresh.wheels.glob("*.whl")}
    names = {folder.parent.name for folder in (ROOT / "plugins").glob("*/pyproject.toml")}
    assert wheels == {"vision_encoder_toolbox", *(f"vision_encoder_toolbox_{name}" for name in names)}
    import_paths = fresh.python(
        "-c", "import toolbox, toolbox_losses; print(toolbox.__file__, toolbox_losses.__file__)"
    )
    assert all(path.startswith(str(fresh.site)) for path in import_paths.split())
    assert {path.parent.name for path in fresh.site.glob("toolbox*/py.typed")} == {
        "toolbox",
        *(f"toolbox_{name}" for name in names),
    }
    record = json.loads(fresh.run(fresh.bin / CORE, "list_components", "--json"))
    assert {plugin["namespace"]: plugin["state"] for plugin in record["plugins"]} == dict.fromkeys(
        {"core", *names}, "ready"
    )
    assert record["uninstalled"] == []
    recipes = json.loads(fresh.run(fresh.bin / CORE, "recipes", "--json"))
    assert [recipe["name"] for recipe in recipes] == [recipe.name for recipe in list_recipes()]
    assert all(Path(recipe["path"]).is_relative_to(fresh.site) and not recipe["problems"] for recipe in recipes)


@pytest.mark.slow
def test_outside_a_checkout_a_recipe_by_name_trains_and_its_run_is_used(fresh):
    short = ["train_cfg.max_steps=6", "train_cfg.val_interval=6", "default_hooks.checkpoint.interval=6"]
    said = fresh.run(fresh.bin / CORE, "train", "demo/dinov3_sop", *QUICK, *short)
    assert "Report: " in said
    run = fresh.folder / "work_dirs" / "dinov3_sop"
    results = json.loads((run / "train_results.json").read_text())
    assert results["steps"] == 6
    tested = fresh.python("-m", "toolbox", "test", "demo/dinov3_sop", run, "--json", *QUICK, *short)
    assert json.loads(tested) == results["after"]
    pictures = next((fresh.folder / "data" / "glyphs_sop").glob("*_final"))
    fresh.run(fresh.bin / CORE, "embed", run, pictures, "some.npz", "--device", "cpu", "--num-workers", "0")
    code = "import numpy; print(*numpy.load('some.npz')['embeddings'].shape)"
    count, width = map(int, fresh.python("-c", code).split())
    assert (count, width) == (len([*pictures.glob("*.*")]), 192)


@pytest.mark.slow
def test_outside_a_checkout_a_classifier_is_trained_and_predicts(fresh):
    short = ["load_from=None", "load_parts=None", "train_cfg.max_epochs=1", "train_cfg.val_interval=1"]
    fresh.run(fresh.bin / CORE, "train", "demo/dinov3_food101", "--work-dir", "classifier", *QUICK, *short)
    pictures = fresh.folder / "data" / "glyphs_food101" / "images"
    some = next(folder for folder in sorted(pictures.iterdir()) if folder.is_dir())
    files = ["--out", "p.json", "--page", "p.html"]
    fresh.run(fresh.bin / CORE, "predict", "classifier", some, *files, "--device", "cpu", "--num-workers", "0")
    assert "<h1>Predictions</h1>" in (fresh.folder / "p.html").read_text(encoding="utf-8")
    answers = json.loads((fresh.folder / "p.json").read_text())
    assert len(answers) == len([*some.iterdir()])
    assert all(0 < answer["predictions"][0]["score"] <= 1 for answer in answers)
