"""Embeddings and classes of several processes are those of one, and those that an evaluation sees, bit for bit."""

from __future__ import annotations

import outputs
import pytest
import torch

from toolbox.base import l2_normalize


@pytest.mark.parametrize("size", [2, 4])
@pytest.mark.parametrize("name", outputs.NAMES)
def test_the_main_process_gets_what_one_would_find(found, size, name):
    one, (main, *others) = found[1][0]["outputs"][name], (process["outputs"][name] for process in found[size])
    assert torch.equal(main["embeddings"], one["embeddings"])
    for key in ("ids", "indices", "bad", "classes"):
        assert main[key] == one[key], key
    assert len(one["ids"]) + len(one["bad"]) in (6, 37, 61)
    assert all(not other["ids"] and not len(other["embeddings"]) for other in others)


@pytest.mark.parametrize("size", [1, 2, 4])
def test_an_evaluation_sees_the_embeddings_that_are_written(found, size):
    for name in outputs.NAMES:
        seen = {index: row for process in found[size] for index, row in process["outputs"][name]["evaluated"].items()}
        main = found[size][0]["outputs"][name]
        assert sorted(seen) == sorted(main["indices"])
        rows = torch.stack([seen[index] for index in main["indices"]])
        assert torch.equal(l2_normalize(rows), main["embeddings"])  # which are written at length 1
