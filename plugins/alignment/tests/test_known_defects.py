"""What scripts that align towers are known to do wrong, each with the test that it cannot happen here.

Seventeen defects of one public script, in the order of their numbers. Where the proof stands elsewhere too, the test
here is the shortest that would fail.
"""

from __future__ import annotations

import json
import math
import re
from pathlib import Path

import pytest
import torch
from contract_parts import Shades
from test_contracts_in_runs import HEAD, RUN, data, recipe
from test_exactness import assert_same, interrupt_at
from toolbox_alignment.dual_encoder import fuse
from toolbox_losses.clip import CLIP
from toolbox_losses.siglip import SigLIP

import toolbox
from toolbox.base import Features, average_patches
from toolbox.builtins.optim import AdamW
from toolbox.engine.param_groups import parameter_groups
from toolbox.engine.signals import Interrupted
from toolbox.errors import ToolboxError
from toolbox.planning import plan
from toolbox.registry import build
from toolbox.utils.pool import make_pool

QWEN3 = dict(
    hidden_size=16, num_hidden_layers=2, num_attention_heads=2, num_key_value_heads=1, head_dim=8, intermediate_size=32
)
ARCH = dict(hidden_size=16, num_hidden_layers=2, num_attention_heads=2, intermediate_size=32, patch_size=8)
WORDS = dict(type="qwen3.Embedding", name=None, arch=QWEN3)
IMAGE = dict(backbone=dict(type="contract.Patches"), pool="mean", head=HEAD)
SMALL = dict(backbone=dict(type="contract.Patches", dim=8, patch=8, weights="small"), pool="mean", head=HEAD)
TEXT = dict(backbone=dict(type="contract.Letters", weights="letters"), pool="last", head=HEAD)
PAIR = RUN | dict(
    model=dict(
        type="alignment.DualEncoder", vision=dict(image=IMAGE), text=dict(text=TEXT), loss=dict(type="losses.CLIP")
    ),
    **data("contract.Captions"),
    val_evaluator=dict(type="alignment.ZeroShot", ks=[1]),
)
SHORT = dict(train_cfg__max_steps=2, train_cfg__val_interval=None, val_dataloader=None, val_evaluator=None)
FROZEN = dict(mode="frozen")


@pytest.fixture(autouse=True)
def folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


def model_of(config: dict):
    """The model of a recipe, ready to train: connected and tuned."""
    return plan(config).dry_run.model


def read(backbone, texts: list[str]) -> dict[str, torch.Tensor]:
    preprocess = backbone.preprocess()
    return preprocess.finish(preprocess.collate([preprocess(text) for text in texts]))


@torch.no_grad()
def test_01_a_model_of_last_tokens_is_not_averaged():
    backbone = build(WORDS, "backbone").eval()
    inputs = read(backbone, ["a red apple", "one"])
    out = backbone.model(**inputs).last_hidden_state
    ends = inputs["attention_mask"].sum(dim=1) - 1
    expected = out[torch.arange(2), ends]
    for pool in ("last", "cls"):
        torch.testing.assert_close(make_pool(pool)(backbone(inputs)), expected, rtol=0, atol=1e-5)
    assert (make_pool("mean")(backbone(inputs)) - expected).norm(dim=1).min() > 0.1


def test_02_the_mask_is_the_tokenizers_and_no_comparison_of_ids():
    backbone = build(WORDS, "backbone")
    inputs, pad = read(backbone, ["a red apple", "one"]), backbone.preprocess().tokenizer.pad
    ids, mask = inputs["input_ids"], inputs["attention_mask"]
    assert pad != 0, "padding is not 0"
    ends = ids[torch.arange(2), mask.sum(dim=1) - 1]
    assert (ends == pad).all(), "padding is also what ends a text, which must be read"
    assert (mask != (ids != pad)).sum() == 2
    assert mask.sum(dim=1).tolist() == [len("a red apple") + 1, len("one") + 1]


def test_03_ids_are_those_of_a_tokenizer():
    backbone = build(WORDS, "backbone")
    tokenizer = backbone.preprocess().tokenizer.open()
    ids = read(backbone, ["a red apple"])["input_ids"]
    assert tokenizer.decode(ids[0].tolist()) == "a red apple"
    assert torch.equal(ids, read(backbone, ["a red apple"])["input_ids"])


def log_rates(**options) -> list[float]:
    """The learning rate of each step of a run, as it is logged."""
    changes = {**SHORT, "train_cfg__max_steps": 6, "default_hooks__logger__interval": 1, **options}
    toolbox.train(recipe(PAIR, **changes), out="run")
    lines = [json.loads(line) for line in Path("run/metrics.jsonl").read_text().splitlines()]
    return [line["lr"] for line in lines if "loss" in line]


def test_04_warm_up_happens():
    rates = log_rates(param_scheduler=[dict(type="core.WarmupCosine", warmup=3)])
    assert rates[:4] == pytest.approx([1e-3 * share / 4 for share in (1, 2, 3, 4)])
    assert rates[4] < rates[3]


