"""core.AdamW8bit: its state, its steps against AdamW's, and runs that are resumed with it."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from test_exactness import assert_same, interrupt_at

import toolbox
from toolbox.builtins.optim import AdamW, AdamW8bit
from toolbox.builtins.quantizing import libraries
from toolbox.engine.signals import Interrupted

WIDE = ["model.backbone.width=64", "optim_wrapper.optimizer=dict(type='core.AdamW8bit',lr=1e-3,weight_decay=0.05)"]


def descend(optimizer, steps: int = 60) -> tuple[torch.optim.Optimizer, list[float]]:
    """Fit a small network to another one; the loss at each step."""
    torch.manual_seed(0)
    inputs, teacher = torch.randn(64, 48), torch.nn.Linear(48, 8)
    model = torch.nn.Sequential(torch.nn.Linear(48, 128), torch.nn.GELU(), torch.nn.Linear(128, 8))
    built = optimizer.build([{"params": list(model.parameters())}], fused=False)
    losses = []
    for _ in range(steps):
        loss = (model(inputs) - teacher(inputs).detach()).square().mean()
        built.zero_grad()
        loss.backward()
        built.step()
        losses.append(loss.item())
    return built, losses


def test_it_learns_as_fast_as_adamw_with_a_quarter_of_the_state():
    plain, expected = descend(AdamW(lr=3e-3))
    small, found = descend(AdamW8bit(lr=3e-3))
    assert expected[-1] < 0.2 * expected[0]
    assert found != expected
    assert found[-1] == pytest.approx(expected[-1], rel=0.05)
    parameter = next(p for p in small.state if p.numel() == 48 * 128)
    held = [value for value in small.state[parameter].values() if isinstance(value, torch.Tensor)]
    tables = 2 * 256 * 4  # the same for every parameter of a device
    assert sum(value.nbytes for value in held) - tables < 0.27 * 2 * parameter.nbytes
    assert sum(v.nbytes for v in plain.state[next(p for p in plain.state if p.numel() == 48 * 128)].values()) > 48000


def test_tensors_below_4096_numbers_keep_theirs_in_32_bits():
    built, _ = descend(AdamW8bit(lr=1e-3), steps=1)
    types = {parameter.numel(): state["state1"].dtype for parameter, state in built.state.items()}
    assert types == {48 * 128: torch.uint8, 128: torch.float32, 128 * 8: torch.float32, 8: torch.float32}


def test_groups_keep_their_rate_and_decay():
    still, moved = torch.nn.Parameter(torch.ones(64, 64)), torch.nn.Parameter(torch.ones(64, 64))
    decayed = torch.nn.Parameter(torch.ones(64, 64))
    groups = [
        {"params": [still], "lr": 0.0, "weight_decay": 0.0},
        {"params": [moved], "weight_decay": 0.0},
        {"params": [decayed], "lr": 0.1, "weight_decay": 0.5},
    ]
    built = AdamW8bit(lr=0.1).build(groups, fused=True)
    (still.sum() + moved.sum() + 0 * decayed.sum()).backward()
    built.step()
    assert torch.equal(still, torch.ones(64, 64))
    assert (moved < 1).all()
    torch.testing.assert_close(decayed.detach(), torch.full((64, 64), 0.95))


@pytest.mark.parametrize("options", [[], ["env_cfg.channels_last=True"]], ids=["", "channels last"])
@pytest.mark.parametrize("step", [1, 5])
def test_a_resumed_run_equals_the_uninterrupted_one(toy, monkeypatch, step, options):
    config = toy([*WIDE, *options])
    toolbox.train(config, out="whole")
    kinds = {tensor.dtype for tensor in load_file("whole/last/state.safetensors").values()}
    assert torch.uint8 in kinds, "something is in 8 bits"
    interrupt_at(monkeypatch, step)
    with pytest.raises(Interrupted):
        toolbox.train(config, out="stopped")
    toolbox.train(config, out="stopped", resume=True)
    assert_same(Path("whole"), Path("stopped"))


def test_its_state_is_not_that_of_adamw(toy, monkeypatch):
    interrupt_at(monkeypatch, 5)
    with pytest.raises(Interrupted):
        toolbox.train(toy(WIDE), out="w")
    with pytest.raises(toolbox.ToolboxError, match="AdamW8bit, which AdamW cannot continue"):
        toolbox.train(toy([WIDE[0]]), out="w", resume=True)


def test_without_the_library_it_says_what_to_install(monkeypatch):
    monkeypatch.setattr(libraries, "is_installed", lambda name: False)
    with pytest.raises(ValueError, match="pip install bitsandbytes"):
        AdamW8bit().build([{"params": [torch.nn.Parameter(torch.ones(2))]}], fused=False)
    with pytest.raises(ValueError, match="betas"):
        AdamW8bit(betas=[0.9])


def test_it_cannot_update_sharded_weights_and_says_so_at_check(toy):
    fsdp = "env_cfg.parallel.mode=fsdp"
    (problem,) = toolbox.check_config(toy([*WIDE, fsdp]))
    assert "AdamW8bit cannot update weights that are spread over processes" in problem.message
    assert problem.where.endswith("optim_wrapper.optimizer")
    assert toolbox.check_config(toy([WIDE[0], fsdp])) == []
