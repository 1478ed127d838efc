"""Losses in whole runs: their parameters and memories in the optimizer and in checkpoints, losses made of losses."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from test_exactness import assert_same, interrupt_at, trained

import toolbox
from toolbox.engine.checkpoint import checkpoint as checkpoints
from toolbox.engine.signals import Interrupted
from toolbox.utils.stored_embeddings import write_embeddings

SUPCON = "dict(type='losses.SupCon')"
SIGLIP = "dict(type='losses.SigLIP')"
MEMORY = f"dict(type='losses.CrossBatchMemory',loss={SUPCON},size=20,warmup=1)"
TAUGHT = f"dict(type='losses.Sum',losses=[{SUPCON},dict(type='losses.Distillation')],weights=[1,0.5])"
NESTED = f"dict(type='losses.Matryoshka',loss=dict(type='losses.Sum',losses=[{SIGLIP},{SUPCON}]),dims=[8,4])"


def with_loss(loss: str, *more: str) -> list[str]:
    return [f"model.loss={loss}", *more]


def messages(config) -> list[str]:
    return [str(problem) for problem in toolbox.check_config(config)]


def learned(folder: str) -> dict[str, torch.Tensor]:
    return {name: value for name, value in trained(Path(folder))[0].items() if "criterion" in name}


def test_parameters_of_a_loss_learn_at_a_rate_of_their_own(toy):
    start = {"log_scale": 2.6592, "bias": -10.0}
    more = ["param_scheduler=dict(type='core.Constant')", "train_cfg.max_steps=4"]
    moved = {}
    for name, rate in (("usual", None), ("fast", 0.1), ("still", 0.0)):
        own = [] if rate is None else [f"optim_wrapper.parts={{'model.criterion': dict(lr={rate})}}"]
        toolbox.train(toy(with_loss(SIGLIP, *more, *own)), out=name)
        found = learned(name)
        assert {key.removeprefix("criterion.") for key in found} == set(start)
        moved[name] = {key: abs(found[f"criterion.{key}"].item() - value) for key, value in start.items()}
    for key in start:  # Adam moves by at most about its rate a step
        assert 0 < moved["usual"][key] < 6e-3
        assert 0.1 < moved["fast"][key] < 0.6
        assert moved["still"][key] == pytest.approx(0, abs=1e-6)


def test_the_rate_of_one_part_of_a_sum(toy):
    loss = f"dict(type='losses.Sum',losses=[{SUPCON},{SIGLIP}])"
    own = "optim_wrapper.parts={'model.criterion.losses.1': dict(lr=0.1)}"
    toolbox.train(toy(with_loss(loss, own, "train_cfg.max_steps=4")), out="w")
    assert abs(learned("w")["criterion.losses.1.log_scale"].item() - 2.6592) > 0.05
    found = messages(toy(with_loss(loss, "optim_wrapper.parts={'model.criterion.losses.0': dict(lr=0.1)}")))
    assert any("model.criterion.losses.0" in line for line in found), "SupCon has nothing to learn"


def test_a_learned_scale_is_clamped_in_a_run(toy):
    loss = "dict(type='losses.Matryoshka',loss=dict(type='losses.SigLIP',max_scale=14.29),dims=[8])"
    own = "optim_wrapper.parts={'model.criterion': dict(lr=1.0)}"
    toolbox.train(toy(with_loss(loss, own)), out="w")
    assert learned("w")["criterion.losses.0.log_scale"] <= math.log(14.29) + 1e-6


@pytest.mark.parametrize("loss", [SIGLIP, MEMORY, NESTED], ids=["siglip", "memory", "nested"])
def test_a_resumed_run_equals_the_uninterrupted_one(toy, monkeypatch, loss):
    config = with_loss(loss, "train_cfg.max_steps=8", "train_cfg.val_interval=4")
    toolbox.train(toy(config), out="whole")
    interrupt_at(monkeypatch, 5)
    with pytest.raises(Interrupted):
        toolbox.train(toy(config), out="stopped")
    toolbox.train(toy(config), out="stopped", resume=True)
    assert_same(Path("whole"), Path("stopped"))
    kept = learned("whole")
    assert kept
    if loss == MEMORY:
        assert kept["criterion.remembered"] == 64
        assert kept["criterion.batches"] == 8
        assert (kept["criterion.memory"].norm(dim=1) > 0).all()


def test_an_emptied_memory_would_be_another_run(toy, monkeypatch):
    """Negative control: the memory of before the interruption matters."""
    config = with_loss(MEMORY, "train_cfg.max_steps=8", "train_cfg.val_interval=4")
    toolbox.train(toy(config), out="whole")
    interrupt_at(monkeypatch, 5)
    with pytest.raises(Interrupted):
        toolbox.train(toy(config), out="stopped")
    from toolbox_losses.memory import CrossBatchMemory

    original, first = CrossBatchMemory.compute, []

    def forgetful(self, *arguments):
        if self.training and not first:  # --check's look at the first batch is none of the run's
            self.remembered.zero_()
            first.append(True)
        return original(self, *arguments)

    monkeypatch.setattr(CrossBatchMemory, "compute", forgetful)
    toolbox.train(toy(config), out="stopped", resume=True)
    weights = [trained(Path(folder))[0]["backbone.embed.weight"] for folder in ("whole", "stopped")]
    assert not torch.equal(*weights)


def test_chunks_fill_the_memory_once_a_batch(toy):
    config = with_loss(MEMORY, "train_cfg.max_steps=3", "model.backbone.dropout=0.0")
    toolbox.train(toy(config), out="whole")
    toolbox.train(toy([*config, "optim_wrapper.grad_cache=dict(chunk_size=3)"]), out="chunks")
    whole, chunks = learned("whole"), learned("chunks")
    assert chunks["criterion.remembered"] == whole["criterion.remembered"] == 24
    torch.testing.assert_close(chunks["criterion.memory"], whole["criterion.memory"], rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("accumulate", [1, 2])
def test_a_student_learns_from_a_teacher_that_stays_as_it_is(toy, accumulate):
    more = [
        "model.teacher=dict(type='toy.Patches',width=8,size=8)",
        "model.teacher_pool=mean",
        "train_cfg.max_steps=3",
        f"optim_wrapper.accumulative_counts={accumulate}",
    ]
    toolbox.train(toy(with_loss(TAUGHT, *more)), out="w")
    assert not [name for name in load_file("w/last/model.safetensors") if name.startswith("criterion")]
    alone = "dict(type='losses.Distillation',kind='embedding')"
    more[0] = "model.teacher=dict(type='toy.Patches',width=8)"  # as wide as the head
    toolbox.train(toy(with_loss(alone, *more)), out="alone")
    assert checkpoints.read("alone/last").step == 3


def test_late_interaction_trains_on_tokens(toy):
    more = ["model.pool=tokens", "train_cfg.max_steps=3"]
    loss = "dict(type='losses.Matryoshka',loss=dict(type='losses.MaxSim'),dims=[8,4])"
    for name in (loss, "dict(type='losses.MaxSim')"):
        toolbox.train(toy(with_loss(name, *more)), out=f"w{len(name)}")
    found = messages(toy(with_loss("dict(type='losses.MaxSim')")))
    assert any("MaxSim compares tokens, and this pool gives one vector" in line for line in found)


# recipes


def test_a_list_of_losses_is_checked_one_by_one_with_their_places(toy):
    loss = "dict(type='losses.Sum',losses=[dict(type='losses.SupCon',temprature=1),dict(type='losses.Nope'),dict(type='core.AdamW'),'SupCon'])"  # noqa: E501
    found = "\n".join(messages(toy(with_loss(loss))))
    assert "model.loss.losses.0.temprature: losses.SupCon has no argument 'temprature'. Did you mean 'temperat" in found
    assert "model.loss.losses.1" in found
    assert "model.loss.losses.2" in found
    assert "model.loss.losses.3: A loss is a dict with 'type', not 'SupCon'." in found
    deep = "dict(type='losses.Matryoshka',loss=dict(type='losses.Sum',losses=[dict(type='losses.Triplet',miner='no')]))"
    found = "\n".join(messages(toy(with_loss(deep))))
    assert "model.loss.loss.losses.0.miner: 'all' | 'hard' | 'semi' is expected here, not 'no'." in found


def test_an_option_reaches_into_a_list_of_losses(toy):
    more = ["model.loss.losses.0.temperature=0.2", "model.loss.weights=[1,3]"]
    model = toolbox.build(toy(with_loss(f"dict(type='losses.Sum',losses=[{SUPCON},{SIGLIP}])", *more)))
    assert model.criterion.losses[0].temperature == 0.2
    assert model.criterion.weights == [1, 3]


@pytest.mark.parametrize(
    ("loss", "message"),
    [
        (f"dict(type='losses.Sum',losses={SUPCON})", "losses must be a list with one loss or more"),
        (f"dict(type='losses.Sum',losses=[{SUPCON}],weights=[1,2])", "one number for each of the 1 losses, not 2"),
        (f"dict(type='losses.Sum',losses=[{SUPCON}],weights=['a'])", "list[float] | None is expected here"),
        (f"dict(type='losses.Matryoshka',loss={SUPCON})", "try dims=[8], or a wider head"),
        ("dict(type='losses.CrossBatchMemory',loss=dict(type='losses.ArcFace'))", "does not compare pairs one by one"),
        (TAUGHT, "Sum compares with a teacher, and there is none."),
    ],
)
def test_what_does_not_fit_is_said_before_a_run(toy, loss, message):
    found = messages(toy(with_loss(loss)))
    assert any(message in line and "model" in line for line in found), found


def test_a_teacher_that_does_not_fit_is_found_before_a_run(toy, tmp_path):
    alike = "dict(type='losses.Distillation',kind='embedding')"
    summed = f"dict(type='losses.Sum',losses=[{SUPCON},{alike}])"
    wide, fitting = (f"model.teacher=dict(type='toy.Patches',width={width})" for width in (24, 8))
    widths = ["model.teacher_pool=mean", "model.head=dict(type='core.Projection',dim=8)"]
    for loss in (alike, summed):
        found = messages(toy(with_loss(loss, wide, *widths)))
        assert len(found) == 1, found
        assert "the student's have 8 and the teacher's 24" in found[0]
        assert messages(toy(with_loss(loss, fitting, *widths))) == []
    cut = f"dict(type='losses.Matryoshka',loss={alike},dims=[8,4])"
    assert "the student's have 4" in messages(toy(with_loss(cut, fitting, *widths)))[0], "a teacher is never cut"
    assert messages(toy(with_loss(TAUGHT, wide, *widths))) == [], "similarities of any width can be compared"
    file = tmp_path / "teacher.npz"
    write_embeddings(file, ["a"], np.ones((1, 24)))
    assert "the teacher's 24" in messages(toy(with_loss(alike, f"model.teacher_file={file}", *widths)))[0]
    found = messages(toy(with_loss(TAUGHT, wide, "model.teacher_pool=tokens")))
    assert len(found) == 1, found
    assert "the teacher's pool keeps tokens" in found[0]


def test_a_teacher_without_a_loss_that_looks_at_it_is_said(toy):
    found = messages(toy(with_loss(SUPCON, "model.teacher=dict(type='toy.Patches')")))
    assert any("SupCon never looks at the teacher" in line for line in found)
