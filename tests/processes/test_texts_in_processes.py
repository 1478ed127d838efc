"""Two processes read the texts that one would read, live and stored."""

from __future__ import annotations

from pathlib import Path

import group
import torch

from toolbox.engine.checkpoint import checkpoint as checkpoints
from toolbox.feature_cache.feature_store import FeatureStore

SCRIPT = Path(__file__).parent / "texts.py"


def text_store(folder: Path) -> FeatureStore:
    (path,) = (folder / "work_dirs/features").glob("Captions-text-*")
    return FeatureStore(path)


def test_two_processes_train_as_one(tmp_path):
    for folder, size in (("two", 2), ("one", 1)):
        (tmp_path / folder).mkdir()
        group.run(size, SCRIPT, tmp_path / folder)
    for name in ("live", "stored"):
        one, two = (checkpoints.read(tmp_path / folder / name / "last").model_tensors() for folder in ("one", "two"))
        assert one.keys() == two.keys()
        for key, value in one.items():
            torch.testing.assert_close(two[key], value, rtol=1e-4, atol=1e-6, msg=key)
        metrics = [
            (tmp_path / folder / name / "metrics.jsonl").read_text().count("matching") for folder in ("one", "two")
        ]
        assert metrics[0] == metrics[1] > 0
    one, two = (text_store(tmp_path / folder) for folder in ("one", "two"))
    assert one.row_counts.tolist() == two.row_counts.tolist()
    indices = range(len(one))
    torch.testing.assert_close(one.rows(indices), two.rows(indices))
    assert torch.equal(one.texts_of(indices, [0] * 16), two.texts_of(indices, [0] * 16))
