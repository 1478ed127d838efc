"""When memory runs out: one message, with settings that need less, how much less, and only those that apply."""

from __future__ import annotations

import re
from itertools import chain

import pytest
import torch

import toolbox
from toolbox.api import check_config
from toolbox.base import Model
from toolbox.engine import train_step as step
from toolbox.engine.device import choose_device
from toolbox.engine.hooks.out_of_memory import proposals, ran_out
from toolbox.errors import ToolboxError
from toolbox.registry import get_catalog

CUDA = torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB. GPU 0 has a total capacity of 10 GiB")
CPU = RuntimeError("[enforce fail at alloc_cpu.cpp:117] DefaultCPUAllocator: can't allocate memory: you tried")
ARCH = dict(hidden_size=32, num_hidden_layers=4, num_attention_heads=2, patch_size=4)
VIT = [f"model.backbone=dict(type='dinov3.ViT',name=None,size=32,arch={ARCH!r})", "evaluate_before=False"]


def fails(monkeypatch, error, at=3):
    original, calls = step.TrainStep.__call__, []

    def call(self, *given):
        calls.append(True)
        if len(calls) == at:
            raise error
        return original(self, *given)

    monkeypatch.setattr(step.TrainStep, "__call__", call)


def lines(hint: str) -> list[list[str]]:
    """The proposed overrides."""
    return [re.findall(r"[\w.]+=[\w.]+", part) for part in hint.split("the override")[1:]]


def keys(hint: str) -> set[str]:
    return {option.split("=")[0] for line in lines(hint) for option in line}


def message(toy, options, monkeypatch, error=CUDA):
    fails(monkeypatch, error)
    with pytest.raises(ToolboxError) as caught:
        toolbox.train(toy(options), out="w")
    (problem,) = caught.value.problems
    return problem


SLOW = pytest.mark.slow


@pytest.mark.parametrize("error", [CUDA, pytest.param(CPU, marks=SLOW), pytest.param(MemoryError(), marks=SLOW)])
def test_a_step_without_memory_ends_the_run_with_what_would_help(toy, monkeypatch, error):
    problem = message(toy, VIT, monkeypatch, error)
    assert "Out of memory at step 3, with 8 images in a batch" in problem.message
    assert "activations and gradients" in problem.message
    assert keys(problem.hint) == {
        "train_dataloader.sampler.classes",
        "optim_wrapper.accumulative_counts",
        "optim_wrapper.grad_cache.chunk_size",
        "model.backbone.gradient_checkpointing",
        "optim_wrapper.precision",
    }
    saved = [float(number) for number in re.findall(r"\((\d+)%\)", problem.hint)]
    assert len(saved) == len(lines(problem.hint))
    assert saved == sorted(saved, reverse=True)
    assert all(0 < number < 100 for number in saved)
    for line in lines(problem.hint):
        assert check_config(toy([*VIT, *line])) == [], line
    assert check_config(toy([*VIT, *chain(*lines(problem.hint))])) == []


def test_what_a_proposal_saves_is_what_check_says(toy):
    recipe = toolbox.api.make_runnable(toy(VIT), "cpu")
    found = proposals(recipe, 16, {"image": 8}, choose_device("cpu"))
    before = sum(toolbox.api.plan(toy(VIT)).memory.values())
    assert len(found) == 4
    for changes, saved in found:
        after = toolbox.api.plan(toy([*VIT, *(f"{key}={value}" for key, value in changes.items())])).memory
        assert before - sum(after.values()) == saved, changes


def test_what_cannot_be_is_not_proposed(toy, monkeypatch):
    hint = message(toy, ["evaluate_before=False"], monkeypatch).hint  # toy.Patches cannot recompute
    assert "model.backbone.gradient_checkpointing" not in keys(hint)
    assert "optim_wrapper.grad_cache.chunk_size" in keys(hint)


def test_what_is_on_already_is_not_proposed_again(toy, monkeypatch):
    on = ["model.backbone.gradient_checkpointing=True", "optim_wrapper.precision=bf16"]
    found = keys(message(toy, [*VIT, *on, "optim_wrapper.grad_cache.chunk_size=1"], monkeypatch).hint)
    assert not found & {
        "model.backbone.gradient_checkpointing",
        "optim_wrapper.precision",
        "optim_wrapper.grad_cache.chunk_size",
    }


def test_a_frozen_backbone_need_not_recompute(toy, monkeypatch):
    found = keys(message(toy, [*VIT, "model.backbone.tune.mode=frozen"], monkeypatch).hint)
    assert "model.backbone.gradient_checkpointing" not in found


def test_a_model_of_one_piece_gets_no_chunks(toy, monkeypatch):
    recipe = toolbox.api.make_runnable(toy(VIT), "cpu")
    embedder = get_catalog().resolve("retrieval.Embedder", "model")
    assert any(
        "grad_cache" in key for way, _ in proposals(recipe, 16, {"image": 8}, choose_device("cpu")) for key in way
    )
    monkeypatch.setattr(embedder, "encode", Model.encode)
    found = proposals(recipe, 16, {"image": 8}, choose_device("cpu"))
    assert not any("grad_cache" in key for changes, _ in found for key in changes)


def test_a_batch_of_plain_size_is_halved(toy, monkeypatch):
    plain = ["train_dataloader.sampler=None", "train_dataloader.batch_size=16"]
    hint = message(toy, [*VIT, *plain], monkeypatch).hint
    assert ["train_dataloader.batch_size=8", "optim_wrapper.accumulative_counts=2"] in lines(hint)


def test_an_evaluation_without_memory_proposes_a_smaller_batch(toy, monkeypatch):
    embedder = get_catalog().resolve("retrieval.Embedder", "model")

    def predict(self, batch):
        raise CUDA

    monkeypatch.setattr(embedder, "predict", predict)
    with pytest.raises(ToolboxError, match="Out of memory while 16 items were evaluated") as caught:
        toolbox.train(toy(["evaluate_before=False"]), out="w")
    (option,) = keys(caught.value.problems[0].hint)
    assert option == "val_dataloader.batch_size"
    assert ["val_dataloader.batch_size=4"] in lines(caught.value.problems[0].hint)
    assert check_config(toy(["val_dataloader.batch_size=4"])) == []


def test_other_errors_stay_what_they_are(toy, monkeypatch):
    assert not ran_out(RuntimeError("mat1 and mat2 shapes cannot be multiplied"))
    assert not ran_out(ValueError("not enough memory"))
    fails(monkeypatch, RuntimeError("mat1 and mat2 shapes cannot be multiplied"))
    with pytest.raises(RuntimeError, match="mat1"):
        toolbox.train(toy(["evaluate_before=False"]), out="w")
