"""A frozen tower is a fixed function: dropout and batch norms within it do nothing while the rest trains."""

from __future__ import annotations

import copy

import pytest
import torch
from test_contracts_in_runs import HEAD, RUN, data, recipe
from toolbox_alignment.dual_encoder import DualEncoder

import toolbox
from toolbox.engine.checkpoint import checkpoint as checkpoints

STEPS = 5


def tower(kind: str, mode: str, **options) -> dict:
    tune = dict(mode=mode, norm_stats="train" if mode == "full" else None)
    backbone = dict(type=f"contract.{kind}", dropout=0.5, tune=tune, **options)
    return dict(backbone=backbone, pool="mean" if kind == "Patches" else "last", head=HEAD)


def train(mode: str, monkeypatch, **options) -> list[dict[str, torch.Tensor]]:
    """At each step of a run: what the towers make of one fixed batch, in the mode in which they are, and buffers."""
    config = recipe(
        RUN
        | dict(
            model=dict(
                type="alignment.DualEncoder",
                vision=dict(image=tower("Patches", mode, norm=True)),
                text=dict(text=tower("Letters", mode, weights="letters")),
                loss=dict(type="losses.CLIP"),
            ),
            **data("contract.Captions"),
        ),
        train_cfg__max_steps=STEPS,
        train_cfg__val_interval=None,
        val_dataloader=None,
        evaluate_before=False,
        **options,
    )
    seen, fixed, encode = [], [], DualEncoder.encode

    def look(self, batch):
        if self.training and batch.inputs["image"].device.type != "meta":  # that is the dry run
            fixed.append(copy.deepcopy(batch))
            with torch.random.fork_rng(), torch.no_grad():
                rows = {name: self.pool_features(fixed[0], name) for name in self.towers}
                buffers = {name: value.clone() for name, value in self.named_buffers()}
            seen.append(rows | buffers)
        return encode(self, batch)

    monkeypatch.setattr(DualEncoder, "encode", look)
    toolbox.train(config, out=mode)
    return seen


@pytest.fixture(autouse=True)
def folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


def test_frozen_towers_give_the_same_bits_at_every_step(monkeypatch):
    seen = train("frozen", monkeypatch)
    assert len(seen) == STEPS
    assert {"image", "text", "vision.image.backbone.norm.running_mean"} <= seen[0].keys()
    for step in seen[1:]:
        for name, value in step.items():
            assert torch.equal(value, seen[0][name]), name
    saved = checkpoints.read("frozen/last").model_tensors()
    assert any("head" in name for name in saved), "something trains beside them"


def test_towers_that_train_do_not(monkeypatch):
    """Dropout and batch norm of these backbones do something: the test above can fail."""
    seen = train("full", monkeypatch, optim_wrapper__optimizer=dict(type="core.SGD", lr=1e-30, weight_decay=0.0))
    for name in ("image", "text", "vision.image.backbone.norm.running_mean"):
        assert not torch.equal(seen[1][name], seen[0][name]), name
