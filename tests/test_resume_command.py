"""`tools/train.py --resume` needs no options again, and no recipe where a run is named."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from toolbox.cli.resume_options import list_kept_options
from toolbox.cli.train import main

RECIPE = str(Path(__file__).parent / "toy_recipe.py")
OPTIONS = ["--cfg-options", "train_cfg.max_steps=6", "model.loss.scale=3.0", "train_cfg.val_interval=3"]
SHORT = ["--cfg-options", "train_cfg.max_steps=4", "train_cfg.val_interval=2", "optim_wrapper.optimizer.lr=0.002"]


@pytest.fixture
def train(toy, capsys):
    """`train(*arguments) -> (exit code, what it printed)`, in an empty folder."""
    toy()

    def run(*arguments):
        code = main([str(argument) for argument in arguments])
        said = capsys.readouterr()
        assert "Traceback" not in said.err + said.out
        return code, said.out + said.err

    return run


def state(folder="w"):
    found = {}
    exec(Path(folder, "config.py").read_text(), found)
    results = json.loads(Path(folder, "train_results.json").read_text())
    return found["train_cfg"]["max_steps"], found["optim_wrapper"]["optimizer"]["lr"], results["steps"]


def test_options_of_the_run_are_kept_unless_they_are_given_anew(train):
    assert train(RECIPE, "--work-dir", "w", *SHORT)[0] == 0
    assert state() == (4, 0.002, 4)
    code, said = train(RECIPE, "--work-dir", "w", "--resume")
    assert (code, state()) == (0, (4, 0.002, 4))
    assert "Kept from the run:" in said
    assert "optim_wrapper.optimizer.lr=0.002" in said
    assert "The recipe differs" not in said
    code, said = train(RECIPE, "--resume", "--work-dir", "w", "--cfg-options", "train_cfg.max_steps=6")
    assert (code, state()) == (0, (6, 0.002, 6))
    assert "The recipe differs from the checkpoint's in: train_cfg.max_steps" in said
    assert train(RECIPE, "--resume", "--work-dir", "w")[0] == 0, "also after a second time"
    assert state() == (6, 0.002, 6)


@pytest.mark.parametrize("named", ["w", "w/last", "w/checkpoint-4", "./w/"])
def test_a_run_needs_no_recipe(train, named):
    assert train(RECIPE, "--work-dir", "w", *SHORT)[0] == 0
    code, said = train("--resume", named)
    assert (code, state()) == (0, (4, 0.002, 4)), said
    code, said = train("--resume", named, "--cfg-options", "train_cfg.max_steps=6")
    assert (code, state()) == (0, (6, 0.002, 6)), said
    assert "Resuming at step 4" in said
    assert train(RECIPE, "--work-dir", "w", "--resume")[0] == 0
    assert state() == (6, 0.002, 6)


def test_orders_of_arguments(train):
    assert train("--work-dir", "w", RECIPE, *SHORT)[0] == 0
    assert train("--resume", RECIPE, "--work-dir", "w")[0] == 0
    assert train("--work-dir", "w", "--resume")[0] == 0
    assert train(RECIPE, "--resume", "w")[0] == 0, "a run's folder with its recipe"
    assert state() == (4, 0.002, 4)


def test_without_a_recipe_and_a_run_there_is_one_message(train):
    for arguments in ((), ("--resume",), ("--resume", "nowhere"), ("--work-dir", "nowhere", "--resume")):
        code, said = train(*arguments)
        assert code == 2
        assert "No recipe is named" in said
        assert len(said.splitlines()) == 1


def test_keys_in_lists_and_open_dicts_are_kept(tmp_path, capsys):
    keys = ["a.0.b", "parts.model.head.lr", "gone.x", "train_cfg.max_steps", "work_dir"]
    (tmp_path / "environment.json").write_text(json.dumps({"overridden": keys}))
    text = "a = [dict(b=[1])]\nparts = {'model.head': dict(lr=0.5)}\ntrain_cfg = dict(max_steps=3)\nwork_dir = 'w'\n"
    (tmp_path / "config.py").write_text(text)
    assert list_kept_options(tmp_path, ["train_cfg"]) == ["a.0.b=[1]", "parts.model.head.lr=0.5"]
    assert list_kept_options(tmp_path / "none", []) == []
    (tmp_path / "environment.json").write_text("{")
    assert list_kept_options(tmp_path, []) == []
    assert "was started with are not kept: " in capsys.readouterr().err
