"""Tiny pretrained weights on disk, and overrides that put them into the toy recipe."""

from __future__ import annotations

from pathlib import Path

import torch
from safetensors.torch import load_file

from toolbox.base import ImagePreprocess
from toolbox.utils.export_formats import save_processor

ARCH = dict(hidden_size=16, num_hidden_layers=2, num_attention_heads=2, intermediate_size=32, patch_size=8)
IMAGES = ImagePreprocess((16, 16), (0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
TUNES = ["dict(mode='full')", "dict(mode='lora',rank=2,dropout=0.1)", "dict(mode='last')"]


def save_weights(folder: Path, *, seed: int = 3) -> Path:
    """A local model folder in Hugging Face's format, with weights large enough to matter."""
    from transformers import DINOv3ViTConfig, DINOv3ViTModel

    torch.manual_seed(seed)
    model = DINOv3ViTModel(DINOv3ViTConfig(**ARCH, num_register_tokens=0, image_size=16))
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn_like(parameter) * 0.05)
    model.save_pretrained(folder)
    save_processor(folder, IMAGES)
    return folder


def vit(weights: Path | str | None, tune: str = TUNES[0], size: int = 16) -> str:
    """An override that puts a pretrained ViT into the toy recipe; None for weights means random ones."""
    name = f"name=None,arch=dict({','.join(f'{k}={v}' for k, v in ARCH.items())})" if weights is None else None
    name = name or f"name={str(weights)!r}"
    return f"model.backbone=dict(type='dinov3.ViT',{name},size={size},tune={tune})"


def tensors(folder: str | Path) -> dict[str, torch.Tensor]:
    """Everything of a model that a checkpoint holds: model.safetensors and the adapters."""
    folder = Path(folder)
    found = load_file(folder / "model.safetensors")
    for file in sorted(folder.glob("adapters/*/adapter_model.safetensors")):
        found |= {f"{file.parent.name}/{key}": value for key, value in load_file(file).items()}
    return found


def with_hooks(monkeypatch, *hooks):
    """Runs have these hooks too, after those of their recipes."""
    from toolbox.engine import setup

    original = setup.set_up

    def set_up(*arguments, **options):
        made = original(*arguments, **options)
        made.hooks += hooks
        return made

    monkeypatch.setattr(setup, "set_up", set_up)
