"""WiSE-FT: exact ends, mixes of every way of tuning, and the mix that a run chooses, saves and tests."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from pretrained import TUNES, save_weights, tensors, vit
from safetensors.torch import load_file
from test_exactness import interrupt_at, same
from test_resume import Said, interrupted

import toolbox
from toolbox import api
from toolbox.config import complete, to_dict
from toolbox.engine.assemble import pretrained
from toolbox.engine.checkpoint import checkpoint as checkpoints
from toolbox.engine.hooks.wise_ft import Interpolation, best_alpha
from toolbox.registry import get_catalog

WISE = "train_cfg.wise_ft=dict()"
PIXELS = torch.randn(3, 3, 16, 16, generator=torch.Generator().manual_seed(0))


@pytest.fixture
def weights(tmp_path):
    return save_weights(tmp_path / "a")


def options(weights, tune: str = TUNES[0]) -> list[str]:
    return [
        vit(weights, tune),
        "model.pool=cls",
        "optim_wrapper.optimizer.lr=0.01",
        "val_evaluator=dict(type='retrieval.Recall',ks=[1,3])",
    ]


def tokens(model) -> torch.Tensor:
    with torch.inference_mode():
        return model.backbone(PIXELS).tokens


@pytest.mark.parametrize("tune", TUNES)
def test_a_mix_is_the_linear_mix_of_the_weights(toy, weights, tune):
    config = toy(options(weights, tune))
    toolbox.train(config, out="w")
    trained = toolbox.load("w/last").model
    recipe = complete(to_dict(config))
    names = []

    def source(wanted):
        names.extend(wanted)
        return pretrained(recipe, 16, wanted)

    mixed = toolbox.load("w/last").model
    mix = Interpolation(mixed, source)
    assert bool(names) != ("lora" in tune), "adapters alone need no pretrained weights again"
    zero = toolbox.build(config)
    zero.backbone.load_weights()
    mix.set(0.0)
    assert torch.equal(tokens(mixed), tokens(zero.eval()))
    mix.set(1.0)
    assert torch.equal(tokens(mixed), tokens(trained))
    assert not torch.equal(tokens(mixed), tokens(zero))
    mix.set(0.3)
    states = [{key: t.clone() for key, t in model.state_dict().items()} for model in (trained, mixed)]
    for name, value in states[1].items():
        one = states[0][name]
        if not name.startswith("backbone."):
            assert torch.equal(value, one), name  # heads and losses stay
        elif ".lora_B." in name:
            torch.testing.assert_close(value, 0.3 * one)
        elif ".lora_A." in name or "base_layer" in name:
            assert torch.equal(value, one), name
        elif "lora" not in tune:
            torch.testing.assert_close(value, 0.7 * zero.state_dict()[name] + 0.3 * one)
    assert any(not torch.equal(states[0][name], states[1][name]) for name in states[0])


def test_the_effective_weight_of_an_adapter_is_mixed_exactly(toy, weights):
    config = toy(options(weights, TUNES[1]))
    toolbox.train(config, out="w")
    model = toolbox.load("w/last").model.double()
    layer = next(module for name, module in model.named_modules() if name.endswith("up_proj"))
    delta = layer.get_delta_weight("default").clone()
    assert delta.abs().sum() > 0
    Interpolation(model, lambda names: {}).set(0.25)
    torch.testing.assert_close(layer.get_delta_weight("default"), 0.25 * delta, rtol=1e-12, atol=1e-14)


class Steps:
    """Makes the validation number a function of how far the weights are from the pretrained ones."""

    def __init__(self, monkeypatch, numbers):
        self.numbers = dict(numbers)
        nearest = get_catalog().resolve("retrieval.Recall")
        monkeypatch.setattr(nearest, "compute", lambda metric: {"recall@1": self.numbers[self.alpha]})
        original = Interpolation.set

        def set_(mix, alpha):
            self.alpha = alpha
            original(mix, alpha)

        monkeypatch.setattr(Interpolation, "set", set_)
        self.alpha = 1.0


@pytest.mark.parametrize("tune", TUNES)
def test_the_best_mix_is_saved_tested_and_loaded(toy, weights, monkeypatch, tune):
    test = "test_dataloader=dict(dataset=dict(type='toy.Noise',seed=2),batch_size=16,num_workers=0)"
    config = toy([*options(weights, tune), WISE, test, "test_evaluator=dict(type='toy.Nearest')"])
    with monkeypatch.context() as patch:
        Steps(patch, {0.0: 0.2, 0.25: 0.3, 0.5: 0.9, 0.75: 0.6, 1.0: 0.5})
        results = toolbox.train(config, out="w")
    assert results["wise_ft"]["alpha"] == 0.5
    assert list(results["wise_ft"]["val"]) == ["0", "0.25", "0.5", "0.75", "1"]
    assert json.loads(Path("w/train_results.json").read_text())["wise_ft"] == results["wise_ft"]
    manifest = json.loads(Path("w/wise_ft/manifest.json").read_text())
    assert manifest["wise_ft"] == {"alpha": 0.5}
    assert manifest["step"] == results["best"]["step"]
    mixed, best = toolbox.load("w/wise_ft").model, toolbox.load("w/best").model
    Interpolation(best, lambda names: pretrained(complete(to_dict(config)), 16, names)).set(0.5)
    assert torch.equal(tokens(mixed), tokens(best))
    assert torch.equal(tokens(toolbox.load("w").model), tokens(mixed)), "a run's folder means what was tested"
    assert toolbox.evaluate(config, "w") == results["after"]
    assert checkpoints.read("w").path.name == "wise_ft"


def test_a_run_on_real_numbers_is_never_worse_on_validation(toy, weights):
    results = toolbox.train(toy([*options(weights), WISE, "optim_wrapper.optimizer.lr=0.05"]), out="w")
    found = results["wise_ft"]
    chosen = found["val"][f"{found['alpha']:g}"]["recall@1"]
    assert chosen == max(numbers["recall@1"] for numbers in found["val"].values())
    assert chosen >= found["val"]["1"]["recall@1"] == results["best"]["value"]
    assert results["after"]["recall@1"] == chosen
    assert toolbox.evaluate(toy(options(weights)), "w/wise_ft", split="val")["recall@1"] == chosen
    assert len({numbers["recall@1"] for numbers in found["val"].values()}) > 1, "the mixes must differ"
    # the pretrained end is the backbone as it came, under the trained head
    assert found["val"]["0"] != found["val"]["1"]


def test_command_line_reads_the_mix(toy, weights, capsys):
    from toolbox.cli import test

    toolbox.train(toy([*options(weights), WISE]), out="w")
    recipe = str(Path(__file__).parent / "toy_recipe.py")
    assert test.main([recipe, "w/wise_ft", "--cfg-options", *options(weights)]) == 0
    assert "recall@1" in capsys.readouterr().out


def test_with_averages_it_starts_from_what_was_judged(toy, weights):
    more = ["optim_wrapper.average=dict(decay=0.5)", "train_cfg.val_interval=5"]
    results = toolbox.train(toy([*options(weights), WISE, *more]), out="w")
    assert results["wise_ft"]["val"]["1"] == results["best"]["metrics"]
    again = toolbox.evaluate(toy(options(weights)), "w/best", split="val")
    assert again == results["best"]["metrics"]


def test_of_equal_mixes_the_nearest_to_the_trained_one_wins():
    found = {0.0: {"m": 1.0}, 0.5: {"m": 1.0}, 1.0: {"m": 0.5}}
    assert best_alpha(found, "m", greater=True) == 0.5
    assert best_alpha(found, "m", greater=False) == 1.0
    assert best_alpha({0.0: {"m": float("nan")}, 1.0: {"m": 0.1}}, "m", greater=True) == 1.0
    assert best_alpha({0.0: {"m": float("nan")}, 1.0: {"m": 0.1}}, "m", greater=False) == 1.0


def test_infinite_buffers_stay(toy, weights):
    config = toy(options(weights))
    toolbox.train(config, out="w")
    model = toolbox.load("w/last").model
    model.backbone.register_buffer("mask", torch.full((2,), -torch.inf))
    known = pretrained(complete(to_dict(config)), 16, set(model.state_dict()))
    mix = Interpolation(model, lambda names: known | {"backbone.mask": model.backbone.mask.clone()})
    model.backbone.weights_id = "tiny"
    mix.set(0.5)
    assert model.backbone.mask.isneginf().all()


@pytest.mark.parametrize("step", [6, 12])
def test_a_resumed_run_makes_the_same_mix(toy, weights, monkeypatch, step):
    config = toy([*options(weights), WISE])
    whole = toolbox.train(config, out="whole")
    interrupt_at(monkeypatch, step)
    interrupted(config, out="stopped")
    assert not Path("stopped/wise_ft").exists()
    resumed = toolbox.train(config, out="stopped", resume=True)
    assert resumed["wise_ft"] == whole["wise_ft"]
    assert same(tensors("whole/wise_ft"), tensors("stopped/wise_ft"))
    state = load_file("whole/last/state.safetensors")
    assert not [name for name in state if "pretrained" in name]


def test_a_signal_while_mixing_leaves_a_run_that_can_go_on(toy, weights, monkeypatch):
    import signal

    config = toy([*options(weights), WISE])
    whole = toolbox.train(config, out="whole")
    original = Interpolation.set

    def set_(self, alpha):
        original(self, alpha)
        if alpha == 0.25:
            signal.raise_signal(signal.SIGTERM)

    with monkeypatch.context() as patch:
        patch.setattr(Interpolation, "set", set_)
        interrupted(config, out="stopped")
    assert not Path("stopped/wise_ft").exists()
    assert toolbox.train(config, out="stopped", resume=True)["wise_ft"] == whole["wise_ft"]


def test_a_longer_run_forgets_the_mix_of_its_first_end(toy, weights, monkeypatch):
    toolbox.train(toy([*options(weights), WISE]), out="w")
    assert checkpoints.read("w").path.name == "wise_ft"
    interrupt_at(monkeypatch, 3)
    interrupted(toy([*options(weights), "train_cfg.max_steps=20"]), out="w", resume=True)
    assert checkpoints.read("w").path.name.startswith("checkpoint-")
    toolbox.train(toy([*options(weights), WISE]), out="w", overwrite=True)
    toolbox.train(toy(options(weights)), out="w", overwrite=True)
    assert not Path("w/wise_ft").exists()


def test_no_training_continues_from_a_mix_but_a_new_run_may_start(toy, weights):
    toolbox.train(toy([*options(weights), WISE]), out="w")
    with pytest.raises(toolbox.ToolboxError, match="weights alone"):
        toolbox.train(toy(options(weights)), out="v", resume="w/wise_ft")
    more = ["load_from=w/wise_ft", "optim_wrapper.optimizer.lr=0.0"]
    toolbox.train(toy([*options(weights), *more]), out="u")
    assert same(tensors("u/last"), tensors("w/wise_ft"))


def test_the_curve_is_a_finding(toy, weights):
    from toolbox.base import Curve
    from toolbox.engine.run_results import collect_report_items
    from toolbox.engine.setup import set_up
    from toolbox.engine.trainer import Trainer

    run = Trainer(set_up(complete(to_dict(toy([*options(weights), WISE]))), Path("w"), console=Said()))
    run.run()
    _, items = collect_report_items(run, {})
    curve = next(item for item in items if isinstance(item, Curve) and item.title == "WiSE-FT")
    assert [alpha for alpha, _ in curve.series["recall@1"]] == [0.0, 0.25, 0.5, 0.75, 1.0]


@pytest.mark.parametrize(
    ("more", "message"),
    [
        (["train_cfg.wise_ft.alphas=[0.0,0.5]"], "alphas hold 1.0"),
        (["train_cfg.wise_ft.alphas=[]"], "alphas hold 1.0"),
        (["train_cfg.wise_ft.alphas=[1.0]"], "and at least one other"),
        (["train_cfg.wise_ft.alphas=[1.0,1.0]"], "and at least one other"),
        (["train_cfg.wise_ft.alphas=[0.0,1.0,1.5]"], "1.5 does not"),
        (["train_cfg.wise_ft.alphas=[-0.5,1.0]"], "-0.5 does not"),
        (["train_cfg.wise_ft.alpha=[1.0]"], "Did you mean 'alphas'?"),
        (["val_dataloader=None", "val_evaluator=None"], "on the validation set, and there is none"),
        (["model.backbone.weights=False"], "no backbone has both"),
        (["model.backbone.tune=dict(mode='frozen')"], "no backbone has both"),
    ],
)
def test_what_makes_no_sense_is_refused(toy, weights, more, message):
    found = api.check_config(toy([*options(weights), WISE, *more]))
    assert message in "\n".join(map(str, found))


def test_random_weights_have_no_zero_shot_to_mix_with(toy):
    with pytest.raises(toolbox.ToolboxError, match="mixes pretrained with trained weights"):
        toolbox.train(toy([WISE]), out="w")
    assert not Path("w").exists()


def test_integer_alphas_are_fine_and_duplicates_are_judged_once(toy, weights):
    results = toolbox.train(toy([*options(weights), "train_cfg.wise_ft.alphas=[0,1,1.0,0.5]"]), out="w")
    assert list(results["wise_ft"]["val"]) == ["0", "0.5", "1"]
