"""The memory that `--check` announces, against a real step on the CPU."""

from __future__ import annotations

import pytest
import torch

from toolbox.base import Batch
from toolbox.engine.assemble import apply_tuning, build_structure
from toolbox.engine.memory import Peak, step_memory

VIT = dict(hidden_size=64, num_hidden_layers=4, num_attention_heads=4, patch_size=8)
ROWS, SIZE = 6, 96


def build(where: str, tune: dict, checkpointing: bool = False, **changes):
    backbone = dict(type="dinov3.ViT", name=None, arch=VIT, size=SIZE, tune=tune, gradient_checkpointing=checkpointing)
    recipe = dict(type="retrieval.Embedder", backbone=backbone, head=dict(type="core.Projection", dim=16)) | changes
    with torch.device(where):
        model = build_structure({"model": recipe}, classes=3)
        apply_tuning(model)
    return model.train()


def measured(model) -> int:
    pixels = torch.randn(ROWS, 3, SIZE, SIZE)
    with Peak() as peak:
        for tensor in (*model.parameters(), *model.buffers(), pixels):
            peak.leave_out(tensor)
        rows = model(Batch.example({"image": pixels}), "encode")["embeddings"]
        rows.backward(torch.ones_like(rows))
        return peak.peak


@pytest.mark.parametrize("checkpointing", [False, True])
@pytest.mark.parametrize("mode", ["full", "lora", "last", "frozen"])
def test_the_estimate_is_what_a_real_step_takes(mode, checkpointing):
    tune = dict(mode=mode)
    told, _ = step_memory(build("meta", tune, checkpointing), {"image": ROWS}, "fp32", None)
    assert told["activations and gradients"] == pytest.approx(measured(build("cpu", tune, checkpointing)), rel=0.1)
    assert told["inputs"] == ROWS * 3 * SIZE * SIZE * 4


def estimate(precision="fp32", chunk=None, rows=32, **options) -> int:
    model = build("meta", options.pop("tune", dict(mode="full")), **options)
    return step_memory(model, {"image": rows}, precision, chunk)[0]["activations and gradients"]


def test_what_saves_memory_is_seen_to_save_it():
    plain = estimate()
    assert 0.5 * plain < estimate("bf16") < 0.8 * plain
    assert estimate("bf16") == estimate("fp16")
    assert estimate(checkpointing=True) < 0.5 * plain
    assert estimate(chunk=8) == pytest.approx(estimate(rows=8), rel=0.01)
    assert estimate(chunk=64) == plain


def test_the_functions_of_torch_are_put_back():
    functional = torch.nn.functional
    before = functional.linear, functional.scaled_dot_product_attention, functional.layer_norm
    estimate("bf16")
    broken = build("meta", dict(mode="full"))
    broken.head.stack[0] = torch.nn.Linear(5, 8, device="meta")
    with pytest.raises(RuntimeError, match="same reduction dim"):
        step_memory(broken, {"image": 2}, "fp32", None)
    assert before == (functional.linear, functional.scaled_dot_product_attention, functional.layer_norm)


def test_trainable_tensors_that_no_gradient_reaches_are_named():
    assert step_memory(build("meta", dict(mode="lora")), {"image": 2}, "fp32", None)[1] == []
    model = build("meta", dict(mode="full"))
    assert step_memory(model, {"image": 2}, "fp32", None)[1] == ["backbone.model.embeddings.mask_token"]


def test_an_adapter_that_is_never_called_is_refused(toy):
    from toolbox.api import plan

    config = toy({"model.backbone.tune": dict(mode="lora", rank=2)})
    assert plan(config).problems == []
    config = toy({"model.backbone": dict(type="toy.Bypassed", tune=dict(mode="lora", rank=2))})
    found = plan(config).problems
    assert len(found) == 1
    assert "would never learn" in found[0].message
    assert found[0].where.endswith("model.backbone.tune")
