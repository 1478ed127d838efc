"""Optimizers, schedules, early stopping, the core's own plugin and its devices."""

from __future__ import annotations

import subprocess
import sys

import pytest
import torch

from toolbox import base
from toolbox import plugin as interface
from toolbox.builtins import plugin as core
from toolbox.builtins.early_stop import EarlyStop
from toolbox.builtins.optim import SGD, AdamW
from toolbox.builtins.schedules import Constant, WarmupCosine
from toolbox.errors import ToolboxError


# --- optimizers --------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("fused", [False, True])
@pytest.mark.parametrize("optimizer", [AdamW(lr=0.1, betas=[0.8, 0.9], eps=1e-6), SGD(lr=0.1, nesterov=True)])
def test_optimizers_keep_the_settings_of_groups(optimizer, fused):
    first, second = torch.nn.Parameter(torch.ones(2)), torch.nn.Parameter(torch.ones(2))
    groups = [{"params": [first], "lr": 0.0, "weight_decay": 0.0}, {"params": [second]}]
    built = optimizer.build(groups, fused)
    assert [group["lr"] for group in built.param_groups] == [0.0, 0.1]
    assert [group["weight_decay"] for group in built.param_groups] == [0.0, optimizer.weight_decay]
    assert all(bool(group["fused"]) == fused for group in built.param_groups)
    (first.sum() + second.sum()).backward()
    built.step()
    assert torch.equal(first, torch.ones(2))
    assert (second < 1).all()


def test_arguments_reach_torch():
    parameters = [{"params": [torch.nn.Parameter(torch.ones(2))]}]
    adam = AdamW(lr=0.1, betas=[0.8, 0.9], eps=1e-6).build(parameters, False).defaults
    assert (adam["betas"], adam["eps"]) == ((0.8, 0.9), 1e-6)
    sgd = SGD(lr=0.1, momentum=0.8, nesterov=True).build(parameters, False).defaults
    assert (sgd["momentum"], sgd["nesterov"]) == (0.8, True)


@pytest.mark.parametrize(
    ("kind", "wrong"),
    [
        (AdamW, {"lr": -1}),
        (AdamW, {"lr": float("nan")}),
        (AdamW, {"betas": [0.9]}),
        (AdamW, {"betas": [0.9, 1.0]}),
        (AdamW, {"weight_decay": -0.1}),
        (SGD, {"momentum": 1.0}),
        (SGD, {"momentum": 0.0, "nesterov": True}),
    ],
)
def test_optimizers_refuse(kind, wrong):
    with pytest.raises(ValueError, match=next(reversed(wrong))):
        kind(**wrong)


# --- schedules ---------------------------------------------------------------------------------------------------
def test_warmup_cosine_at_its_ends():
    schedule = WarmupCosine(warmup=10, final=0.1)
    factors = [schedule.factor(step, 110) for step in range(110)]
    assert factors[0] == pytest.approx(1 / 11), "the first update is not lost"
    assert factors[9] == pytest.approx(10 / 11)
    assert factors[10] == 1.0 == max(factors)
    assert factors[60] == pytest.approx(0.55), "half way down"
    assert 0.1 < factors[-1] < 0.1005
    assert factors == sorted(factors[:11]) + sorted(factors[11:], reverse=True)
    assert schedule.factor(110, 110) == pytest.approx(0.1)


def test_warmup_is_a_share_below_one_and_steps_from_one_on():
    assert WarmupCosine(warmup=0.1).factor(3, 100) == WarmupCosine(warmup=10).factor(3, 100) == pytest.approx(4 / 11)
    assert WarmupCosine(warmup=1).factor(0, 100) == 0.5
    assert WarmupCosine(warmup=0).factor(0, 100) == 1.0


@pytest.mark.parametrize("steps", [1, 2, 3])
@pytest.mark.parametrize("warmup", [0, 0.05, 1, 0.9])
def test_no_update_of_a_short_run_is_lost(steps, warmup):
    assert all(WarmupCosine(warmup=warmup).factor(step, steps) > 0.1 for step in range(steps))


def test_schedules_refuse():
    with pytest.raises(ValueError, match="warmup=20 steps is longer than the run of 10"):
        WarmupCosine(warmup=20).factor(0, 10)
    for wrong in ({"warmup": -1}, {"warmup": 1.5}, {"final": -0.1}):
        with pytest.raises(ValueError, match=next(iter(wrong))):
            WarmupCosine(**wrong)


def test_constant():
    assert [Constant().factor(step, 3) for step in range(3)] == [1.0] * 3


# --- early stopping ----------------------------------------------------------------------------------------------
class Run:
    reason = None

    def stop(self, reason):
        self.reason = reason


