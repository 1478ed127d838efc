"""`~` means the home folder wherever a path is given: in recipes, in commands, in Python."""

from __future__ import annotations

from pathlib import Path

import pytest
from PIL import Image
from toolbox_datasets.imagefolder import ImageFolder
from toolbox_datasets.records import Records

import toolbox
from toolbox.cli import audit_data, embed, prepare_data, test, train
from toolbox.cli.common import expand_arguments
from toolbox.engine.checkpoint import checkpoint as checkpoints
from toolbox.inference.image_sources import find_image_sources
from toolbox.registry import build, expand_home

HERE = Path(__file__).parent


@pytest.fixture
def home(toy, tmp_path, monkeypatch):
    """A home folder with a few pictures, which is not the current one."""
    folder = tmp_path / "home"
    for name in ("a/1.png", "a/2.png", "b/1.png", "b/2.png"):
        (folder / "pictures" / name).parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (16, 16), (10 * len(name), 0, 0)).save(folder / "pictures" / name)
    toy()
    monkeypatch.setenv("HOME", str(folder))
    return folder


def test_a_run_is_written_tested_read_and_continued_at_home(home, capsys):
    short = ["--cfg-options", "train_cfg.max_steps=2", "train_cfg.val_interval=2"]
    recipe = str(HERE / "toy_recipe.py")
    assert train.main([recipe, "--work-dir=~/runs/one", *short]) == 0
    assert train.main([recipe, *short, "work_dir=~/runs/two", "load_from=~/runs/one"]) == 0
    assert (home / "runs/two/best/manifest.json").is_file()
    assert test.main([recipe, "~/runs/one", "--split", "val", "--out=~/tested"]) == 0
    assert (home / "tested/test_results.json").is_file()
    assert embed.main(["~/runs/one", "~/pictures/a", "~/out.npz", "--device=cpu", "--num-workers=0"]) == 0
    assert (home / "out.npz").is_file()
    assert toolbox.load("~/runs/one", device="cpu").encode_image(["~/pictures/a/1.png"]).shape == (1, 8)
    assert checkpoints.read("~/runs/one").step == 2
    config = toolbox.load_config(recipe, ["train_cfg.max_steps=3", "train_cfg.val_interval=3"])
    toolbox.train(config, out="~/runs/one", resume="~/runs/one/last")
    assert checkpoints.read("~/runs/one/last").step == 3
    assert not Path("~").exists()


def test_data_are_found_at_home(home, capsys):
    (home / "r.csv").write_text("query_image,positive\n~/pictures/a/1.png,pictures/a/2.png\n")
    for dataset in (
        ImageFolder("~/pictures", "all"),
        Records("~/r.csv"),
        build(dict(type="datasets.ImageFolder", root="~/pictures", split="all"), "dataset"),
    ):
        assert dataset.check() == []
        assert dataset[0]["image"].size == (16, 16)
    (home / "list.txt").write_text("~/pictures/a/1.png\n")
    assert find_image_sources("~/list.txt")[0]["image"].size == (16, 16)
    assert audit_data.main(["~/pictures", "--out=~/pairs.jsonl"]) == 0
    assert (home / "pairs.jsonl").is_file()
    assert prepare_data.main(["records", "--out=~/r.csv"]) == 0


def test_only_homes_are_expanded(home):
    assert expand_arguments(["~/x", "--a=~/y", "--b", "a.b=~/z", "~no_such_one/x", "-"]) == [
        f"{home}/x",
        f"--a={home}/y",
        "--b",
        "a.b=~/z",
        "~no_such_one/x",
        "-",
    ]
    assert expand_home({"a": ["~/x", 1, "a ~/x"], "b": None}) == {"a": [f"{home}/x", 1, "a ~/x"], "b": None}
    labels = {"missing_labels": ["~", "~~", "~root"]}
    assert expand_home(labels) == labels
