"""The demos, as a user would type them: what they promise of letters, of classification and probing in three seeds."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from demo_runs import SEEDS, run_demo, share_folder

from benchmarks import ablation

UNTRAINED = ["load_from=None", "load_parts=None", "evaluate_pixels=False", "evaluate_before=False"]

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    with share_folder(tmp_path_factory) as folder:
        yield folder


def test_the_encoder_was_trained_first_and_the_first_demo_learned(place):
    assert Path("work_dirs/dinov3_trunk/best").is_dir()
    found = json.loads(Path("work_dirs/first/train_results.json").read_text())
    assert found["after"]["top1"] > 0.85 > found["pixels"]["knn"]
    assert found["before"]["knn"] > found["pixels"]["knn"]
    assert found["features"]["computed"] == 3000


def test_probes_of_five_pictures_a_letter(place):
    small = ["model.repeats=1", "train_dataloader.sampler.repeats=1", "model.rates=[0.05,0.1]"]
    alone = [*UNTRAINED, "custom_hooks=None", "test_evaluator=dict(type='classification.ProbeAccuracy')"]
    alone.append("val_evaluator=dict(type='classification.ProbeAccuracy',choose=True)")
    for seed in SEEDS:
        found = run_demo("dinov3_food101_probe", *small, f"randomness.seed={seed}")
        untrained = run_demo("dinov3_food101_probe", *small, *alone, f"randomness.seed={seed}")["after"]["linear"]
        probe, pixels = found["after"]["linear"], found["pixels"]
        assert probe > 0.4
        assert probe > max(pixels["knn"], pixels["logistic"], untrained) + 0.2
        methods = found["probes"]["methods"]
        assert found["probes"]["best"] == max(methods, key=lambda name: methods[name]["val"])


def test_all_letters_in_faces_that_were_held_out(place):
    floors = (
        "test_evaluator=[dict(type='classification.Accuracy'),dict(type='classification.KNN',ks=[1,5,10]),"
        "dict(type='classification.LogisticRegression',cs=[1000.0],max_iter=60)]"
    )
    short = ["train_cfg.max_epochs=15", "train_cfg.val_interval=15", "evaluate_before=False"]
    pixels = run_demo("dinov3_imagenet_subset", floors, "train_cfg.max_epochs=1", "train_cfg.val_interval=1")["pixels"]
    for seed in SEEDS:
        options = ["dinov3_imagenet_subset", *short, f"randomness.seed={seed}"]
        probe = run_demo(*options, "evaluate_pixels=False")["after"]["top1"]
        untrained = run_demo(*options, *UNTRAINED)["after"]["top1"]
        assert probe > 0.45
        assert probe > max(pixels["knn"], pixels["logistic"], untrained) + 0.2


def test_a_linear_head_on_five_pictures_a_letter(place):
    assert run_demo("dinov3_food101")["after"]["top1"] > 0.4


def test_adapters_on_an_encoder_in_four_bits(place):
    short = ["train_cfg.max_epochs=4", "train_cfg.val_interval=4", "evaluate_pixels=False", "evaluate_before=False"]
    found = run_demo("dinov3_food101_4bit", *short)
    assert found["after"]["top1"] > 0.35


def test_the_retrieval_demo_is_ahead_of_a_plain_loop_on_letters_held_out_of_its_training(place):
    """The head alone costs more than this margin: docs/benchmarks.md."""
    settings = ({}, ablation.CHANGES[ablation.PLAIN_LOOP])
    demo, loop = (ablation.train_once(changes, 200, 0, held_out=True)[0] for changes in settings)
    assert demo > loop + 0.02