def stopped_after(hook, values):
    """How many evaluations it took until the run was stopped, None if it was not."""
    run = Run()
    for count, value in enumerate(values, 1):
        hook.after_evaluate(run, {"recall@1": value, "loss": -value})
        if run.reason:
            return count
    return None


def test_early_stop_counts_evaluations_without_a_new_best():
    assert stopped_after(EarlyStop(patience=2), [0.1, 0.2, 0.2, 0.3, 0.3, 0.2, 0.9]) == 6
    assert stopped_after(EarlyStop(patience=2), [0.1, 0.1, 0.2, 0.1, 0.3]) is None
    assert stopped_after(EarlyStop(patience=2, min_delta=0.05), [0.1, 0.14, 0.12]) == 3
    assert stopped_after(EarlyStop(patience=2, min_delta=0.05), [0.1, 0.14, 0.16]) is None
    assert stopped_after(EarlyStop("loss", patience=2, mode="min"), [0.1, 0.2, 0.1, 0.1]) == 4
    assert stopped_after(EarlyStop("loss", patience=2, mode="max"), [0.1, 0.2, 0.1, 0.1]) == 3
    assert stopped_after(EarlyStop(patience=2), [float("nan"), float("nan")]) == 2


def test_early_stop_survives_a_resume():
    hook = EarlyStop(patience=2)
    assert stopped_after(hook, [0.5, 0.4]) is None
    resumed = EarlyStop(patience=2)
    resumed.load_state_dict(hook.state_dict())
    assert stopped_after(resumed, [0.45]) == 1
    assert stopped_after(EarlyStop(patience=2), [0.45]) is None


def test_early_stop_refuses():
    with pytest.raises(ToolboxError, match=r"'recall',.*Set metric to one of loss, recall@1"):
        EarlyStop("recall").after_evaluate(Run(), {"recall@1": 0.1, "loss": 0.2})
    for wrong in ({"patience": 0}, {"mode": "best"}, {"min_delta": -1}):
        with pytest.raises(ValueError, match=next(iter(wrong))):
            EarlyStop(**wrong)


# --- the plugin --------------------------------------------------------------------------------------------------
def test_components_are_named_once_and_their_kinds_exist():
    components = core.toolbox_components()
    assert len({component.name for component in components}) == len(components)
    kinds = [*interface.KINDS, *(kind.name for kind in core.toolbox_kinds())]
    assert {component.kind for component in components} <= set(kinds)
    assert all(component.summary for component in components)
    for component in components:  # the class of one that is called as its contract has another name
        same_name = component.target.endswith(f":{component.name}")
        assert same_name != hasattr(base, component.name), component


def test_declaring_components_imports_nothing_heavy():
    code = (
        "import sys; from toolbox.builtins.plugin import toolbox_components as c, toolbox_device as d; "
        "c(); d('npu'); sys.exit(bool({'torch', 'numpy', 'PIL'} & set(sys.modules)))"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


@pytest.fixture
def gpus(monkeypatch):
    """Pretend that the machine has so many GPUs."""

    def pretend(count, bf16=True):
        monkeypatch.setattr(torch.cuda, "is_available", lambda: count > 0)
        monkeypatch.setattr(torch.cuda, "device_count", lambda: count)
        monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda: bf16)

    return pretend


def test_devices(gpus):
    gpus(0)
    cpu = core.toolbox_device("cpu")
    assert core.toolbox_device("auto") == cpu
    assert (str(cpu), cpu.backend, cpu.precisions, cpu.fused_optimizer) == ("cpu", "gloo", ("fp32", "bf16"), True)
    gpus(2)
    assert core.toolbox_device("cpu") == cpu
    assert core.toolbox_device("auto") == core.toolbox_device("cuda")
    assert str(core.toolbox_device("cuda")) == "cuda"
    second = core.toolbox_device("cuda:1")
    assert (str(second), second.index, second.backend) == ("cuda:1", 1, "nccl")
    assert second.precisions == ("fp32", "fp16", "bf16")
    gpus(1, bf16=False)
    assert core.toolbox_device("cuda").precisions == ("fp32", "fp16")
    for unknown in ("npu", "cpu:0", "auto:1", "cuda:", "cuda:x", "CUDA", "", "cuda:1 "):
        assert core.toolbox_device(unknown) is None, unknown


def test_absent_gpus(gpus):
    gpus(0)
    for requested in ("cuda", "cuda:0"):
        with pytest.raises(ValueError, match=f"'{requested}' was asked for.*Try device='cpu'"):
            core.toolbox_device(requested)
    gpus(2)
    with pytest.raises(ValueError, match=r"the last GPU here is cuda:1\. Try device='cuda:1' or device='cpu'"):
        core.toolbox_device("cuda:2")
