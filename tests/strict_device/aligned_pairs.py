"""Encoders of texts and dual encoders on the device "strict", and on the processor, whose numbers they must give."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import toolbox
from toolbox.config import apply_changes
from toolbox.engine.console import QuietConsole

CONTRACT = [str(Path(__file__).parent.parent / "contract_plugin.py")]
VIT = dict(hidden_size=16, num_hidden_layers=2, num_attention_heads=2, intermediate_size=32, patch_size=8)
QWEN3 = dict(
    hidden_size=16, num_hidden_layers=2, num_attention_heads=2, num_key_value_heads=1, head_dim=8, intermediate_size=32
)
BERT = dict(model_type="bert", hidden_size=16, num_hidden_layers=2, num_attention_heads=2, intermediate_size=32)
TEXTS = ["black", "a white square of noise", "gray number 3"]
QWEN = dict(type="qwen3.Embedding", name=None, arch=QWEN3)
HEAD = dict(type="alignment.GatedMLP", dim=8, expansion=2.0)
DINO = dict(backbone=dict(type="dinov3.ViT", name=None, arch=VIT, size=16), head=HEAD)
WORDS = dict(backbone=QWEN, pool="last", head=HEAD)
TITLES = dict(backbone=dict(type="encoders.HFText", name=None, arch=BERT), pool="mean", head=HEAD)
RECIPE: dict[str, Any] = dict(
    plugins=CONTRACT,
    model=dict(
        type="alignment.DualEncoder", vision=dict(image=DINO), text=dict(text=WORDS), loss=dict(type="losses.CLIP")
    ),
    train_dataloader=dict(dataset=dict(type="contract.Captions", count=16), batch_size=5, num_workers=0, augment=None),
    val_dataloader=dict(dataset=dict(type="contract.Captions"), batch_size=4, num_workers=0),
    val_evaluator=[dict(type="alignment.ZeroShot", prompts=["{}", "a {} image"], ks=[1, 2])],
    optim_wrapper=dict(optimizer=dict(type="core.AdamW", lr=1e-3), clip_grad=dict(max_norm=1.0)),
    train_cfg=dict(max_steps=2, val_interval=1),
    custom_hooks=[dict(type="alignment.ChanceWatch", after=1.0)],
)
SEVERAL: dict[str, Any] = {
    "model.vision": dict(
        image=DINO, small=dict(backbone=dict(type="contract.Patches", dropout=0.0), pool="mean", head=HEAD)
    ),
    "model.text": dict(text=WORDS, title=TITLES),
    "model.loss": dict(type="losses.SigLIP"),
    "model.tower_dropout": 0.5,
}
ALIGNED: dict[str, dict[str, Any]] = {
    "dual encoder": {},
    "dual encoder of several towers": SEVERAL,
    "fused dual encoder in chunks": {
        **SEVERAL,
        "model.compare": "fused",
        "optim_wrapper.grad_cache": dict(chunk_size=2),
    },
    "stored dual encoder": {
        "model.vision.image.backbone.tune": dict(mode="frozen"),
        "model.text.text.backbone.tune": dict(mode="frozen"),
        "features": dict(folder="features"),
    },
}


def align(name: str) -> None:
    """A run with zero-shot evaluation; then the model encodes and classifies."""
    from cases import agree

    from toolbox.registry import add_local

    add_local(CONTRACT)
    config = apply_changes(RECIPE, ALIGNED[name], CONTRACT)
    found = {}
    for device in ("strict", "cpu"):
        found[device] = toolbox.train(config, out=device, device=device, console=QuietConsole())
        assert found[device]["device"] == device
    for key in ("before", "after", "best"):
        agree(found["strict"][key], found["cpu"][key], path=key)
    images = [toolbox.build(dict(type="contract.Captions"))[index]["image"] for index in range(3)]
    rows, answers = {}, {}
    for device in ("strict", "cpu"):
        encoder = toolbox.load("strict", device=device)
        rows[device] = [encoder.encode_image(images).tolist(), encoder.encode_text(TEXTS).tolist()]
        answers[device] = [dict(answer) for answer in encoder.classify(images, TEXTS, prompts=["a {}"])]
    agree(_number(rows["strict"]), _number(rows["cpu"]), 1e-4)
    agree(_number(answers["strict"]), _number(answers["cpu"]), 1e-4)


def _number(value: Any) -> Any:
    """Lists as dicts, which `agree` goes through."""
    if isinstance(value, list):
        return {index: _number(item) for index, item in enumerate(value)}
    return value


def encode_texts() -> None:
    """Encoders of texts: tokens of a padded batch, the pooled vector, and gradients."""
    import torch
    from cases import agree

    from toolbox.registry import build
    from toolbox.utils.pool import make_pool

    hf = dict(type="encoders.HFText", name=None, arch=BERT)
    for setting, mode in ((QWEN, "last"), (QWEN | {"dim": 8}, "last"), (hf, "mean"), (hf, "cls")):
        found = {}
        for device in ("cpu", "strict"):
            torch.manual_seed(0)
            backbone = build(setting, "backbone").to(device).eval()
            preprocess = backbone.preprocess()
            batch = preprocess.finish(preprocess.collate([preprocess(text) for text in TEXTS]))
            inputs = {name: value.to(device) for name, value in batch.items()}
            pooled = make_pool(mode)(backbone(inputs))
            assert pooled.device.type == device
            pooled.square().sum().backward()
            norms = {name: p.grad.norm().item() for name, p in backbone.named_parameters() if p.grad is not None}
            found[device] = pooled.tolist(), norms
        for strict, cpu in zip(found["strict"], found["cpu"], strict=True):
            agree(_number(strict), _number(cpu), 1e-4, str(setting))
