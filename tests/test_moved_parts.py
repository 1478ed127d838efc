"""`load_parts` as a dict: a part of a model starts from another place of a checkpoint."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from test_contracts_in_runs import ALIGNMENT, recipe
from test_modalities import TEXTS

import toolbox
from toolbox.engine.checkpoint import checkpoint as checkpoints
from toolbox.errors import ToolboxError

STILL = {"train_cfg__max_steps": 1, "optim_wrapper__optimizer": dict(type="core.AdamW", lr=0.0, weight_decay=0.0)}
FRESH = dict(type="contract.Letters", weights=None)
PLACE = {"model.text.text.backbone": "model.backbone"}


@pytest.fixture(autouse=True)
def folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


def tensors(folder: str, prefix: str) -> dict[str, torch.Tensor]:
    held = checkpoints.read(folder).model_tensors()
    return {name.removeprefix(prefix): value for name, value in held.items() if name.startswith(prefix)}


def start(folder: str, parts, **overrides):
    config = recipe(ALIGNMENT, **STILL, model__text__text__backbone=FRESH, load_from="start", **overrides)
    return toolbox.train(config | {"load_parts": parts}, out=folder)


def same(first: dict, second: dict) -> bool:
    return first.keys() == second.keys() and all(torch.equal(first[name], second[name]) for name in first)


def test_a_tower_starts_from_the_backbone_of_another_model(capsys):
    toolbox.train(recipe(TEXTS), out="start")
    trained = tensors("start", "backbone.")
    start("moved", PLACE)
    assert same(tensors("moved", "text.text.backbone."), trained)
    assert not same(tensors("moved", "text.text.head."), tensors("start", "head."))
    said = capsys.readouterr().out
    assert "5 tensors were taken from it (model.text)" in said
    assert "2 tensors of it were left out (model.head)" in said
    start("both", PLACE | {"model.text.text.head": "model.head"})
    assert same(tensors("both", "text.text.head."), tensors("start", "head."))


def test_parts_change_places_within_one_model():
    towers = {
        f"model__text__{name}__backbone": dict(type="contract.Letters", weights=name) for name in ("text", "title")
    }
    toolbox.train(recipe(ALIGNMENT, **towers), out="start")
    places = {f"model.text.{a}.backbone": f"model.text.{b}.backbone" for a, b in (("text", "title"), ("title", "text"))}
    toolbox.train(recipe(ALIGNMENT, **towers, **STILL, load_from="start") | {"load_parts": places}, out="moved")
    for here, there in (("text", "title"), ("title", "text")):
        assert same(tensors("moved", f"text.{here}.backbone."), tensors("start", f"text.{there}.backbone."))


def test_an_adapter_moves_with_its_backbone():
    lora = dict(type="contract.Patches", dim=8, patch=8, weights="small", tune=dict(mode="lora", rank=2))
    toolbox.train(recipe(TEXTS, model__backbone=lora, model__pool="mean"), out="start")
    config = recipe(ALIGNMENT, **STILL, model__vision__fine__backbone=lora, load_from="start")
    toolbox.train(config | {"load_parts": {"model.vision.fine.backbone": "model.backbone"}}, out="moved")
    first, second = checkpoints.read("start"), checkpoints.read("moved/last")
    assert same(first.adapter_tensors("backbone"), second.adapter_tensors("vision.fine.backbone"))


@pytest.mark.parametrize(
    ("parts", "message"),
    [
        ({"model.text.text.backbone": "model.encoder"}, "'model.encoder' holds no tensors in the checkpoint"),
        ({"model.text.other": "model.backbone"}, "'model.text.other' holds no tensors in the model"),
        ({"text.text.backbone": "model.backbone"}, "'text.text.backbone' is no path of a model's part"),
        ({"model.vision.fine.backbone": "model.backbone"}, "of another model: missing|unexpected|of another shape"),
        ({"model.text.text": "model", "model.text.text.head": "model.head"}, "is a part of 'model.text.text'"),
        ({}, "It names no part"),
    ],
)
def test_places_that_are_not_there_are_one_message(parts, message):
    toolbox.train(recipe(TEXTS, train_cfg__max_steps=1), out="start")
    with pytest.raises(ToolboxError, match=message):
        start("moved", parts)


def test_what_was_frozen_there_is_named():
    frozen = dict(type="contract.Letters", weights="letters", tune=dict(mode="frozen"))
    toolbox.train(recipe(TEXTS, model__backbone=frozen), out="start")
    with pytest.raises(ToolboxError, match="holds no tensors") as caught:
        start("moved", PLACE)
    assert "It was frozen there" in caught.value.problems[0].hint


def test_a_command_line_says_it_too():
    config = toolbox.load_config(
        str(Path(__file__).with_name("toy_recipe.py")),
        ["load_parts={'model.a.backbone': 'model.backbone'}", "load_from=run"],
    )
    assert config["load_parts"] == {"model.a.backbone": "model.backbone"}
