"""Two processes share the shards of a feature cache, and train on it as with the backbone at work."""

from __future__ import annotations

from pathlib import Path

import group
import torch
from safetensors.torch import load_file

from toolbox.engine.checkpoint import checkpoint as checkpoints


def test_two_processes_share_the_work_and_train_alike(tmp_path):
    group.run(2, Path(__file__).parent / "cached_features.py", tmp_path)
    first, second = (torch.load(tmp_path / f"{rank}.pt") for rank in range(2))
    assert first["written"]
    assert second["written"]
    assert not set(first["written"]) & set(second["written"])
    assert len(first["written"]) + len(second["written"]) == 5 + 2
    assert first["ddp"]["features"]["computed"] == 130 + 64
    assert first["fsdp"]["features"]["found"] == 130 + 64
    assert first["live"]["before"] == first["ddp"]["before"] == first["fsdp"]["before"]
    expected = load_file(tmp_path / "live/last/model.safetensors")
    for mode in ("ddp", "fsdp"):
        found = checkpoints.read(tmp_path / mode / "last").model_tensors()
        assert found.keys() == expected.keys()
        assert max((found[name] - expected[name]).abs().max().item() for name in found) < 1e-5
    files = [(tmp_path / mode / "bad_items.jsonl") for mode in ("live", "ddp", "fsdp")]
    assert len({file.read_text() if file.exists() else "" for file in files}) == 1
