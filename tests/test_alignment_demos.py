"""The demos of alignment: names and faces that no training has, chance with shuffled captions, several towers."""

from __future__ import annotations

import json
import random
from pathlib import Path

import pytest
from demo_runs import DEMOS, SEEDS, run_demo, share_folder

import toolbox
from toolbox.config import load_config

LETTERS = 105
"""Of the test; one of them by chance is the right one."""

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    with share_folder(tmp_path_factory) as folder:
        yield folder


def test_names_and_faces_that_no_training_has(place):
    for seed in SEEDS:
        found = run_demo("dinov3_qwen3_frozen", f"randomness.seed={seed}")
        assert min(found["after"]["i2t_recall@1"], found["after"]["t2i_recall@1"]) > 20 / LETTERS
        faces = {"test_dataloader.dataset.path": "data/glyphs_pairs/test_faces.jsonl"}
        recipe = load_config(DEMOS / "dinov3_qwen3_frozen.py", faces)
        assert toolbox.evaluate(recipe, "dinov3_qwen3_frozen")["i2t_recall@1"] > 0.4
        assert recall_among_all_names("dinov3_qwen3_frozen", "test_faces") > 0.15


def recall_among_all_names(run: str, part: str) -> float:
    """The share of the images of a part whose letter's name is the nearest of those of all letters."""
    folder = Path("data/glyphs_pairs")
    lines = {
        name: [json.loads(line) for line in (folder / f"{name}.jsonl").read_text().splitlines()]
        for name in ("train", "val", "test_letters", "test_faces")
    }
    names = sorted({line["positive"][0] for rows in lines.values() for line in rows})
    assert len(names) > 1000
    encoder = toolbox.load(run)
    images = encoder.encode_image([folder / line["query_image"] for line in lines[part]])
    cosines = images @ encoder.encode_text(names).T
    own = cosines[range(len(images)), [names.index(line["positive"][0]) for line in lines[part]]]
    return float(((cosines >= own[:, None]).sum(1) == 1).float().mean())


def test_shuffled_captions_teach_nothing(place):
    run_demo("dinov3_qwen3_frozen", "train_cfg.max_steps=2", "train_cfg.val_interval=2", folder="files")
    lines = [json.loads(line) for line in Path("data/glyphs_pairs/train.jsonl").read_text().splitlines()]
    captions = [line["positive"] for line in lines]
    random.Random(0).shuffle(captions)
    shuffled = [json.dumps(line | {"positive": texts}) for line, texts in zip(lines, captions, strict=True)]
    Path("shuffled.jsonl").write_text("\n".join(shuffled))
    options = ["train_dataloader.dataset.path=shuffled.jsonl", "train_dataloader.dataset.root=data/glyphs_pairs"]
    found = run_demo("dinov3_qwen3_frozen", *options, "train_cfg.max_steps=300", "train_cfg.val_interval=300")
    # pictures of a letter fall together, so chance spreads by letters
    assert found["after"]["i2t_recall@1"] < 5 / LETTERS


@pytest.mark.parametrize(
    ("demo", "towers"),
    [
        ("multi_vision_clip", ["image", "last", "full"]),
        ("multi_text_clip", ["text", "clip"]),
        ("dinov3_qwen3_clip", []),
        ("siglip_finetune", []),
    ],
)
def test_every_tower_learns_and_their_mean_is_no_worse_than_the_best(place, demo, towers):
    after = run_demo(demo)["after"]
    prefixes = ["", *(f"{tower}/" for tower in towers)]
    assert min(after[f"{prefix}i2t_recall@1"] for prefix in prefixes) > 3 / LETTERS
    assert after["mean_recall"] > max(after[f"{prefix}mean_recall"] for prefix in prefixes) - 0.01
