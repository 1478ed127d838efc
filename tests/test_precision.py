"""One checkpoint has one number: all that evaluates or encodes computes in the same precision, by one rule."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
import toy_plugin

import toolbox
from toolbox.base import l2_normalize
from toolbox.cli import embed
from toolbox.engine.feature_extraction.feature_cache import FeatureCache
from toolbox.engine.precision import eval_precision
from toolbox.errors import ToolboxError
from toolbox.plugin import Device
from toolbox.registry import build

SHORT = [
    "train_cfg.max_steps=2",
    "env_cfg.device=cpu",
    "env_cfg.threads=1",
    "val_dataloader.batch_size=16",
    "evaluate_features=False",
]


@pytest.fixture
def judged(monkeypatch):
    """The embeddings that the metric has seen in the last evaluation, as unit rows."""
    seen = []
    update, reset = toy_plugin.Nearest.update, toy_plugin.Nearest.reset

    def keep(self, outputs, batch):
        seen.append(l2_normalize(outputs["embeddings"].float()))
        return update(self, outputs, batch)

    monkeypatch.setattr(toy_plugin.Nearest, "update", keep)
    monkeypatch.setattr(toy_plugin.Nearest, "reset", lambda self: (seen.clear(), reset(self))[1])
    return seen


def pictures():
    dataset = build({"type": "toy.Noise", "seed": 1}, "dataset")
    return [dataset[index]["image"] for index in range(len(dataset))]


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        (["optim_wrapper.precision=bf16"], "bf16"),
        (["env_cfg.eval_precision=bf16"], "bf16"),
        (["optim_wrapper.precision=bf16", "env_cfg.eval_precision=fp32"], "fp32"),
    ],
)
def test_a_checkpoint_has_one_number(toy, judged, capsys, options, expected):
    """The run, the evaluation of its checkpoint, `embed` and the encoder agree bit for bit at one batch size."""
    results = toolbox.train(toy([*SHORT, *options]), out="w")
    assert results["eval_precision"] == expected
    assert json.loads(Path("w/train_results.json").read_text())["eval_precision"] == expected
    in_run = torch.cat(judged)

    numbers = toolbox.evaluate(toy(SHORT), "w", split="val", out="tested")
    assert numbers == results["after"], "whatever the recipe that is given says of training"
    assert torch.equal(torch.cat(judged), in_run)
    assert json.loads(Path("tested/test_results.json").read_text())["precision"] == expected
    assert expected in Path("tested/report.html").read_text()

    encoder = toolbox.load("w", device="cpu")
    assert encoder.precision.name == expected
    assert torch.equal(encoder.encode_image(pictures(), batch_size=16), in_run)

    common = ["--split", "val", "--device", "cpu", "--num-workers", "0", "--batch-size", "16"]
    assert embed.main(["w", "e.npz", *common]) == 0
    assert f"in {expected}" in capsys.readouterr().out
    with np.load("e.npz") as found:
        assert np.array_equal(found["embeddings"], in_run.numpy())
        assert json.loads(str(found["about"]))["precision"] == expected
    other = {"bf16": "fp32", "fp32": "bf16"}[expected]
    assert embed.main(["w", "f.npz", *common, "--precision", other]) == 0
    with np.load("f.npz") as found:
        assert not np.array_equal(found["embeddings"], in_run.numpy()), "the precision shows"
    assert torch.equal(
        toolbox.load("w", device="cpu", precision=other).encode_image(pictures(), batch_size=16),
        torch.from_numpy(np.load("f.npz")["embeddings"]),
    )
    toolbox.evaluate(toy(SHORT), "w", split="val", precision=other)
    assert not torch.equal(torch.cat(judged), in_run)


def test_the_rule():
    cpu = Device("cpu", "gloo", precisions=("fp32", "bf16"))
    recipe = {"optim_wrapper": {"precision": "bf16"}, "env_cfg": {"eval_precision": None}}
    assert eval_precision(recipe, cpu).name == "bf16"
    assert eval_precision(recipe | {"env_cfg": {"eval_precision": "fp32"}}, cpu).name == "fp32"
    assert eval_precision(recipe, cpu, "fp32").name == "fp32"
    assert eval_precision({"model": {}}, cpu).name == "fp32", "a bare backbone, and recipes of before"
    with pytest.raises(ToolboxError, match=r"precision: The device cpu cannot compute in fp16.*precision='fp32'"):
        eval_precision(recipe, cpu, "fp16")
    with pytest.raises(ToolboxError, match=r"env_cfg\.eval_precision: .*env_cfg\.eval_precision=fp32"):
        eval_precision({"env_cfg": {"eval_precision": "fp16"}}, cpu)


def test_a_device_that_cannot_is_told_before_the_run(toy):
    problems = toolbox.check_config(toy([*SHORT, "env_cfg.eval_precision=fp16"]))
    assert [problem.where.split()[-1] for problem in problems] == ["env_cfg.eval_precision"]


def test_stored_features_of_judging_have_its_precision(toy, monkeypatch):
    """Two precisions in a run are two stores of the validation data's kind, and never one for the other."""
    jobs = []
    store = FeatureCache._store
    monkeypatch.setattr(
        FeatureCache, "_store", lambda self, job: jobs.append((job.where, job.precision.name)) or store(self, job)
    )
    recipe = toy(
        [
            *SHORT,
            "optim_wrapper.precision=bf16",
            "env_cfg.eval_precision=fp32",
            "train_dataloader.augment=None",
            "model.backbone.tune=dict(mode='frozen')",
            "features=dict(folder='stores', dtype='fp32')",
        ]
    )
    toolbox.train(recipe, out="w")
    assert jobs == [("train_dataloader", "bf16"), ("val_dataloader", "fp32")]
    kept = {
        (manifest := json.loads(path.read_text()))["of"]["dataset"]["arguments"]["seed"]: manifest["of"]["precision"]
        for path in Path("stores").glob("*/manifest.json")
    }
    assert kept == {0: "bf16", 1: "fp32"}
