"""`toolbox.train` by a recipe's name, as in a notebook, and the command that does the same."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

import toolbox
from toolbox.cli.common import load_recipe, name_options
from toolbox.cli.main import main
from toolbox.cli.train import make_parser
from toolbox.config import to_dict
from toolbox.engine.checkpoint import checkpoint as checkpoints
from toolbox.engine.checkpoint import run_folder

HERE = Path(__file__).parent
TIMES = ("items_per_second", "data_wait_share")
SHORT = {"train_cfg.max_steps": 4, "train_cfg.val_interval": 4, "evaluate_before": False}
RECIPE = f"""
_base_ = ['{HERE / "toy_recipe.py"}']
arguments = dict(data='train_dataloader.dataset.seed')
"""


@pytest.fixture
def recipe(toy, tmp_path):
    toy()
    (tmp_path / "mine.py").write_text(RECIPE)
    return "mine.py"


def refusal(*arguments, **options) -> str:
    with pytest.raises(toolbox.ToolboxError) as caught:
        toolbox.train(*arguments, **options)
    return str(caught.value)


def test_a_run_by_name_gives_numbers_paths_tables_and_the_model(recipe, capsys):
    results = toolbox.train(recipe, data=7, out="runs/a", overrides=SHORT)
    assert results.folder == Path("runs/a")
    assert results == json.loads(Path("runs/a/train_results.json").read_text()) | {"report": str(results.report)}
    assert json.loads(json.dumps(results)) == results
    assert results.report.is_file()
    assert results.checkpoint == Path("runs/a/checkpoint-4").resolve()
    [row] = [row for row in results.table if row["metric"] == "nearest"]
    assert row["after"] == results["after"]["nearest"]
    assert [line["step"] for line in results.history][-1] == 4
    assert results.load(device="cpu").recipe["train_dataloader"]["dataset"]["seed"] == 7
    assert "<td>nearest</td>" in results._repr_html_()
    assert "step 4/4" in capsys.readouterr().out


def test_a_second_run_in_one_process_is_as_the_first(recipe):
    runs = [
        toolbox.train(recipe, out="a", overrides=SHORT),
        toolbox.train(recipe, out="between", overrides=SHORT | {"randomness.seed": 5, "env_cfg.threads": 2}),
        toolbox.train(recipe, out="b", overrides=SHORT),
    ]
    weights = [Path(name, "last", "model.safetensors").read_bytes() for name in ("a", "between", "b")]
    assert weights[0] == weights[2] != weights[1]
    lines = [[{key: value for key, value in line.items() if key not in TIMES} for line in run.history] for run in runs]
    assert lines[0] == lines[2] != lines[1]


def test_a_loaded_recipe_is_taken_too(recipe, toy):
    results = toolbox.train(toy([f"{key}={value}" for key, value in SHORT.items()]), out="runs/b")
    assert results["steps"] == 4
    said = refusal(toy(), out="runs/c", data="x", overrides=SHORT)
    assert said.startswith("This recipe is loaded already: it takes no overrides and no data.")


def test_what_a_name_means_is_the_same_for_the_command():
    given = ["dinov3_folder", "--data", "my_pictures", "--model", "convnext-tiny"]
    ours = load_recipe(make_parser().parse_args([*given, "--cfg-options", "train_cfg.max_steps=7"]))
    theirs = toolbox.load_config(
        "dinov3_folder", {"train_cfg.max_steps": 7}, data=Path("my_pictures"), model="convnext-tiny"
    )
    assert to_dict(ours) == to_dict(theirs)
    assert ours.overridden == theirs.overridden
    assert ours.model.backbone.type == "dinov3.ConvNeXt"
    resolved = to_dict(ours)
    roots = [resolved[f"{split}_dataloader"]["dataset"]["root"] for split in ("train", "val", "test")]
    assert roots == ["my_pictures"] * 3


@pytest.mark.parametrize(
    ("model", "component"), [("vits16plus", "dinov3.ViT"), ("resnet18", "encoders.Timm"), ("nowhere/x", None)]
)
def test_another_encoder_brings_its_component(model, component):
    if component is None:
        with pytest.raises(toolbox.ToolboxError, match="No encoder here is called 'nowhere/x'"):
            toolbox.load_config("dinov3_folder", model=model)
        return
    backbone = toolbox.load_config("dinov3_folder", model=model).model.backbone
    assert (backbone.type, backbone.name) == (component, model)


@pytest.mark.parametrize("name", ["dinov3_sop", "dinov3_sop_baseline", "dinov3_food101", "dinov3_folder_probe"])
def test_data_reach_every_split(name):
    loaded = to_dict(toolbox.load_config(name, data="elsewhere"))
    key = "name" if name == "dinov3_food101" else "root"
    splits = [loaded[f"{split}_dataloader"] for split in ("train", "val", "test") if loaded.get(f"{split}_dataloader")]
    assert [split["dataset"][key] for split in splits] == ["elsewhere"] * len(splits)


def test_a_recipe_that_does_not_say_what_data_are(recipe):
    said = refusal("demo/dinov3_sop", data="x")
    assert "demo/dinov3_sop.py: This recipe does not say which key `data` sets." in said
    said = refusal(recipe, data=3, overrides={"train_dataloader.dataset.seed": 4})
    assert said.startswith("`data` sets train_dataloader.dataset.seed, and so does another override.")
    assert not Path("work_dirs").exists()


def test_mistakes_are_exceptions_and_read_as_those_of_the_command(recipe, capsys):
    said = refusal(recipe, overrides={"model.bakbone.width": 1})
    assert said.startswith("overrides model.bakbone: ")
    assert "Did you mean 'backbone'?" in said
    assert main(["train", recipe, "--cfg-options", "model.bakbone.width=1"]) == 2
    assert capsys.readouterr().err == f"{name_options(said)}\n"
    assert "--cfg-options model.bakbone: " in name_options(said)
    assert "Did you mean mine.py" in refusal("mien.py")
    assert not Path("work_dirs").exists()


def test_a_folder_in_use_is_refused(recipe):
    with run_folder.lock(Path("taken")):
        assert refusal(recipe, out="taken", overrides=SHORT).startswith("A run is going on in taken (process ")
    toolbox.train(recipe, out="taken", overrides=SHORT)
    assert "taken already holds a run." in refusal(recipe, out="taken", overrides=SHORT)
    with pytest.raises(toolbox.ToolboxError, match="taken is a checkpoint, and `model` names an encoder"):
        toolbox.load_config("dinov3_folder", model="taken")


def test_a_resumed_run_keeps_its_data_unless_others_are_named(recipe):
    def train(steps, *more):
        options = [f"train_cfg.max_steps={steps}", "train_cfg.val_interval=2", "evaluate_before=False"]
        assert main(["train", recipe, *more, "--work-dir", "r", "--cfg-options", *options]) == 0
        return checkpoints.read("r/last").manifest["recipe"]["train_dataloader"]["dataset"]["seed"]

    assert train(2, "--data", "7") == 7
    assert train(3, "--resume") == 7
    assert train(4, "--resume", "--data", "8") == 8
