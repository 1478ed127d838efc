"""What a recipe makes before it runs: its data, and the run that it starts from."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from safetensors.torch import load_file
from toolbox_glyphs import glyphs

import toolbox
from toolbox import prerequisites
from toolbox.cli import test, train
from toolbox.engine.checkpoint import checkpoint as checkpoints
from toolbox.engine.signals import Interrupted

HERE = Path(__file__).parent
START = f"""
_base_ = ['{HERE / "toy_recipe.py"}']
train_cfg = dict(max_steps=4, val_interval=4)
"""
RECIPE = f"""
_base_ = ['{HERE / "toy_recipe.py"}']
train_cfg = dict(max_steps=2, val_interval=2)
load_from = 'start.py'
load_parts = ['model.backbone']
"""


@pytest.fixture
def folder(toy, tmp_path, monkeypatch):
    """A folder with two recipes, of which one starts from the other."""
    toy()
    (tmp_path / "recipes").mkdir()
    (tmp_path / "recipes" / "start.py").write_text(START)
    (tmp_path / "recipes" / "recipe.py").write_text(RECIPE)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def backbone(run: Path, which: str = "best") -> dict:
    tensors = load_file(run / which / "model.safetensors")
    return {name: tensor for name, tensor in tensors.items() if name.startswith("backbone.")}


def test_the_run_that_a_recipe_starts_from_is_trained_once(folder, capsys):
    assert train.main(["recipes/recipe.py"]) == 0
    said = capsys.readouterr().out
    assert "doing that first, once, in work_dirs/start" in said
    assert "load_from" in said
    trained = (folder / "work_dirs/start/train_results.json").stat().st_mtime_ns
    assert train.main(["recipes/recipe.py", "--overwrite"]) == 0
    assert "doing that first" not in capsys.readouterr().out
    assert (folder / "work_dirs/start/train_results.json").stat().st_mtime_ns == trained
    manifest = checkpoints.read(folder / "work_dirs/recipe").manifest
    assert manifest["recipe"]["load_from"] == "work_dirs/start"


def test_it_begins_with_the_weights_of_that_run(folder):
    train.main(["recipes/recipe.py", "--cfg-options", "optim_wrapper.optimizer.lr=0.0"])
    ours, theirs = backbone(folder / "work_dirs/recipe"), backbone(folder / "work_dirs/start")
    assert ours.keys() == theirs.keys()
    assert all((ours[name] == theirs[name]).all() for name in ours)


def test_check_makes_nothing_and_says_what_would_be_made(folder, capsys):
    assert train.main(["recipes/recipe.py", "--check"]) == 0
    assert "recipes/start.py is trained first" in capsys.readouterr().out
    assert not (folder / "work_dirs").exists()


def test_a_changed_recipe_is_not_taken_for_the_one_that_was_trained(folder, capsys):
    train.main(["recipes/recipe.py"])
    (folder / "recipes" / "start.py").write_text(START.replace("max_steps=4", "max_steps=3"))
    capsys.readouterr()
    assert train.main(["recipes/recipe.py", "--overwrite"]) == 2
    said = capsys.readouterr().err
    assert "train_cfg.max_steps" in said
    assert "vision-encoder-toolbox train recipes/start.py --overwrite" in said
    assert (folder / "work_dirs/recipe/train_results.json").is_file()  # nothing was replaced


def test_an_interrupted_start_is_continued(folder, capsys, monkeypatch):
    original = toolbox.api.train
    with monkeypatch.context() as patch:
        patch.setattr(
            "toolbox.engine.trainer.Trainer.evaluate_after", lambda run: (_ for _ in ()).throw(Interrupted(2, "x"))
        )
        assert train.main(["recipes/recipe.py"]) == 130
    assert "The same command goes on from there" in capsys.readouterr().err
    assert toolbox.api.train is original
    assert not prerequisites.is_finished(folder / "work_dirs/start")
    assert train.main(["recipes/recipe.py"]) == 0
    assert "Resuming at step 4" in capsys.readouterr().out


def test_judging_a_recipe_whose_start_is_missing_says_what_to_run(folder, capsys):
    assert test.main(["recipes/recipe.py"]) == 2
    assert "vision-encoder-toolbox train recipes/start.py" in capsys.readouterr().err


def test_a_recipe_that_is_not_there(folder, capsys):
    assert train.main(["recipes/recipe.py", "--cfg-options", "load_from=recipes/strat.py"]) == 2
    assert "start.py" in capsys.readouterr().err


DATA = """
prepare = [dict(dataset='glyphs.Glyphs', out='data/letters', layout='imagefolder', size=16)]
train_dataloader = dict(dataset=dict(_delete_=True, type='datasets.ImageFolder', root='data/letters', split='train'))
"""


def test_data_are_written_first(folder, capsys, monkeypatch):
    letters = glyphs.list_distinct_letters()[::20]
    monkeypatch.setattr(glyphs, "list_distinct_letters", lambda: letters)
    (folder / "recipe.py").write_text(f"_base_ = ['{HERE / 'toy_recipe.py'}']" + DATA)
    assert train.main(["recipe.py", "--check"]) == 2
    assert "data/letters is not there yet" in capsys.readouterr().err
    assert not (folder / "data").exists()
    assert train.main(["recipe.py"]) == 0
    assert "Preparing data/letters, once" in capsys.readouterr().out
    assert json.loads((folder / "work_dirs/recipe/train_results.json").read_text())["steps"] == 12
    assert train.main(["recipe.py", "--overwrite"]) == 0
    said = capsys.readouterr().out
    assert "Preparing" not in said
    assert "found complete" in said


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ("size=", "lens="),
        ("dataset='glyphs.Glyphs'", "dataset='glyphs.Gliphs'"),
        ("out='data/letters', ", ""),
        ("layout='imagefolder'", "layout='folders'"),
    ],
)
def test_wrong_data_settings_are_told_with_their_place(folder, capsys, changes, words):
    (folder / "recipe.py").write_text(f"_base_ = ['{HERE / 'toy_recipe.py'}']" + DATA.replace(changes, words))
    assert train.main(["recipe.py"]) == 2
    said = capsys.readouterr()
    assert "prepare.0" in said.err
    assert "Traceback" not in said.err
    assert not (folder / "data/letters").exists()
