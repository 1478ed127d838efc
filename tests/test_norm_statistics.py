"""Averaged and interpolated weights are evaluated and saved with batch-norm statistics of their own."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from test_exactness import assert_same, interrupt_at
from test_resume import interrupted
from torch import nn

import toolbox
from toolbox.base import Head, Loss
from toolbox.builtins.bn_neck import BNNeck
from toolbox.engine.hooks.average import WeightAverage, applied
from toolbox.engine.norm_statistics import NormStatistics

NORM = "model.head=dict(type='core.Projection',dim=8,norm='batch')"
EMA = "optim_wrapper.average=dict(decay=0.9)"
RUN = [NORM, "evaluate_before=False", "evaluate_features=False", "optim_wrapper.optimizer.lr=0.05"]


def statistics(folder):
    tensors = load_file(Path(folder, "last/model.safetensors"))
    return {name: tensor for name, tensor in tensors.items() if "running_" in name}


@pytest.fixture
def averaged(toy):
    return toolbox.train(toy([*RUN, EMA]), out="averaged")


def test_a_checkpoint_has_the_statistics_of_its_weights(toy, averaged):
    """They are what one pass over the run's first batches with these weights gives."""
    from toolbox.config import complete, to_dict
    from toolbox.engine.setup import set_up

    found = statistics("averaged")
    run = set_up(complete(to_dict(toy(RUN))), Path("other"))
    saved = load_file("averaged/last/model.safetensors")
    run.model.load_state_dict({name: tensor.clone() for name, tensor in saved.items()})
    run.model.eval()
    norms = [module for module in run.model.modules() if isinstance(module, nn.BatchNorm1d)]
    rows = []
    norms[0].register_forward_pre_hook(lambda module, arguments: rows.append(arguments[0].detach()))
    from toolbox.engine.data.loader import ready

    for batch in run.batches(0, run.length.steps):
        run.model(ready(batch, run.training_inputs, run.torch_device), "predict")
    run.unlock()
    mean = torch.stack([part.mean(0) for part in rows]).mean(0)
    variance = torch.stack([part.var(0) for part in rows]).mean(0)
    path = next(name for name in found if name.endswith("running_mean")).removesuffix("running_mean")
    torch.testing.assert_close(found[f"{path}running_mean"], mean, rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(found[f"{path}running_var"], variance, rtol=1e-5, atol=1e-6)


def test_what_is_saved_is_what_was_judged(toy, averaged):
    numbers = toolbox.evaluate(toy([*RUN, EMA]), "averaged/best")
    assert numbers["nearest"] == averaged["best"]["value"]


def test_training_goes_on_with_its_own_statistics(toy, averaged):
    """The weights and statistics that train are those of a run that averages nothing."""
    toolbox.train(toy(RUN), out="plain")
    state = load_file("averaged/last/state.safetensors")
    plain = load_file("plain/last/model.safetensors")
    kept = {name.removeprefix("average/statistics/"): t for name, t in state.items() if "average/statistics" in name}
    assert kept
    for name, tensor in kept.items():
        assert torch.equal(tensor, plain[name]), name
        if "running" in name:
            assert not torch.equal(tensor, load_file("averaged/last/model.safetensors")[name])


@pytest.mark.parametrize("step", [5, 6])
def test_a_resumed_run_is_the_uninterrupted_one(toy, averaged, monkeypatch, step):
    with monkeypatch.context() as patch:
        interrupt_at(patch, step)
        interrupted(toy([*RUN, EMA]), out="w")
    toolbox.train(toy([*RUN, EMA]), out="w", resume=True)
    assert_same(Path("averaged"), Path("w"))
    assert json.loads(Path("w/train_results.json").read_text())["best"] == averaged["best"]


def test_averaging_can_be_switched_off_in_a_resumed_run(toy, averaged, monkeypatch):
    toolbox.train(toy(RUN), out="plain")
    with monkeypatch.context() as patch:
        interrupt_at(patch, 6)
        interrupted(toy([*RUN, EMA]), out="w")
    toolbox.train(toy(RUN), out="w", resume=True)
    for name, tensor in load_file("plain/last/model.safetensors").items():
        assert torch.equal(tensor, load_file("w/last/model.safetensors")[name]), name


# --- the parts ---------------------------------------------------------------------------------------------------


class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.norm, self.frozen, self.neck = nn.BatchNorm1d(3), nn.BatchNorm1d(3), BNNeck()
        self.neck.connect(3)
        self.dropout = nn.Dropout(0.5)
        self.unused = nn.BatchNorm1d(2)

    def train(self, mode=True):
        super().train(mode)
        self.frozen.eval()
        return self

    def forward(self, x):
        return self.neck(self.dropout(self.frozen(self.norm(x))))


def test_only_norms_that_train_and_are_reached_are_changed():
    torch.manual_seed(0)
    net = Net()
    net.unused.running_mean.fill_(7)
    found = NormStatistics(net)
    assert set(found.norms) == {"norm", "neck.norm", "unused"}
    parts = [torch.randn(6, 3) * 2 + 1 for _ in range(3)]
    modes = {name: module.training for name, module in net.named_modules()}
    found.estimate(net, parts)
    torch.testing.assert_close(net.norm.running_mean, torch.stack([p.mean(0) for p in parts]).mean(0))
    torch.testing.assert_close(net.norm.running_var, torch.stack([p.var(0) for p in parts]).mean(0))
    assert torch.equal(net.frozen.running_mean, torch.zeros(3))
    assert torch.equal(net.unused.running_mean, torch.full((2,), 7.0))
    assert net.neck.norm.running_mean.abs().max() < 1e-5  # what comes to it is normalised, and never dropped
    assert modes == {name: module.training for name, module in net.named_modules()}
    assert net.norm.momentum == 0.1


def test_norms_in_losses_are_left_alone():
    class Normed(Loss):
        def __init__(self):
            super().__init__()
            self.norm = nn.BatchNorm1d(3)

        def compute(self, embeddings, labels, ref_embeddings, ref_labels):
            return self.norm(embeddings).sum()

    assert NormStatistics(nn.ModuleList([Normed(), nn.BatchNorm1d(3)])).norms.keys() == {"1"}
    assert issubclass(BNNeck, Head)


def test_an_average_swaps_statistics_with_the_weights():
    norm = nn.BatchNorm1d(2)
    average = WeightAverage(dict(norm.named_parameters()), 0.5, 0.0, 4, statistics=dict(norm.named_buffers()))
    average.update(1)
    norm.running_mean.fill_(1)
    with applied(average):
        norm.running_mean.fill_(2)
        state = average.state_dict()
        assert torch.equal(state["statistics"]["running_mean"], torch.ones(2))
    assert torch.equal(norm.running_mean, torch.ones(2))
    with applied(average):
        assert torch.equal(norm.running_mean, torch.full((2,), 2.0))
