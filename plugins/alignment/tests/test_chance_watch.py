"""A run that does not begin to learn says so, and why."""

from __future__ import annotations

import json
import math
from pathlib import Path

import pytest
from contract_parts import Questions
from test_contracts_in_runs import HEAD, RUN, data, recipe
from toolbox_alignment.chance_watch import ChanceWatch

import toolbox

IMAGE = dict(backbone=dict(type="contract.Patches"), pool="mean", head=HEAD)
TEXT = dict(backbone=dict(type="contract.Letters", weights="letters"), pool="last", head=HEAD)
ALIGNMENT = RUN | dict(
    model=dict(
        type="alignment.DualEncoder", vision=dict(image=IMAGE), text=dict(text=TEXT), loss=dict(type="losses.CLIP")
    ),
    **data("contract.Questions"),
    val_evaluator=dict(type="alignment.ZeroShot"),
    custom_hooks=[dict(type="alignment.ChanceWatch", after=0.3)],
    train_cfg=dict(max_steps=20, val_interval=20),
    optim_wrapper=dict(optimizer=dict(type="core.AdamW", lr=1e-2), clip_grad=dict(max_norm=1.0)),
)
FROZEN = dict(model__text__text__backbone__tune=dict(mode="frozen"), model__text__text__head=None)


@pytest.fixture(autouse=True)
def folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


def warnings(folder: str) -> str:
    log = Path(folder, "train.log").read_text()
    return " ".join(line for line in log.splitlines() if "chance level" in line)


def test_a_loss_that_does_not_move_is_explained():
    toolbox.train(recipe(ALIGNMENT, optim_wrapper__optimizer__lr=0.0), out="run")
    assert "After 6 of 20 steps the loss is at its chance level" in warnings("run")
    assert "The learning rate is 0" in warnings("run")
    assert warnings("run").count("After") == 1


def test_a_side_that_cannot_train_and_texts_that_repeat_are_named(monkeypatch):
    read = Questions.__getitem__
    monkeypatch.setattr(Questions, "__getitem__", lambda self, index: read(self, index) | {"text": "a|a"})
    config = recipe(
        ALIGNMENT,
        **FROZEN,
        model__vision__image__head__dim=12,
        optim_wrapper__optimizer__lr=1e-9,
    )
    toolbox.train(config, out="run")
    assert "Nothing of model.text.text trains" in warnings("run")
    assert "have a text that returns in their batch" in warnings("run")


def test_a_loss_that_falls_is_not_mentioned():
    config = recipe(ALIGNMENT, train_dataloader__batch_size=8, model__loss__log_scale=0.0)
    config["train_cfg"]["max_steps"] = config["train_cfg"]["val_interval"] = 60
    toolbox.train(config, out="run")
    assert not warnings("run")
    lines = [json.loads(line) for line in Path("run/metrics.jsonl").read_text().splitlines()]
    logged = [line for line in lines if "chance" in line]
    assert all(line["chance"] == pytest.approx(math.log(8)) for line in logged)
    assert logged[-1]["loss"] < 0.9 * logged[-1]["chance"]


@pytest.mark.parametrize("options", [dict(after=0), dict(after=2), dict(margin=1)])
def test_values_that_are_no_shares_are_refused(options):
    with pytest.raises(ValueError, match="are shares"):
        ChanceWatch(**options)
