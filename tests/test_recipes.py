"""The recipes that ship: they are whole, and need the memory that docs/jobs/retrieval.md says."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from offline_encoders import stand_in_for_hub

from toolbox.api import plan
from toolbox.config import load_config

ROOT = Path(__file__).parents[1]
PAGE = (ROOT / "docs" / "jobs" / "retrieval.md").read_text(encoding="utf-8")
RECIPES = sorted(path for path in (ROOT / "configs").rglob("*.py") if "_base_" not in path.parts)


LARGE = ("dinov3_food101_4bit.py", "dinov3_qwen3_clip.py")
"""Recipes whose check takes long; those that begin with them are checked at once."""


def mark_slow(value, *, slow):
    """A parameter of a test, maybe of `make test-slow` alone."""
    values = value if isinstance(value, tuple) else (value,)
    return pytest.param(*values, marks=[pytest.mark.slow] if slow else [])


@pytest.mark.parametrize(
    "recipe",
    [mark_slow(path, slow=path.name in LARGE and path.parent.name == "configs") for path in RECIPES],
    ids=lambda path: str(path.relative_to(ROOT)),
)
def test_every_recipe_is_whole_but_for_its_data(recipe):
    found = plan(load_config(recipe, stand_in_for_hub(recipe)), data=False, device="cpu")
    assert found.problems == []
    assert found.parts
    assert found.memory["parameters"] > 0


def cells() -> list[tuple[str, int, int, bool]]:
    """(encoder, GB of the card, chunk size, gradient checkpointing) of the page's table."""
    rows = re.findall(r"^\| `([\w-]+)`[^|]*\|([^|]+)\|([^|]+)\|([^|]+)\|$", PAGE, re.MULTILINE)
    return [
        (name, card, int(re.search(r"\d+", cell)[0]), "gradient_checkpointing" in cell)
        for name, *texts in rows
        for card, cell in zip((24, 40, 80), texts, strict=True)
    ]


def test_the_table_is_found():
    assert len(cells()) == 27


@pytest.mark.parametrize(
    ("name", "card", "chunk", "checkpointing"),
    [mark_slow(cell, slow=cell[0] not in ("vits16", "vitb16")) for cell in cells() if cell[1] != 40],
)
def test_the_chunk_of_the_page_fits_the_card(name, card, chunk, checkpointing):
    options = {
        "model.backbone.type": "dinov3.ConvNeXt" if name.startswith("convnext") else "dinov3.ViT",
        "model.backbone.name": name,
        "optim_wrapper.grad_cache.chunk_size": chunk,
        "model.backbone.gradient_checkpointing": checkpointing,
    }
    found = plan(load_config(ROOT / "configs" / "dinov3_sop.py", options), data=False, device="cpu")
    assert found.problems == []
    assert sum(found.memory.values()) < 0.85 * card * 1e9


ALIGN = (ROOT / "docs" / "jobs" / "align.md").read_text(encoding="utf-8")
MODES = ("adapters on 4 bits", "adapters", "all weights")


@pytest.mark.parametrize(
    ("image", "text", "mode", "shown"),
    [
        pytest.param(image, text, mode, float(cell), marks=pytest.mark.slow)
        for image, text, *cells in re.findall(
            r"^\| `(\w+)`, `([\w.]+)` \| ([\d.]+) \| ([\d.]+) \| ([\d.]+) \|$", ALIGN, re.MULTILINE
        )
        for mode, cell in zip(MODES, cells, strict=True)
    ],
)
def test_the_memory_of_the_alignment_page_is_what_a_check_says(image, text, mode, shown, tmp_path):
    rows = [f'{{"query_image": "{number}.jpg", "positive": "text {number}"}}\n' for number in range(300)]
    for number in range(300):
        (tmp_path / f"{number}.jpg").touch()
    for split in ("train", "val", "test"):
        (tmp_path / f"{split}.jsonl").write_text("".join(rows))
    towers = ("model.vision.image.backbone", "model.text.text.backbone")
    options = {f"{tower}.name": name for tower, name in zip(towers, (image, text), strict=True)}
    options |= {"train_dataloader.dataset.root": str(tmp_path), "train_cfg.max_epochs": 2000}
    for tower in towers:
        if mode == "adapters on 4 bits":
            options[f"{tower}.quantize"] = dict(bits=4, nested=True)
        elif mode == "all weights":
            options[f"{tower}.tune"] = dict(mode="full")
    found = plan(load_config(ROOT / "configs" / "dinov3_qwen3_clip.py", options), device="cpu")
    assert sum(found.memory.values()) / 1e9 == pytest.approx(shown, abs=0.06)
