"""Features before the head: what a run says of them, and retrieving by them."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from toolbox_retrieval.embedder import Embedder

import toolbox
from toolbox.base import Batch
from toolbox.cli import train
from toolbox.engine.evaluation.before_head import compare_with_head
from toolbox.inference.item_outputs import join_outputs, run_over_items
from toolbox.utils.model_io import get_unit_embeddings

SHORT = {"train_cfg.max_steps": 4, "train_cfg.val_interval": 2, "evaluate_before": False}
COLLAPSED = {"model.head": {"type": "core.Projection", "dim": 1, "bias": False}}
"""One number of length 1: all items are alike but for a sign, so that the features before it are better."""


def run(toy, changes=(), folder="run", **more):
    return toolbox.train(toy({**SHORT, **dict(changes), **more}), out=folder, overwrite=True)


def test_a_run_says_that_the_features_before_its_head_are_better(toy, capsys):
    results = run(toy, COLLAPSED)
    before, behind = results["before_head"]["nearest"], results["after"]["nearest"]
    assert before > behind
    assert json.loads(Path("run/train_results.json").read_text())["before_head"] == {"nearest": before}
    said = capsys.readouterr().out
    assert f"features before the head: nearest {before:.4f}; with the head: {behind:.4f}: model.retrieve=" in said
    page = Path("run/report.html").read_text()
    assert "before the head" in page
    assert f"<td>{before:.4f}</td>" in page
    # the same number by itself: the best checkpoint, retrieving by its features
    alone = toolbox.evaluate(toy({**SHORT, **COLLAPSED, "model.retrieve": "features"}), "run", split="val")
    assert alone == results["before_head"]
    assert toolbox.evaluate(toy({**SHORT, **COLLAPSED}), "run", split="val") == results["after"]


def test_the_terminal_shows_them_beside_the_others(toy, capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "120")
    recipe = Path("recipe.py")
    recipe.write_text(toy({**SHORT, **COLLAPSED}).pretty_text)
    plugin = Path(__file__).parent / "toy_plugin.py"
    assert train.main([str(recipe), "--work-dir", "run", "--plugin", str(plugin)]) == 0
    assert "before the head" in capsys.readouterr().out


@pytest.mark.parametrize(
    "changes", [{"model.head": None}, {"model.retrieve": "features"}, {"evaluate_features": False}]
)
def test_nothing_is_compared_where_there_is_nothing_behind_a_head(toy, changes, capsys):
    assert run(toy, changes)["before_head"] is None
    assert "before the head" not in capsys.readouterr().out + Path("run/report.html").read_text()


def test_which_is_better_follows_the_metric():
    numbers = {"queries": 3, "distance": 0.2}, {"queries": 3, "distance": 0.4}
    assert "would be better" in compare_with_head(*numbers, {"distance": "less"})
    assert "would be better" not in compare_with_head(*numbers, {"distance": "greater"})
    assert "would be better" not in compare_with_head({"distance": 0.4}, {"distance": 0.4}, {"distance": "less"})
    assert "no metric" in compare_with_head({}, {"distance": 0.4}, {})


def test_retrieving_by_features_is_the_same_everywhere(toy, tmp_path):
    run(toy, {"model.retrieve": "features"})
    pictures = [toolbox.build({"type": "toy.Noise"})[i]["image"] for i in range(4)]
    found, bare = toolbox.load("run"), toolbox.load("run", overrides={"model.retrieve": "embeddings"})
    features = found.encode_image(pictures)
    assert features.shape == (4, 16)  # the width of the backbone
    assert bare.encode_image(pictures).shape == (4, 8)  # that of the head
    batch = bare.model(_batch(bare, pictures), "baseline")["embeddings"]
    torch.testing.assert_close(features, batch)
    assert "head" not in "".join(found.model.in_plain_torch())
    dataset = toolbox.build({"type": "toy.Noise"})
    rows = []
    for one, mode in ((found, "predict"), (bare, "baseline")):
        pieces = run_over_items(
            one.model, dataset, one.device, embeddings_of, mode=mode, precision=one.precision, workers=0
        )
        rows.append(join_outputs(pieces, len(dataset)).rows)
    np.testing.assert_array_equal(*rows)


def test_what_is_retrieved_by_must_exist():
    with pytest.raises(ValueError, match="retrieve='head' does not exist"):
        Embedder(torch.nn.Identity(), retrieve="head")


def embeddings_of(outputs, batch):
    return get_unit_embeddings(outputs, batch.ids).numpy()


def _batch(encoder, pictures):
    source = encoder.model.preprocess()["image"]
    images = source.collate([source(picture) for picture in pictures])
    return Batch.example({"image": images})
