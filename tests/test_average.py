"""Averages of weights: their numbers, which weights are evaluated and saved, and resuming."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest
import torch
from pretrained import TUNES, save_weights, tensors, vit
from safetensors.torch import load_file
from test_exactness import interrupt_at, same
from test_resume import Said, interrupted, metrics
from torch import nn

import toolbox
from toolbox import api
from toolbox.engine.checkpoint import checkpoint as checkpoints
from toolbox.engine.hooks.average import WeightAverage, WeightAveraging, applied, start_step
from toolbox.engine.setup import set_up
from toolbox.engine.trainer import Trainer

EMA = "optim_wrapper.average=dict(decay=0.8)"
SWA = "optim_wrapper.average=dict(decay=None,start=0.5)"


def walk(decay, start=1, steps=9):
    """A parameter that walks at random, its average, and all its values."""
    torch.manual_seed(0)
    parameter = nn.Parameter(torch.randn(4, 3, dtype=torch.float64))
    average = WeightAverage({"p": parameter}, decay, start, steps)
    values = []
    for step in range(1, steps + 1):
        with torch.no_grad():
            parameter.add_(torch.randn_like(parameter))
        average.update(step)
        values.append(parameter.detach().clone())
    return parameter, average, values


def shown(average, parameter):
    with applied(average):
        return parameter.detach().clone()


def test_the_exponential_average_is_its_formula():
    parameter, average, values = walk(0.9)
    expected = values[0]
    for value in values[1:]:
        expected = 0.9 * expected + 0.1 * value
    torch.testing.assert_close(shown(average, parameter), expected, rtol=1e-12, atol=1e-12)
    assert torch.equal(parameter, values[-1])  # the weights themselves are untouched


def test_the_equal_average_is_the_mean_from_its_start_on():
    parameter, average, values = walk(None, start=4)
    torch.testing.assert_close(shown(average, parameter), torch.stack(values[3:]).mean(0), rtol=1e-12, atol=1e-12)
    assert average.count == 6


def test_before_its_start_there_is_no_average():
    parameter, average, values = walk(0.9, start=20)
    assert average.count == 0
    assert torch.equal(shown(average, parameter), values[-1])
    assert average.state_dict()["weights"] == {}


def test_the_start_is_a_share_or_a_step():
    assert [start_step(start, 100) for start in (0.0, 0.1, 0.101, 0.99, 1, 1.0, 40)] == [1, 10, 11, 99, 1, 1, 40]


def test_an_error_inside_leaves_the_weights_in_place():
    parameter, average, values = walk(0.5)
    with pytest.raises(RuntimeError), applied(average):
        raise RuntimeError
    assert torch.equal(parameter, values[-1])


def test_frozen_weights_are_neither_copied_nor_averaged(toy, tmp_path):
    save_weights(tmp_path / "a")
    recipe = toolbox.config.complete(
        toolbox.config.to_dict(toy([vit(tmp_path / "a", TUNES[1]), "model.pool=cls", EMA]))
    )
    run = Trainer(set_up(recipe, tmp_path / "w"))
    (average,) = (hook.average for hook in run.hooks if isinstance(hook, WeightAveraging))
    kept = sum(tensor.numel() for tensor in average._averages.parameters())
    trained = sum(parameter.numel() for parameter in run.model.parameters() if parameter.requires_grad)
    assert kept == trained < sum(parameter.numel() for parameter in run.model.parameters()) / 3
    run.setup.unlock()


@pytest.fixture
def raw(monkeypatch):
    """The trained parameters after every step of a run, before anything is averaged."""
    seen = []
    original = WeightAverage.update

    def update(self, step):
        seen.append([parameter.detach().clone() for parameter in self._weights])
        original(self, step)

    monkeypatch.setattr(WeightAverage, "update", update)
    return seen


@pytest.mark.parametrize("setting", [EMA, SWA])
def test_checkpoints_hold_averages_and_training_goes_on_from_the_weights(toy, raw, setting):
    toolbox.train(toy(), out="plain")
    options = [setting, "default_hooks.checkpoint.max_keep_ckpts=9"]
    toolbox.train(toy(options), out="w")
    plain, averaged = tensors("plain/last"), tensors("w/last")
    state = load_file("w/last/state.safetensors")
    weights = {name.removeprefix("average/weights/"): t for name, t in state.items() if "average/weights/" in name}
    assert weights.keys() == plain.keys()
    assert same(weights, plain)  # averaging changes nothing of the training
    assert not same(averaged, plain)
    names = json.loads(Path("w/last/state.json").read_text())["update"]["names"]
    rows = dict(zip(names, zip(*raw, strict=True), strict=True))
    for name, values in rows.items():
        if setting == SWA:
            expected = torch.stack(values[5:]).double().mean(0)
        else:
            expected = values[0].double()
            for value in values[1:]:
                expected = 0.8 * expected + 0.2 * value.double()
        torch.testing.assert_close(averaged[name].double(), expected, rtol=1e-5, atol=1e-6)


def test_what_was_judged_is_what_is_loaded(toy):
    options = [EMA, "test_dataloader=dict(dataset=dict(type='toy.Noise',seed=2),batch_size=16,num_workers=0)"]
    options += [
        "test_evaluator=dict(type='retrieval.Recall',ks=[1,3])",
        "val_evaluator=dict(type='retrieval.Recall',ks=[1,3])",
    ]
    options += ["optim_wrapper.optimizer.lr=0.02"]
    results = toolbox.train(toy(options), out="w")
    assert toolbox.evaluate(toy(options), "w", split="test") == results["after"]
    assert toolbox.evaluate(toy(options), "w/best", split="val") == results["best"]["metrics"]
    logged = [json.loads(line) for line in Path("w/metrics.jsonl").read_text().splitlines()]
    logged = [line for line in logged if "val/recall@1" in line and line["step"]]
    judged = [{k: v for k, v in line.items() if k.startswith("val/")} for line in logged]
    plain = toolbox.train(toy([*options, "optim_wrapper.average=None"]), out="plain")
    assert plain["after"] != results["after"] or plain["best"]["metrics"] != results["best"]["metrics"]
    assert len(judged) == 2
    last = toolbox.evaluate(toy(options), "w/last", split="val")
    assert {f"val/{name}": value for name, value in last.items()} == judged[-1]


def finished(folder: str) -> tuple:
    """All that a run leaves: weights, training state, the chosen checkpoint, its log."""
    last = Path(folder, "last")
    return tensors(last), load_file(last / "state.safetensors"), os.readlink(f"{folder}/best"), metrics(folder)


def assert_finished_alike(a: str, b: str) -> None:
    for one, other in zip(finished(a), finished(b), strict=True):
        assert same(one, other) if isinstance(one, dict) else one == other
    assert any(name.startswith("average/weights/") for name in finished(a)[1])


@pytest.mark.parametrize("setting", [EMA, SWA])
@pytest.mark.parametrize("step", [3, 6, 7, 12])
def test_a_resumed_run_equals_the_uninterrupted_one(toy, monkeypatch, setting, step):
    toolbox.train(toy([setting]), out="whole")
    interrupt_at(monkeypatch, step)
    interrupted(toy([setting]), out="stopped")
    results = toolbox.train(toy([setting]), out="stopped", resume=True)
    assert_finished_alike("whole", "stopped")
    assert results["after"] == json.loads(Path("whole/train_results.json").read_text())["after"]


@pytest.mark.parametrize("tune", TUNES)
def test_it_resumes_in_every_way_of_tuning(toy, monkeypatch, tmp_path, tune):
    save_weights(tmp_path / "a")
    options = [vit(tmp_path / "a", tune), "model.pool=cls", "optim_wrapper.precision=bf16", EMA]
    toolbox.train(toy(options), out="whole")
    interrupt_at(monkeypatch, 7)
    interrupted(toy(options), out="stopped")
    toolbox.train(toy(options), out="stopped", resume=True)
    assert_finished_alike("whole", "stopped")
    toolbox.train(toy([*options, "optim_wrapper.average=None"]), out="plain")
    assert not same(tensors("plain/last"), tensors("whole/last"))  # negative control


def test_a_resumed_run_that_forgets_its_weights_would_differ(toy, monkeypatch):
    """Negative control: going on from the averages is another training."""
    toolbox.train(toy([EMA]), out="whole")
    interrupt_at(monkeypatch, 7)
    interrupted(toy([EMA]), out="stopped")
    monkeypatch.setattr("toolbox.engine.hooks.average.restore_weights", lambda parameters, saved: None)
    toolbox.train(toy([EMA]), out="stopped", resume=True)
    assert not same(finished("whole")[0], finished("stopped")[0])


def test_switching_it_off_or_on_when_resuming(toy, monkeypatch):
    toolbox.train(toy(), out="plain")
    with monkeypatch.context() as patch:
        interrupt_at(patch, 7)
        interrupted(toy([EMA]), out="off")
    said = Said()
    toolbox.train(toy(), out="off", resume=True, console=said)
    assert any("recipe differs" in line and "average" in line for line in said.lines)
    assert same(tensors("plain/last"), tensors("off/last"))
    interrupt_at(monkeypatch, 7)
    interrupted(toy(), out="on")
    toolbox.train(toy([EMA]), out="on", resume=True)
    state = json.loads(Path("on/last/state.json").read_text())
    assert state["average"]["count"] == 5


def test_a_finished_run_that_is_resumed_gives_the_same_again(toy):
    first = toolbox.train(toy([EMA, "train_cfg.val_interval=5"]), out="w")
    again = toolbox.train(toy([EMA, "train_cfg.val_interval=5"]), out="w", resume=True)
    assert again["after"] == first["after"]
    assert again["best"] == first["best"]


def test_running_statistics_are_those_of_the_averages(toy):
    options = ["model.head=dict(type='core.BNNeck')"]
    toolbox.train(toy(options), out="plain")
    toolbox.train(toy([*options, EMA]), out="w")
    plain, averaged = tensors("plain/last"), tensors("w/last")
    for name in ("running_mean", "running_var"):  # estimated anew; the newest would be of other weights
        assert not torch.equal(plain[f"head.norm.{name}"], averaged[f"head.norm.{name}"])
    assert not torch.equal(plain["head.norm.weight"], averaged["head.norm.weight"])


# peft asks transformers for a property that transformers 5 is renaming
@pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing` is deprecated:FutureWarning")
def test_adapters_hold_averages_that_peft_loads(toy, tmp_path):
    peft = pytest.importorskip("peft")
    from transformers import DINOv3ViTModel

    save_weights(tmp_path / "a")
    options = [
        vit(tmp_path / "a", TUNES[1]),
        "model.pool=cls",
        "model.head=None",
        EMA,
        "optim_wrapper.optimizer.lr=0.02",
    ]
    toolbox.train(toy(options), out="w")
    encoder = toolbox.load("w/last")
    alone = peft.PeftModel.from_pretrained(
        DINOv3ViTModel.from_pretrained(tmp_path / "a"), "w/last/adapters/backbone"
    ).eval()
    pixels = torch.randn(2, 3, 16, 16)
    with torch.inference_mode():
        torch.testing.assert_close(
            alone(pixels).last_hidden_state, encoder.model.backbone(pixels).tokens, rtol=1e-4, atol=1e-5
        )


@pytest.mark.parametrize(
    ("setting", "message"),
    [
        ("dict(decay=1.0)", "decay lies between 0 and 1"),
        ("dict(decay=0.0)", "decay lies between 0 and 1"),
        ("dict(decay=-0.1)", "decay lies between 0 and 1"),
        ("dict(start=-1)", "neither a share nor a step"),
        ("dict(start=1.5)", "neither a share nor a step"),
        ("dict(start=13)", "would start at step 13, and the run has 12"),
        ("dict(decya=0.9)", "Did you mean 'decay'?"),
        ("dict(decay='much')", "expected here"),
    ],
)
def test_settings_that_make_no_sense_are_refused(toy, setting, message):
    found = api.check_config(toy([f"optim_wrapper.average={setting}"]))
    assert message in "\n".join(map(str, found))


def test_none_is_an_equal_average_and_absent_is_the_default(toy):
    recipe = toolbox.config.complete(toolbox.config.to_dict(toy(["optim_wrapper.average=dict()"])))
    assert recipe["optim_wrapper"]["average"] == {"decay": 0.999, "start": 0.0}
    equal = toolbox.config.complete(toolbox.config.to_dict(toy(["optim_wrapper.average=dict(decay=None)"])))
    assert equal["optim_wrapper"]["average"]["decay"] is None
    assert toolbox.config.complete(equal) == equal
    assert toolbox.config.complete(toolbox.config.to_dict(toy()))["optim_wrapper"]["average"] is None


def test_a_decay_that_is_too_slow_for_the_run_is_told(toy):
    assert any(
        "99% the weights of its first step" in note for note in api.plan(toy(["optim_wrapper.average=dict()"])).notes
    )
    assert not any("first step" in note for note in api.plan(toy(["optim_wrapper.average=dict(decay=0.5)"])).notes)
    assert not any("first step" in note for note in api.plan(toy([SWA])).notes)


def test_checkpoints_from_before_there_were_averages_resume(toy, monkeypatch):
    interrupt_at(monkeypatch, 5)
    interrupted(toy(), out="w")
    original = checkpoints.Checkpoint.state

    def older(self, into):
        return {key: value for key, value in original(self).items() if key != "average"}

    monkeypatch.setattr(checkpoints.Checkpoint, "state", older)
    assert toolbox.train(toy(), out="w", resume=True)["steps"] == 12
