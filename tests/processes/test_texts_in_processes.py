"""Two processes read the texts that one would read, live and stored."""

from __future__ import annotations

import json
from pathlib import Path

import group
import pytest
import texts
import torch

from toolbox.engine.checkpoint import checkpoint as checkpoints
from toolbox.feature_cache.feature_store import FeatureStore

SCRIPT = Path(__file__).parent / "texts.py"
BATCH, STEPS = 4, 6


def text_store(folder: Path) -> FeatureStore:
    (path,) = (folder / "work_dirs/features").glob("Captions-text-*")
    return FeatureStore(path)


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    """The folders of what one process and two have trained."""
    folder = tmp_path_factory.mktemp("texts")
    for name, size in (("two", 2), ("one", 1)):
        (folder / name).mkdir()
        group.run(size, SCRIPT, folder / name)
    return folder


def test_a_draw_reads_the_same_text_however_it_is_read(runs):
    """Live and stored, with data workers, in one process and two, and after a resume: bit for bit."""
    expected = torch.load(runs / "one" / "live-drawn-0.pt")
    assert len(expected) == BATCH * STEPS
    assert len(set(expected.values())) > 4, "always the first text, that of its class"
    for folder, size in (("one", 1), ("two", 2)):
        for name in (*texts.RUNS, "resumed"):
            parts = [torch.load(runs / folder / f"{name}-drawn-{rank}.pt") for rank in range(size)]
            assert sum(map(len, parts)) == len({draw for part in parts for draw in part}), "read in two processes"
            found = {draw: text for part in parts for draw, text in part.items()}
            first = BATCH * texts.STOPPED if name == "resumed" else 0
            assert found == {draw: text for draw, text in expected.items() if draw >= first}, (folder, name)


def test_two_processes_train_as_one(runs):
    for name in (*texts.RUNS, "resumed"):
        one, two = (checkpoints.read(runs / folder / name / "last").model_tensors() for folder in ("one", "two"))
        assert one.keys() == two.keys()
        for key, value in one.items():
            torch.testing.assert_close(two[key], value, rtol=1e-4, atol=1e-6, msg=key)
        lines = [(runs / folder / name / "metrics.jsonl").read_text().splitlines() for folder in ("one", "two")]
        metric = "val/zero_shot_top1" if "towers" in name else "val/matching"
        found = [[json.loads(line)[metric] for line in part if metric in line] for part in lines]
        assert len(found[0]) == len(found[1]) > 0
        assert found[0] == found[1] or metric == "val/matching", "the toy metric gathers nothing"
    one, two = (text_store(runs / folder) for folder in ("one", "two"))
    assert one.row_counts.tolist() == two.row_counts.tolist()
    indices = range(len(one))
    torch.testing.assert_close(one.rows(indices), two.rows(indices))
    assert torch.equal(one.texts_of(indices, [0] * 16), two.texts_of(indices, [0] * 16))