def test_05_the_schedule_can_be_another():
    rates = log_rates(param_scheduler=[dict(type="core.Constant")])
    assert rates == pytest.approx([1e-3] * 6)


@pytest.mark.parametrize("kind", [CLIP, SigLIP])
def test_06_the_scale_stays_below_a_hundred(kind):
    loss = kind()
    loss.log_scale.data.fill_(9.0)
    loss.after_step()
    assert loss.log_scale.item() == pytest.approx(math.log(100))
    if kind is CLIP:
        loss.log_scale.data.fill_(-3.0)
        loss.after_step()
        assert loss.log_scale.item() == 0


def test_06_also_in_a_run():
    changes = {
        **SHORT,
        "model__loss__log_scale": 4.6,
        "optim_wrapper__optimizer": dict(type="core.SGD", lr=1e4),
        "optim_wrapper__clip_grad": None,
        "optim_wrapper__on_nonfinite": "skip",
    }
    toolbox.train(recipe(PAIR, **changes), out="run")
    (scale,) = (
        value for name, value in toolbox.load("run/last").model.named_parameters() if name.endswith("log_scale")
    )
    assert 0 <= scale.item() <= math.log(100) + 1e-6


def test_07_norms_biases_and_scales_are_not_decayed():
    model = model_of(recipe(PAIR, model__loss=dict(type="losses.SigLIP")))
    decayed = {name for group in groups_of(model) if group.weight_decay for name in group.params}
    every = {name for name, parameter in model.named_parameters() if parameter.requires_grad}
    assert all(model.get_parameter(name).ndim > 1 for name in decayed)
    assert {"criterion.image-text.log_scale", "criterion.image-text.bias"} <= every - decayed
    assert "vision.image.head.stack.0.weight" in decayed


def groups_of(model):
    return parameter_groups(model, AdamW(lr=1e-3, weight_decay=0.05), {})


def test_08_the_table_of_parts_says_what_trains():
    config = recipe(PAIR, model__vision__image__backbone__tune=FROZEN)
    parts = plan(config).parts
    rows = {(row.name, row.trainable, row.lr) for row in parts if row.name == "model.vision.image.backbone"}
    assert rows == {("model.vision.image.backbone", 0, None)}
    for name in ("model.vision.image.head", "model.text.text.backbone", "model.text.text.head", "model.criterion"):
        assert all(row.trainable == row.parameters > 0 for row in parts if row.name == name), name
        assert name in {row.name for row in parts}
    model = model_of(config)
    trained = sum(parameter.numel() for parameter in model.parameters() if parameter.requires_grad)
    assert sum(row.trainable for row in parts) == trained


def test_09_a_tower_has_one_head_and_frozen_means_the_whole_backbone():
    model = model_of(recipe(PAIR, model__vision__image__backbone__tune=FROZEN))
    tower = model.vision["image"]
    assert not any(parameter.requires_grad for parameter in tower.backbone.parameters())
    assert all(parameter.requires_grad for parameter in tower.head.parameters())
    assert [name for name, _ in tower.named_children()] == ["backbone", "pool", "head"]
    assert not any(parameter.requires_grad for parameter in tower.pool.parameters())
    linear = [module for module in tower.head.modules() if isinstance(module, torch.nn.Linear)]
    assert len(linear) == 1, "projected twice"


def test_10_fused_embeddings_have_length_1():
    rows = {name: torch.randn(5, 4, generator=torch.Generator().manual_seed(seed)) for seed, name in enumerate("ab")}
    torch.testing.assert_close(fuse(rows).norm(dim=1), torch.ones(5))
    plain = sum(torch.nn.functional.normalize(value) for value in rows.values()) / 2
    assert (plain.norm(dim=1) < 0.99).any()


def test_11_rows_and_columns_are_of_all_processes():
    """tests/processes/test_aligned.py has 2 and 4 processes; uneven second views are a shape that one process has."""
    x, y = (torch.randn(rows, 4, generator=torch.Generator().manual_seed(rows)) for rows in (5, 8))
    assert CLIP()(x, ref_embeddings=y).shape == SigLIP()(x, ref_embeddings=y).shape == ()
    with pytest.raises(ValueError, match="5 second views"):
        CLIP()(y, ref_embeddings=x)


def test_12_weights_of_pairs_act_and_unknown_ones_are_refused():
    two = dict(model__vision=dict(image=IMAGE, small=SMALL))
    losses = []
    for weights in ({"small-text": 0.0}, {"small-text": 9.0}):
        changes = {**SHORT, **two, "model__weights": weights, "train_cfg__max_steps": 1}
        toolbox.train(recipe(PAIR, **changes, default_hooks__logger__interval=1), out=f"run{len(losses)}")
        lines = Path(f"run{len(losses)}/metrics.jsonl").read_text().splitlines()
        losses.append(next(json.loads(line) for line in lines if "loss" in line))
    assert losses[0]["loss"] == pytest.approx(losses[0]["loss_image-text"])
    first, second = losses[1]["loss_image-text"], losses[1]["loss_small-text"]
    assert losses[1]["loss"] == pytest.approx((first + 9 * second) / 10)
    with pytest.raises(ToolboxError, match="names the pair 'image-words', and there are"):
        toolbox.train(recipe(PAIR, model__weights={"image-words": 1.0}), out="refused")
    with pytest.raises(ToolboxError, match="Did you mean 'fused'"):
        toolbox.train(recipe(PAIR, model__compare="fuse"), out="refused")


