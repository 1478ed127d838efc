"""`on_nonfinite='skip'`: a run that leaves bad updates out equals one in which nobody made them, bit for bit."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from test_exactness import assert_same, interrupt_at, same, trained
from test_resume import interrupted
from torch import nn

import toolbox
from toolbox.api import check_config
from toolbox.base import Batch
from toolbox.engine import train_step as step
from toolbox.engine.device import choose_device
from toolbox.engine.distributed.parallel import Parallel
from toolbox.engine.nonfinite import NonFiniteGuard
from toolbox.engine.precision import Precision
from toolbox.engine.train_step import TrainStep
from toolbox.errors import ToolboxError
from toolbox.progress import LineConsole, LiveConsole

SKIP = ["optim_wrapper.on_nonfinite=skip", "evaluate_before=False", "default_hooks.logger.interval=1"]
OPTIMIZERS = {
    "AdamW": [],
    "SGD": ["optim_wrapper.optimizer=dict(type='core.SGD',lr=0.1,momentum=0.9)"],
}
WAYS = {
    "clipped": [],
    "not clipped": ["optim_wrapper.clip_grad=None"],
    "accumulated": ["optim_wrapper.accumulative_counts=2"],
    "averaged": ["optim_wrapper.average=dict(decay=0.9)"],
    "in chunks": ["optim_wrapper.grad_cache.chunk_size=3"],
}


@pytest.fixture
def at_update(monkeypatch):
    """`at_update(what, *numbers)`: what befalls those updates (1 is the first): "left out", or "bad" gradients."""
    original = step.TrainStep._update

    def install(what, *numbers, size=float("nan")):
        def update(self, values, step):
            if step + 1 in numbers and what == "bad":
                next(p.grad for p in self.parameters if p.grad is not None).view(-1)[0] = size
            if step + 1 in numbers and what == "left out":
                self.optimizer.zero_grad(set_to_none=True)
                return
            original(self, values, step)

        monkeypatch.setattr(step.TrainStep, "_update", update)

    return install


@pytest.mark.parametrize("size", [float("nan"), float("inf")])
@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("optimizer", OPTIMIZERS)
def test_a_bad_update_is_as_if_it_had_not_been_made(toy, at_update, optimizer, way, size):
    options = [*SKIP, *OPTIMIZERS[optimizer], *WAYS[way]]
    at_update("left out", 1, 5, 6)
    toolbox.train(toy(options), out="left_out")
    at_update("bad", 1, 5, 6, size=size)
    results = toolbox.train(toy(options), out="w")
    assert results["skipped_steps"] == 3
    assert_same(Path("left_out"), Path("w"))
    at_update("nothing")
    toolbox.train(toy(options), out="whole")
    assert not same(trained(Path("whole"))[0], trained(Path("w"))[0])  # control: the updates would have mattered


def test_a_bad_loss_is_left_out_counted_and_in_no_mean(toy):
    options = [*SKIP, "default_hooks.logger.interval=3", "model.loss.explode_at=5"]
    results = toolbox.train(toy(options), out="w")
    assert results["skipped_steps"] == 1
    assert json.loads(Path("w/train_results.json").read_text())["skipped_steps"] == 1
    lines = [json.loads(line) for line in Path("w/metrics.jsonl").read_text().splitlines()]
    logged = {line["step"]: line for line in lines if "lr" in line}
    assert [logged[step]["skipped_steps"] for step in (3, 6, 9, 12)] == [0, 1, 1, 1]
    assert all(0 < logged[step]["loss"] < 10 for step in logged)


def test_a_line_of_left_out_steps_alone_has_no_loss(toy):
    toolbox.train(toy([*SKIP, "model.loss.explode_at=5"]), out="w")
    lines = [json.loads(line) for line in Path("w/metrics.jsonl").read_text().splitlines() if "lr" in line]
    assert [line["step"] for line in lines if "loss" not in line] == [5]


@pytest.mark.parametrize("kind", [LineConsole, LiveConsole])
def test_the_log_tells_of_updates_that_were_left_out(toy, kind):
    toolbox.train(toy([*SKIP, "model.loss.explode_at=5"]), out="run", console=kind())
    lines = [line for line in Path("run/train.log").read_text().splitlines() if line.startswith("step ")]
    told = {line.split()[1].partition("/")[0]: line for line in lines if "val:" not in line}
    assert "left out" not in told["4"]
    assert "loss not finite" in told["5"]
    assert "1 left out so far" in told["5"]
    assert "1 left out so far" in told["12"]


def test_the_default_stops_the_run(toy):
    with pytest.raises(ToolboxError, match="not finite at step 5"):
        toolbox.train(toy(["model.loss.explode_at=5", "evaluate_before=False"]), out="w")


def test_too_many_end_the_run_with_a_message_and_a_larger_number_goes_on(toy, at_update):
    options = [*SKIP, "default_hooks.checkpoint.by_epoch=False", "optim_wrapper.max_skipped=2"]
    at_update("bad", 2, 5, 7)
    with pytest.raises(ToolboxError, match=r"3 updates were left out .* more than the 2 allowed") as caught:
        toolbox.train(toy(options), out="w")
    assert "max_skipped" in caught.value.problems[0].hint
    results = toolbox.train(toy([*options, "optim_wrapper.max_skipped=3"]), out="w", resume=True)
    assert results["skipped_steps"] == 3
    assert results["steps"] == 12


def test_the_count_survives_an_interruption(toy, at_update, monkeypatch):
    at_update("bad", 2, 5, 7)
    toolbox.train(toy(SKIP), out="whole")
    with monkeypatch.context() as patch:
        interrupt_at(patch, 6)
        interrupted(toy(SKIP), out="w")
    assert toolbox.train(toy(SKIP), out="w", resume=True)["skipped_steps"] == 3
    assert_same(Path("whole"), Path("w"))


def test_a_run_with_nothing_bad_is_the_run_without_the_policy(toy):
    toolbox.train(toy(SKIP), out="skip")
    toolbox.train(toy(SKIP[1:]), out="raise")
    assert_same(Path("skip"), Path("raise"))


def test_negative_numbers_are_refused(toy):
    assert any("at least 0" in problem.message for problem in check_config(toy(["optim_wrapper.max_skipped=-1"])))


# --- single steps ------------------------------------------------------------------------------------------------


def batch_with(factor: float) -> Batch:
    """A batch of one item with a number of its own."""
    batch = Batch(ids=[0])
    batch.factor = factor
    return batch


class Square(nn.Module):
    """The loss is `factor * weight ** 2`; counts its calls in a buffer as batch norm does."""

    def __init__(self):
        super().__init__()
        self.weight = nn.Parameter(torch.tensor([1.0, 2.0]))
        self.register_buffer("mean", torch.zeros(2))

    def forward(self, batch, mode):
        self.mean.lerp_(self.weight.detach() * batch.factor, 0.5)
        return {"loss": (batch.factor * self.weight**2).sum()}


def step_of(model: nn.Module, optimizer, *, precision="fp32", most=10, max_norm=None) -> TrainStep:
    from toolbox.engine.param_groups import ParamGroup

    device = choose_device("cpu")
    device = replace(device, precisions=(*device.precisions, "fp16"))
    group = ParamGroup(params={"weight": model.weight}, lr=0.1, weight_decay=0.0, part_lr=0.1)
    return TrainStep(Parallel(model), [group], optimizer, [], Precision(precision, device), max_norm, max_skipped=most)


def adamw(fused):
    return lambda groups: torch.optim.AdamW(groups, fused=fused)


@pytest.mark.parametrize("fused", [True, False])
def test_buffers_are_as_before_the_left_out_step(fused):
    model = Square()
    update = step_of(model, adamw(fused))
    for factor in (1.0, 2.0):
        update([batch_with(factor)], 0, 10)
    assert update.guard._fused == fused
    before = {name: value.clone() for name, value in model.state_dict().items()}
    update([batch_with(float("inf"))], 2, 10)
    assert all(torch.equal(before[name], value) for name, value in model.state_dict().items())
    assert update.guard.count == 1


def test_a_fused_optimizer_decides_without_the_host(monkeypatch):
    update = step_of(Square(), adamw(True))
    update([batch_with(1.0)], 0, 10)
    monkeypatch.setattr(TrainStep, "_remember", lambda *_: None)  # on a CPU it reads at once, for the earliest message

    def read(self):
        raise AssertionError("the host waits for the device")

    for name in ("item", "__bool__", "__float__", "__int__"):
        monkeypatch.setattr(torch.Tensor, name, read)
    update([batch_with(float("nan"))], 1, 10)
    monkeypatch.undo()
    assert update.guard.count == 1


@pytest.mark.parametrize("max_norm", [None, 1.0])
def test_the_scaler_of_fp16_goes_on_and_its_own_overflows_are_not_counted(max_norm):
    model = Square()
    update = step_of(model, adamw(True), precision="fp16", max_norm=max_norm)
    scaler = update.precision.scaler
    update([batch_with(1.0)], 0, 10)
    kept, scale = model.weight.detach().clone(), scaler.get_scale()
    update([batch_with(float("nan"))], 1, 10)
    assert torch.equal(model.weight, kept)
    assert update.guard.count == 1
    update([batch_with(1e35)], 2, 10)  # finite, and infinite once it is scaled
    assert torch.equal(model.weight, kept)
    assert update.guard.count == 1
    assert scaler.get_scale() < scale
    update([batch_with(1.0)], 3, 10)
    assert not torch.equal(model.weight, kept)


def test_an_infinite_loss_with_finite_gradients_is_left_out_under_fp16_too():
    class Shifted(Square):
        def forward(self, batch, mode):
            return {"loss": (self.weight**2).sum() + batch.factor}

    model = Shifted()
    update = step_of(model, adamw(True), precision="fp16")
    update([batch_with(0.0)], 0, 10)
    kept = model.weight.detach().clone()
    update([batch_with(float("inf"))], 1, 10)
    assert torch.equal(model.weight, kept)
    assert update.guard.count == 1


def test_the_limit_is_told_where_it_is_set():
    model = Square()
    skipping = NonFiniteGuard(model, torch.optim.SGD([model.weight], lr=0.1), most=0)
    skipping.begin()
    skipping.judge({"loss": torch.tensor(torch.nan), "grad_norm": torch.tensor(1.0)}, scaled=False)
    with pytest.raises(ToolboxError, match="1 updates") as caught:
        skipping.check()
    assert caught.value.problems[0].where == "optim_wrapper.max_skipped"
