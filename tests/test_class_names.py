"""What a checkpoint says of the classes that it was trained on, and what is refused for it."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

import toolbox
from toolbox.base import Metric
from toolbox.cli.test import main
from toolbox.engine.checkpoint import checkpoint as checkpoints
from toolbox.engine.checkpoint.files import sha256
from toolbox.engine.classes import first_difference
from toolbox.registry import get_catalog

CLASSIFIER = [
    "model=dict(type='classification.Classifier',backbone=dict(type='toy.Patches'),pool='mean',"
    "loss=dict(type='losses.CrossEntropy'))",
    "val_evaluator=dict(type='classification.Accuracy')",
    "train_dataloader.sampler=None",
    "train_dataloader.batch_size=8",
    "evaluate_before=False",
]


@pytest.fixture
def named(toy, monkeypatch):
    """`named(names)`: from now on the classes of the toy data are called so, the others by their numbers."""
    toy()
    noise = get_catalog().resolve("toy.Noise")
    whole = noise.__init__

    def call(names):
        def init(self, count: int = 64, per_class: int = 4, seed: int = 0, bad: list[int] | None = None):
            whole(self, count, per_class, seed, bad)
            self.classes = [names.get(i, name) for i, name in enumerate(self.classes)]

        monkeypatch.setattr(noise, "__init__", init)

    return call


def forget(folder: Path) -> None:
    """Make a checkpoint one of a time when nobody wrote names."""
    (folder / "classes.json").unlink()
    manifest = json.loads((folder / "manifest.json").read_text())
    del manifest["files"]["classes.json"]
    (folder / "manifest.json").write_text(json.dumps(manifest))


def test_first_difference():
    assert first_difference(["a", "b"], ["a", "b"]) == ""
    assert first_difference(["a", "b", "c"], ["a", "c", "b"]) == "class number 1 was 'b' in training and is 'c' here"
    assert first_difference(["a"], ["a", "b"]) == "class number 1 was none in training and is 'b' here"
    assert first_difference(["a", "b"], ["a"]) == "class number 1 was 'b' in training and is none here"


def test_names_stand_beside_the_manifest_with_a_checksum(toy, named):
    named({0: "ü\udcff", 1: "1"})
    toolbox.train(toy(["train_cfg.max_steps=3", "evaluate_before=False"]), out="w")
    found = checkpoints.read("w/last")
    names = found.class_names()
    assert names == ["ü\udcff", "1", *(f"class {i}" for i in range(2, 16))]
    assert found.manifest["classes"] == 16
    assert found.manifest["files"]["classes.json"]["sha256"] == sha256(found.path / "classes.json")
    (found.path / "classes.json").write_text(json.dumps(["other"] * 16))
    with pytest.raises(toolbox.ToolboxError, match=r"classes\.json is not what was written"):
        checkpoints.read("w/last")


def test_a_run_is_not_resumed_on_data_whose_classes_have_other_names(toy, named):
    toolbox.train(toy(["train_cfg.max_steps=4"]), out="w")
    shutil.copytree("w", "old", symlinks=True)
    more = toy(["train_cfg.max_steps=6"])
    named({3: "cat"})
    with pytest.raises(toolbox.ToolboxError) as refused:
        toolbox.train(more, out="w", resume=True)
    problem = refused.value.problems[0]
    assert "class number 3 was 'class 3' in training and is 'cat' here" in problem.message
    assert "train_dataloader.dataset" in problem.where
    named({2: "class 3", 3: "class 2"})  # the same names in another order
    with pytest.raises(toolbox.ToolboxError, match="class number 2 was 'class 2' in training and is 'class 3' here"):
        toolbox.train(more, out="w", resume=True)
    forget(Path("old/last").resolve())  # a checkpoint that tells no names goes on as it always did
    assert toolbox.train(more, out="old", resume=True)["steps"] == 6
    named({})
    assert toolbox.train(more, out="w", resume=True)["steps"] == 6


def test_a_classifier_is_judged_on_its_own_classes_alone(toy, named, capsys, tmp_path):
    recipe = toy([*CLASSIFIER, "train_cfg.max_steps=3"])
    toolbox.train(recipe, out="w")
    same = toolbox.evaluate(recipe, "w")
    recipe.dump(str(tmp_path / "recipe.py"))
    named({5: "dog"})
    arguments = [str(tmp_path / "recipe.py"), "w", "--plugin", str(Path(__file__).parent / "toy_plugin.py")]
    assert main(arguments) == 2
    said = capsys.readouterr().err
    assert "class number 5 was 'class 5' in training and is 'dog' here" in said
    assert "val_dataloader.dataset" in said
    forget(Path("w/best").resolve())
    assert toolbox.evaluate(recipe, "w") == same  # nobody can know
    fewer = toy([*CLASSIFIER, "val_dataloader.dataset.count=60"])
    with pytest.raises(toolbox.ToolboxError, match="It has 15 classes, the training data 16: whose names"):
        toolbox.evaluate(fewer, "w")


def test_a_head_of_other_classes_is_no_start(toy, named):
    options = [*CLASSIFIER, "train_cfg.max_steps=3"]
    toolbox.train(toy(options), out="w")
    start = toy([*options, "load_from=w/last"])
    assert toolbox.check_config(start) == []
    named({5: "dog"})
    problem = toolbox.check_config(start)[0]
    assert "class number 5 was 'class 5' in training and is 'dog' here" in problem.message
    assert problem.where.endswith("load_from")
    assert toolbox.check_config(toy([*options, "load_from=w/last", "load_parts=['model.backbone']"])) == []


def test_an_embedder_is_judged_on_any_classes(toy, named):
    toolbox.train(toy(["train_cfg.max_steps=3", "evaluate_before=False"]), out="w")
    named({5: "dog"})
    assert toolbox.evaluate(toy(["val_dataloader.dataset.count=60"]), "w")["nearest"] >= 0
    assert issubclass(get_catalog().resolve("toy.Nearest"), Metric)
