"""The demos of classification and probing, each from nothing, as a user would type it."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest

from toolbox.cli import train

DEMOS = Path(__file__).parents[1] / "configs" / "demo"
SEEDS = (0, 1, 2)
UNTRAINED = ("load_from=None", "load_parts=None", "evaluate_pixels=False", "evaluate_before=False")

pytestmark = [pytest.mark.slow, pytest.mark.xdist_group("demos")]


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """An empty folder in which all demos are run, so that the encoder is made once."""
    before, folder = Path.cwd(), tmp_path_factory.mktemp("demos")
    os.chdir(folder)
    yield folder
    os.chdir(before)


def run(demo: str, *options: str) -> dict:
    """What train_results.json holds in the end."""
    changes = ["--cfg-options", *options] if options else []
    assert train.main([str(DEMOS / f"{demo}.py"), "--work-dir", "run", "--overwrite", *changes]) == 0
    return json.loads(Path("run/train_results.json").read_text())


def test_probes_of_five_pictures_a_letter(place, capsys):
    one = ["model.repeats=1", "train_dataloader.sampler.repeats=1"]
    for seed in SEEDS:
        found = run("dinov3_food101_probe", *one, f"randomness.seed={seed}")
        if seed == SEEDS[0]:
            assert "doing that first, once, in work_dirs/dinov3_trunk" in capsys.readouterr().out
        untrained = run("dinov3_food101_probe", *one, f"randomness.seed={seed}", *UNTRAINED)
        probe, pixels = found["after"]["linear"], found["pixels"]
        assert probe > 0.45
        assert probe > pixels["knn"] + 0.2
        assert probe > pixels["logistic"] + 0.2
        assert probe > untrained["after"]["linear"] + 0.2
        assert found["probes"]["best"] == max(
            found["probes"]["methods"], key=lambda method: found["probes"]["methods"][method]["val"]
        )
    assert Path("run/report.html").is_file()


def test_all_letters_in_faces_that_were_held_out(place):
    floor = "test_evaluator=[dict(type='core.Accuracy'),dict(type='core.KNN',ks=[1,5,10])," + (
        "dict(type='core.LogisticRegression',cs=[1000.0],max_iter=100)]"
    )
    pixels = run("dinov3_imagenet_subset", floor, "evaluate_before=True", "train_cfg.max_epochs=1")["pixels"]
    for seed in SEEDS:
        probe = run("dinov3_imagenet_subset", f"randomness.seed={seed}", "evaluate_pixels=False")["after"]["top1"]
        untrained = run("dinov3_imagenet_subset", f"randomness.seed={seed}", *UNTRAINED)["after"]["top1"]
        assert probe > 0.5
        assert probe > max(pixels["knn"], pixels["logistic"]) + 0.2
        assert probe > untrained + 0.2


@pytest.mark.parametrize(
    ("demo", "options", "least"),
    [
        ("dinov3_food101", [], 0.45),
        ("dinov3_cifar10", [], 0.9),
        ("dinov3_food101_4bit", ["train_cfg.max_epochs=4", "evaluate_pixels=False", "evaluate_before=False"], 0.3),
    ],
)
def test_a_classifier_on_letters(place, demo, options, least):
    found = run(demo, *options)
    assert found["after"]["top1"] > least
    if found["before"] is not None:
        assert found["before"]["knn"] > found["pixels"]["knn"]
    assert Path("run/report.html").is_file()