@torch.no_grad()
def test_13_the_mean_of_patches_leaves_cls_and_registers_out():
    backbone = build(dict(type="dinov3.ViT", name=None, arch=ARCH | {"num_register_tokens": 4}, size=16), "backbone")
    features = backbone.eval()(torch.rand(2, 3, 16, 16))
    assert features.prefix == 5
    assert features.tokens.shape[1] == 5 + 4
    torch.testing.assert_close(make_pool("mean")(features), features.tokens[:, 5:].mean(dim=1))
    other = features.tokens.clone()
    other[:, :5] += 7
    torch.testing.assert_close(average_patches(Features(other, 5, features.grid)), make_pool("mean")(features))


def test_14_towers_have_weights_and_parts_of_their_own():
    small = SMALL | {"backbone": SMALL["backbone"] | {"tune": FROZEN}}
    twin = IMAGE | {"backbone": IMAGE["backbone"] | {"weights": "other"}}
    config = recipe(PAIR, model__vision=dict(image=IMAGE, small=small, twin=twin), **SHORT)
    toolbox.train(config, out="run")
    towers = toolbox.load("run/last").model.vision
    assert (towers["image"].backbone.dim, towers["small"].backbone.dim) == (16, 8)
    weights = [towers[name].backbone.embed.weight for name in ("image", "twin")]
    assert weights[0] is not weights[1]
    assert (weights[0] - weights[1]).abs().max() > 0.1, "the same file was read for both"
    assert {f"model.vision.{name}.backbone" for name in towers} <= {row.name for row in plan(config).parts}


def test_15_a_run_is_resumed_bit_for_bit(monkeypatch):
    config = recipe(PAIR, val_dataloader=None, val_evaluator=None, train_cfg__val_interval=None)
    toolbox.train(config, out="whole")
    interrupt_at(monkeypatch, 3)
    with pytest.raises(Interrupted):
        toolbox.train(config, out="parts")
    toolbox.train(config, out="parts", resume=True)
    assert_same(Path("whole"), Path("parts"))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (
            dict(optim_wrapper__parts={"model.vision.img.backbone": dict(lr=1e-4)}),
            "no part 'model.vision.img.backbone'",
        ),
        (
            dict(model__vision__image__backbone__tune=dict(mode="unfreeze")),
            "'frozen' | 'lora' | 'last' | 'full' is expected",
        ),
        (dict(model__vision__image__backbone__tune=dict(mode="last", last=9)), "this backbone has 1 blocks"),
        (
            dict(
                model__text__text__backbone__tune=FROZEN,
                optim_wrapper__parts={"model.text.text.backbone": dict(lr=1e-4)},
            ),
            "is frozen, so its settings have no effect",
        ),
    ],
)
def test_16_parts_that_do_not_exist_are_an_error(changes, message):
    with pytest.raises(ToolboxError, match=re.escape(message)):
        toolbox.train(recipe(PAIR, **changes, **SHORT), out="run")


def test_17_classes_are_compared_at_the_learned_scale():
    toolbox.train(recipe(PAIR, **SHORT, model__loss__log_scale=1.0), out="run")
    encoder = toolbox.load("run/last")
    images, names = [Shades()[index]["image"] for index in range(3)], Shades().classes
    (scale,) = (value for name, value in encoder.model.named_parameters() if name.endswith("log_scale"))
    assert 0.9 < scale.item() < 1.1
    rows, texts = encoder.encode_image(images), encoder.encode_text([f"a photo of a {name}." for name in names])
    answers = encoder.classify(images, names)
    for factor, is_equal in ((scale.exp().item(), True), (100.0, False)):
        expected = (factor * rows @ texts.T).softmax(dim=1).max(dim=1).values.tolist()
        found = [answer[0][1] for answer in answers]
        assert (found == pytest.approx(expected, rel=1e-4)) == is_equal


def test_17_trained_items_in_a_test_set_are_counted():
    few = dict(type="core.FewItems", dataset=dict(type="glyphs.Glyphs", split="train", size=16), count=8)
    loader = dict(dataset=few, batch_size=4)
    metric = dict(type="alignment.ZeroShot", ks=[1])
    changes = {**SHORT, "train_dataloader": loader | {"augment": None}, "test_dataloader": loader}
    config = recipe(PAIR, **changes, test_evaluator=metric, evaluate_before=False)
    assert toolbox.train(config, out="run")["after"]["trained_items"] == 8
    said = []
    assert toolbox.evaluate(config, "run", log=said.append)["trained_items"] == 8
    assert any("All 8 items of the test set were trained on" in text for text in said)
