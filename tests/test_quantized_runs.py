"""Runs with a quantised backbone: what is printed, saved, resumed, loaded and refused."""

from __future__ import annotations

import json
import math
from pathlib import Path

import pytest
import torch
from pretrained import save_weights, tensors, vit
from safetensors.torch import load_file
from test_exactness import assert_same, interrupt_at
from test_resume import Said

import toolbox
from toolbox import api
from toolbox.builtins.quantizing.quantize import LinearQuantization
from toolbox.builtins.tune import BackboneTuning
from toolbox.engine.signals import Interrupted

# peft asks transformers for a property that transformers 5 is renaming
pytestmark = pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing` is deprecated:FutureWarning")

LORA, FROZEN = "dict(mode='lora',rank=2)", "dict(mode='frozen')"
SHORT = ["model.pool=cls", "train_cfg.max_steps=4", "train_cfg.val_interval=2", "default_hooks.checkpoint.interval=2"]


def quantised(weights: Path | None, tune: str = LORA, way: str = "bits=4") -> list[str]:
    return [*SHORT, vit(weights, tune), f"model.backbone.quantize=dict({way})"]


def problems(config) -> str:
    return "\n".join(str(problem) for problem in api.plan(config).problems)


@pytest.fixture
def weights(tmp_path):
    return save_weights(tmp_path / "weights")


def test_a_run_says_what_quantising_changed_and_writes_it(toy, weights):
    said = Said()
    results = toolbox.train(toy(quantised(weights)), out="w", console=said)
    line = next(line for line in said.lines if "layers are quantised" in line)
    assert "model.backbone: 12 layers are quantised (4 bits, nf4, bitsandbytes)" in line
    assert "Features of 8 training images against full precision: cosine 0." in line
    assert json.loads(Path("w/train_results.json").read_text())["quantization"] == results["quantization"]
    found = results["quantization"]["backbone"]
    assert (found["library"], found["bits"], found["kind"], found["layers"]) == ("bitsandbytes", 4, "nf4", 12)
    assert found["bytes"] < found["bytes_before"]
    assert 0.9 < found["feature_cosine_min"] <= found["feature_cosine_mean"] < 1
    assert 0 < found["feature_relative_error"] < 0.5
    # a control: 8 bits are nearer, and none are not mentioned
    eight = toolbox.train(toy(quantised(weights, way="bits=8")), out="v")["quantization"]["backbone"]
    assert eight["feature_relative_error"] < found["feature_relative_error"] / 3
    assert toolbox.train(toy([*SHORT, vit(weights, LORA)]), out="u")["quantization"] is None


def test_what_it_says_of_the_features_is_so(toy, weights):
    config = toy(quantised(weights))
    found = toolbox.train(config, out="w")["quantization"]["backbone"]
    from toolbox.engine.assemble import build_structure
    from toolbox.registry import build

    recipe = api.make_runnable(config, "cpu")
    dataset = build(recipe["train_dataloader"]["dataset"], "dataset")
    backbone = build_structure(recipe, 2).backbone
    backbone.load_weights()
    backbone.eval()
    preprocess = backbone.preprocess()
    chosen = [round(i * (len(dataset) - 1) / 7) for i in range(8)]
    images = preprocess.finish(preprocess.collate([preprocess(dataset[index]["image"]) for index in chosen]))
    with torch.no_grad():
        before = backbone(images).tokens[:, 0]
        LinearQuantization().apply(backbone)
        after = backbone(images).tokens[:, 0]
    cosines = torch.nn.functional.cosine_similarity(before.double(), after.double())
    assert math.isclose(found["feature_cosine_mean"], float(cosines.mean()), rel_tol=1e-6)
    assert math.isclose(found["feature_cosine_min"], float(cosines.min()), rel_tol=1e-6)
    error = (after - before).norm() / before.norm()
    assert math.isclose(found["feature_relative_error"], float(error), rel_tol=1e-4)


@pytest.mark.parametrize("way", ["bits=4,nested=True", "bits=8"])
@pytest.mark.parametrize("step", [1, 3])
def test_a_resumed_run_equals_the_uninterrupted_one(toy, weights, monkeypatch, step, way):
    config = toy(quantised(weights, "dict(mode='lora',rank=2,dropout=0.1)", way))
    whole = toolbox.train(config, out="whole")
    interrupt_at(monkeypatch, step)
    with pytest.raises(Interrupted):
        toolbox.train(config, out="stopped")
    results = toolbox.train(config, out="stopped", resume=True)
    assert_same(Path("whole"), Path("stopped"))
    assert results["quantization"] == whole["quantization"]
    assert results["after"] == whole["after"]


def test_a_checkpoint_holds_no_pretrained_weight_and_its_loaded_model_gives_the_same_features(toy, weights):
    config = toy(quantised(weights))
    results = toolbox.train(config, out="w")
    held = tensors("w/last")
    assert not [name for name in held if "nf4" in name or name.startswith("backbone.")]
    assert toolbox.evaluate(config, "w/best") == results["after"]
    manifest = json.loads(Path("w/last/manifest.json").read_text())
    assert "kind='nf4'" in manifest["frozen"]["backbone"]["quantize"]
    first, second = (toolbox.load("w/last", device="cpu").model.state_dict() for _ in range(2))
    assert any(name.endswith(".nf4") for name in first)
    assert all(torch.equal(first[name], second[name]) for name in first)


@pytest.mark.parametrize(
    ("way", "message"),
    [
        ({"kind": "fp4"}, "kind='fp4'"),
        ({"nested": True}, "nested=True"),
        ({"bits": 8}, "bits=8"),
        (None, "not quantised"),
    ],
)
def test_a_checkpoint_is_not_loaded_with_another_quantisation(toy, weights, way, message):
    toolbox.train(toy(quantised(weights)), out="w")
    overrides = {"model.backbone.quantize": None if way is None else {"bits": 4, **way}}
    with pytest.raises(toolbox.ToolboxError, match=message) as caught:
        toolbox.load("w/last", device="cpu", overrides=overrides)
    assert "kind='nf4'" in str(caught.value)


def test_a_plain_checkpoint_is_not_loaded_with_quantisation(toy, weights):
    toolbox.train(toy([*SHORT, vit(weights, LORA)]), out="w")
    with pytest.raises(toolbox.ToolboxError, match=r"is quantised by .*was not quantised"):
        toolbox.load("w/last", device="cpu", overrides={"model.backbone.quantize": {"bits": 4}})


# --- a trunk that was trained here -------------------------------------------------------------------------------
@pytest.mark.parametrize("tune", [LORA, FROZEN])
def test_a_trunk_of_an_earlier_run_is_loaded_before_it_is_quantised(toy, tune):
    toolbox.train(toy([*SHORT, vit(None)]), out="trunk")
    config = toy([*quantised(None, tune), "load_from=trunk/last", "load_parts=['model.backbone']"])
    assert any("tensors were taken from it (model.backbone)" in note for note in api.plan(config).notes)
    said = Said()
    found = toolbox.train(config, out="w", console=said)["quantization"]["backbone"]
    assert 0.9 < found["feature_cosine_min"] < 1
    line = next(line for line in said.lines if "tensors were taken" in line)
    trunk = load_file("trunk/last/model.safetensors")
    assert f"{sum(name.startswith('backbone.') for name in trunk)} tensors were taken" in line
    expected = toolbox.load("trunk/last", device="cpu").model.backbone
    LinearQuantization().apply(expected)
    if tune == LORA:
        BackboneTuning("lora", rank=2).apply(expected)
    held = load_file("w/last/model.safetensors")
    own = {f"backbone.{name}": tensor for name, tensor in expected.state_dict().items() if "lora_" not in name}
    assert {name for name in held if name.startswith("backbone.")} == own.keys(), "nothing else brings them back"
    assert all(torch.equal(held[name], tensor) for name, tensor in own.items())


def test_a_run_on_such_a_trunk_resumes_exactly_and_loads_alone(toy, monkeypatch):
    toolbox.train(toy([*SHORT, vit(None)]), out="trunk")
    config = toy([*quantised(None), "load_from=trunk/last", "load_parts=['model.backbone']"])
    results = toolbox.train(config, out="whole")
    interrupt_at(monkeypatch, 3)
    with pytest.raises(Interrupted):
        toolbox.train(config, out="stopped")
    assert toolbox.train(config, out="stopped", resume=True)["quantization"] == results["quantization"]
    assert_same(Path("whole"), Path("stopped"))
    assert toolbox.evaluate(config, "whole/best") == results["after"]
    with pytest.raises(toolbox.ToolboxError, match="another model: missing"):
        toolbox.load("whole/last", device="cpu", overrides={"model.backbone.quantize.kind": "fp4"})


def test_an_adapter_may_be_put_on_a_trunk_of_an_earlier_run_without_quantising_too(toy):
    toolbox.train(toy([*SHORT, vit(None)]), out="trunk")
    more = ["load_from=trunk/last", "load_parts=['model.backbone']", "optim_wrapper.optimizer.lr=0.0"]
    toolbox.train(toy([*SHORT, vit(None, LORA), *more]), out="w")
    there, here = tensors("trunk/last"), load_file("w/last/model.safetensors")
    for name, tensor in there.items():
        if name.startswith("backbone."):
            other = name if name in here else f"{name.rpartition('.')[0]}.base_layer.{name.rpartition('.')[2]}"
            assert torch.equal(here[other], tensor), name


def test_a_trunk_that_was_trained_on_pretrained_weights_says_what_to_do(toy, weights):
    toolbox.train(toy([*SHORT, vit(weights)]), out="trunk")
    config = [*quantised(weights), "load_from=trunk/last", "load_parts=['model.backbone']"]
    assert "weights=False" in problems(toy(config))
    toolbox.train(toy([*config, "model.backbone.weights=False"]), out="w")


# --- refused ------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("tune", ["dict(mode='full')", "dict(mode='last')", "None"])
def test_quantised_weights_are_not_trained(toy, tune):
    said = problems(toy(quantised(None, tune)))
    assert "model.backbone.tune: A quantised backbone cannot be trained" in said
    assert "mode='lora'" in said


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["env_cfg.parallel.mode=fsdp"], "env_cfg.parallel.mode: Quantised weights cannot be sharded"),
        (["env_cfg.compile=True"], "env_cfg.compile: torch.compile cannot translate"),
        (["model.backbone.quantize.compute=fp16"], "compute: This device cannot compute in fp16"),
        (["model.backbone.quantize.bits=3"], "model.backbone.quantize.bits: "),
        (["model.backbone.quantize.kind=nf3"], "'nf4' | 'fp4' | None is expected here"),
        (["model.backbone.quantize.nest=True"], "core.Quantize has no argument 'nest'"),
        (["model.backbone.quantize=4"], "A quantize is a dict"),
        (["model.head.quantize=dict(bits=4)"], "core.Projection has no argument 'quantize'"),
    ],
)
def test_what_does_not_go_together_is_refused_before_a_run(toy, options, message):
    assert message in problems(toy([*quantised(None), *options]))


def test_two_halves_do_not_mix_and_fp16_gradients_need_scaling():
    from toolbox.engine.quantizing import _contradiction

    def contradiction(compute, precision, frozen=False):
        return _contradiction(compute, precision, able, frozen=frozen)

    able = ("fp32", "fp16", "bf16")
    fine = [(None, "fp16"), (None, "bf16"), ("bf16", "bf16"), ("fp16", "fp16"), ("fp32", "bf16"), ("bf16", "fp32")]
    assert [contradiction(compute, precision) for compute, precision in fine] == [None] * len(fine)
    assert "do not mix" in contradiction("fp16", "bf16")
    assert "do not mix" in contradiction("bf16", "fp16")
    assert "need scaling" in contradiction("fp16", "fp32")
    assert contradiction("fp16", "fp32", frozen=True) is None


def test_the_check_counts_the_bytes_that_are_stored(toy, weights):
    plain, small = api.plan(toy([*SHORT, vit(weights, LORA)])), api.plan(toy(quantised(weights)))
    assert not small.problems
    assert small.memory["parameters"] < plain.memory["parameters"]
    assert any("12 layers are quantised" in note and "count what is stored" in note for note in small.notes)
    assert not any("quantised" in note for note in plain.notes)


def test_an_export_is_refused_with_the_way_to_the_adapter(toy, weights, tmp_path):
    toolbox.train(toy(quantised(weights)), out="w")
    for merge in (False, True):
        with pytest.raises(toolbox.ToolboxError, match="quantised") as caught:
            toolbox.export("w", tmp_path / "out", merge=merge)
        assert "adapters/backbone" in str(caught.value)
    assert not (tmp_path / "out").exists()


def test_peft_loads_the_checkpoints_adapter_on_full_precision(toy, weights):
    import peft
    from transformers import AutoModel

    toolbox.train(toy(quantised(weights)), out="w")
    base = AutoModel.from_pretrained(weights).eval()
    pixels = torch.randn(2, 3, 16, 16, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        before = base(pixels).last_hidden_state
        model = peft.PeftModel.from_pretrained(base, "w/last/adapters/backbone").eval()
        after = model(pixels).last_hidden_state
        ours = toolbox.load("w/last", device="cpu").model.backbone.eval()(pixels).tokens
    cosine = torch.nn.functional.cosine_similarity
    assert not torch.equal(before, after), "the adapter has learned something"
    assert cosine(ours, after, dim=-1).min() > 0.9
