"""Checkpoints that were damaged, or swapped for something else, by whom or what ever."""

from __future__ import annotations

import hashlib
import json
import os
import pickle
import shutil
from pathlib import Path

import pytest
import torch

import toolbox
from toolbox.cli import test, train
from toolbox.engine.checkpoint import checkpoint as checkpoints

HERE = Path(__file__).parent
RECIPE = str(HERE.parent / "toy_recipe.py")
KEEP = ["--cfg-options", "default_hooks.checkpoint.max_keep_ckpts=9"]


@pytest.fixture
def run(toy, capsys):
    """`run(*arguments) -> (exit code, output, standard error)` of tools/train.py, in the folder `run`."""
    toy()

    def call(*more: str) -> tuple[int, str, str]:
        code = train.main([RECIPE, "--work-dir", "run", *more, *KEEP])
        said = capsys.readouterr()
        assert "Traceback" not in said.err + said.out
        return code, said.out, said.err

    return call


def cut(file: Path) -> None:
    os.truncate(file, file.stat().st_size // 2)


def flip(file: Path) -> None:
    content = bytearray(file.read_bytes())
    content[len(content) // 2] ^= 1
    file.write_bytes(content)


FILES = ("model.safetensors", "state.safetensors", "state.json", "manifest.json")


@pytest.mark.parametrize("damage", [cut, flip, Path.unlink, lambda file: file.write_bytes(b"")])
def test_a_damaged_newest_checkpoint_falls_back_to_the_one_before_and_says_so(run, damage):
    assert run()[0] == 0
    whole = {name: tensor.clone() for name, tensor in checkpoints.read("run/last").model_tensors().items()}
    for name in FILES:
        if name == "manifest.json" and damage is flip:
            continue  # it holds the checksums and has none
        newest = Path("run/last").resolve()
        damage(newest / name)
        code, out, err = run("--resume")
        assert code == 0, (name, err)
        assert f"The checkpoint {newest} is damaged: {name}" in out or f"no {name}" in out, out
        assert "Falling back to checkpoint-8" in out
        again = checkpoints.read("run/last")
        assert again.step == 12
        assert all(torch.equal(tensor, whole[name]) for name, tensor in again.model_tensors().items())


@pytest.mark.parametrize("name", FILES)
def test_where_all_are_damaged_nothing_is_trained_and_nothing_removed(run, name):
    assert run()[0] == 0
    for path in checkpoints.all_in(Path("run")):
        cut(path / name)
    before = sorted(str(path) for path in Path("run").rglob("*"))
    code, _, err = run("--resume")
    assert code == 2
    assert "No checkpoint in run is whole. Start again with --overwrite." in err
    assert sorted(str(path) for path in Path("run").rglob("*")) == before


class Evil:
    """What a pickle can do to those who load it."""

    def __reduce__(self):
        return Path.touch, (Path("was_here").absolute(),)


def poison(file: Path, how: str) -> None:
    """Put a pickle in a file's place."""
    if how == "torch":
        torch.save({"state": Evil()}, file)
    else:
        file.write_bytes(pickle.dumps(Evil()))


def sign(folder: Path) -> None:
    """Make the manifest true of what lies in a checkpoint's folder, as an attacker would."""
    manifest = json.loads((folder / "manifest.json").read_text())
    for name in manifest["files"]:
        content = (folder / name).read_bytes()
        manifest["files"][name] = {"sha256": hashlib.sha256(content).hexdigest(), "bytes": len(content)}
    (folder / "manifest.json").write_text(json.dumps(manifest))


def test_the_pickle_of_these_tests_would_act(tmp_path, monkeypatch):
    """Negative control."""
    monkeypatch.chdir(tmp_path)
    poison(Path("evil.pt"), "torch")
    torch.load("evil.pt", weights_only=False)
    assert Path("was_here").exists()


@pytest.mark.parametrize("how", ["torch", "pickle"])
@pytest.mark.parametrize("name", ["model.safetensors", "state.safetensors", "state.json", "manifest.json"])
def test_a_pickle_in_a_files_place_is_one_message_and_runs_no_code(run, capsys, name, how):
    assert run()[0] == 0
    folder = Path("run/last").resolve()
    poison(folder / name, how)
    if name != "manifest.json":
        sign(folder)
    code, _, err = run("--resume", str(folder))
    assert code == 2, err
    assert f"{folder}" in err
    assert len(err.splitlines()) == 1
    if not name.startswith("state"):  # of no use to who only wants weights
        assert test.main([RECIPE, str(folder)]) == 2
        capsys.readouterr()
        with pytest.raises(toolbox.ToolboxError):
            toolbox.load(folder)
    assert not Path("was_here").exists()


@pytest.mark.parametrize("how", ["torch", "pickle"])
def test_pickles_beside_the_files_of_a_checkpoint_are_not_looked_at(run, how):
    assert run()[0] == 0
    shutil.copytree("run", "clean", symlinks=True)
    for folder in (Path("run/checkpoint-8"), Path("run/last").resolve(), Path("run")):
        for name in ("model.pt", "model.bin", "pytorch_model.bin", "state.pkl", "training_args.bin", "optimizer.pt"):
            poison(folder / name, how)
    shutil.rmtree(Path("run/last").resolve())
    assert run("--resume")[0] == 0
    assert toolbox.load("run").encode_image(toolbox.build({"type": "toy.Noise"})[0]["image"]).shape == (1, 8)
    assert not Path("was_here").exists()
    assert checkpoints.read("run/last").step == checkpoints.read("clean/last").step


@pytest.mark.parametrize(
    "text",
    [
        "null",
        "{",
        '{"update": {"$tensor": "nowhere"}}',
        '{"update": {"$tensor": ["a"]}}',
        '{"$tuple": 3}',
        "[" * 100_000,
    ],
)
def test_an_odd_training_state_is_one_message(run, text):
    assert run()[0] == 0
    folder = Path("run/last").resolve()
    (folder / "state.json").write_text(text)
    sign(folder)
    code, _, err = run("--resume", str(folder))
    assert code == 2, err
    assert "state of the checkpoint" in err or "holds weights alone" in err
    assert len(err.splitlines()) == 1
    assert not Path("was_here").exists()


@pytest.mark.parametrize("text", ['{"__reduce__": ["os.system", "touch was_here"]}', '["os.system", "touch was_here"]'])
def test_a_training_state_that_names_code_runs_none(toy, text):
    toolbox.train(toy(), out="run")
    folder = Path("run/last").resolve()
    (folder / "state.json").write_text(text)
    sign(folder)
    with pytest.raises((KeyError, TypeError, toolbox.ToolboxError)):
        toolbox.train(toy(), out="run", resume=str(folder))
    assert not Path("was_here").exists()
