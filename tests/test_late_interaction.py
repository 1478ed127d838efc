"""Recall of token sets against the definition in float64, and against a stored reference."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from forked_python import run_ranks
from toolbox_retrieval import late_interaction as late
from toolbox_retrieval.late_interaction import LateInteractionRecall, score_late_interaction
from toolbox_retrieval.recall import Recall

from toolbox.base import Batch

GOLDEN = Path(__file__).parent / "golden"


def sets(n=60, tokens=7, dim=6, classes=12, seed=0):
    """Sets of 1 to `tokens` tokens, zeros behind and between them."""
    generator = torch.Generator().manual_seed(seed)
    labels = torch.randint(classes, (n,), generator=generator)
    centers = torch.randn(classes, tokens, dim, generator=generator)
    x = centers[labels] + 2.0 * torch.randn(n, tokens, dim, generator=generator)
    empty = torch.rand(n, tokens, generator=generator) < 0.3
    empty[:, 2] = False
    return x.masked_fill(empty[:, :, None], 0), labels


def definition(queries, documents):
    rows = []
    for query in queries.double():
        query = [token / token.norm() for token in query if token.any()]
        row = []
        for document in documents.double():
            others = [token / token.norm() for token in document if token.any()]
            row.append(sum(max(float(token @ other) for other in others) for token in query) / len(query))
        rows.append(row)
    return torch.tensor(rows, dtype=torch.float64)


def feed(metric, x, labels, ids=None, roles=None, batch_size=17):
    ids = list(range(len(x))) if ids is None else ids
    for start in range(0, len(x), batch_size):
        part = slice(start, start + batch_size)
        longest = max(1, int(x[part].any(dim=2).any(dim=0).nonzero().max()) + 1)  # as a batch of texts is padded
        batch = Batch(labels=labels[part], ids=ids[part], roles=None if roles is None else roles[part])
        metric.update({"tokens": x[part, :longest]}, batch)
    return metric.compute()


def numbers_of(score, query_labels, gallery_labels, own, ks=(1, 5)):
    rank, maps = [], []
    for i, row in enumerate(score.tolist()):
        order = sorted((j for j in range(len(row)) if j != own[i]), key=lambda j, row=row: -row[j])
        right = [bool(gallery_labels[j] == query_labels[i]) for j in order]
        r = sum(right)
        if r:
            rank.append(right.index(True) + 1)
            maps.append(sum(right[k] * sum(right[: k + 1]) / (k + 1) for k in range(r)) / r)
    means = {f"late_interaction/recall@{k}": sum(one <= k for one in rank) / len(score) for k in ks}
    return means | {"late_interaction/map@r": sum(maps) / len(maps)}


def test_scores_equal_the_definition():
    x, _ = sets()
    y, _ = sets(n=9, tokens=4, seed=1)
    torch.testing.assert_close(score_late_interaction(x.double(), y.double()), definition(x, y), atol=1e-12, rtol=0)
    torch.testing.assert_close(score_late_interaction(3 * x, y).double(), definition(x, y), atol=1e-6, rtol=0)


def test_recall_equals_the_stored_numbers():
    with np.load(GOLDEN / "retrieval_recall.npz") as stored:
        data = {key: torch.from_numpy(np.array(stored[key])) for key in stored}
    labels, ids = data["in_token_labels"], list(range(32))
    metric = LateInteractionRecall(ks=[k for k in data["param_k"].tolist() if k < 32])
    for role, tokens in (("query", data["in_token_query"]), ("gallery", data["in_token_docs"])):
        metric.update({"tokens": tokens}, Batch(labels=labels, ids=ids, roles=[role] * 32))
    found = metric.compute()
    recalls = [value for name, value in found.items() if "recall" in name]
    assert recalls == pytest.approx(data["out_token_exclude_diagonal"].tolist(), abs=1e-6)


def test_numbers_equal_the_definition_however_batches_are_padded():
    x, labels = sets()
    expected = numbers_of(definition(x, x), labels, labels, range(60))
    for size in (17, 60, 1):
        metric = LateInteractionRecall(ks=[1, 5])
        found = feed(metric, x, labels, batch_size=size)
        assert list(found) == metric.names()
        assert {name: found[name] for name in expected} == pytest.approx(expected, abs=1e-6)
    asked = torch.arange(60) % 3 == 0
    roles = ["query" if one else "gallery" for one in asked]
    found = feed(LateInteractionRecall(ks=[1, 5]), x, labels, roles=roles)
    expected = numbers_of(definition(x[asked], x[~asked]), labels[asked], labels[~asked], [-1] * 20)
    assert {name: found[name] for name in expected} == pytest.approx(expected, abs=1e-6)


def test_one_token_is_the_cosine():
    x, labels = sets(tokens=3)
    x = x[:, 2:3]
    found = feed(LateInteractionRecall(ks=[1, 5]), x, labels)
    metric = Recall(ks=[1, 5])
    metric.update({"embeddings": x[:, 0]}, Batch(labels=labels, ids=list(range(60))))
    expected = metric.compute()
    assert found == pytest.approx({name: expected[name.split("/")[1]] for name in found})


def test_the_memory_cap_changes_no_number(monkeypatch):
    x, labels = sets(n=200)
    expected = feed(LateInteractionRecall(ks=[1, 5]), x, labels)
    seen = []
    original = late.score_late_interaction
    monkeypatch.setattr(
        late, "score_late_interaction", lambda q, d: (seen.append(len(q) * len(d) * 49), original(q, d))[1]
    )
    assert feed(LateInteractionRecall(ks=[1, 5], memory_mb=1), x, labels) == pytest.approx(expected, abs=1e-9)
    assert len(seen) > 10
    assert 4 * max(seen) <= 2**20


def test_what_cannot_be_ranked_is_refused():
    x, labels = sets()
    metric = LateInteractionRecall(ks=[1])
    assert metric.check_outputs({"tokens": x}) == []
    (problem,) = metric.check_outputs({"embeddings": x[:, 0]})
    assert "pool='tokens'" in problem.hint
    with pytest.raises(ValueError, match="'tokens'"):
        metric.update({"embeddings": x[:, 0]}, Batch(labels=labels, ids=list(range(60))))
    bad = x.clone()
    bad[[4, 9]] = 0
    with pytest.raises(ValueError, match="2 of 60 items have no token"):
        feed(LateInteractionRecall(ks=[1]), bad, labels)
    bad[4, 0, 0] = torch.nan
    with pytest.raises(ValueError, match="1 of 60 token embeddings hold NaN"):
        feed(LateInteractionRecall(ks=[1]), bad, labels)
    for arguments in ({"ks": [0]}, {"memory_mb": 0}, {"lone": "keep"}):
        with pytest.raises(ValueError, match=next(iter(arguments))):
            LateInteractionRecall(**arguments)


def test_findings():
    x, labels = sets()
    metric = LateInteractionRecall(ks=[1, 5])
    assert metric.report_items(None) == []
    numbers = feed(metric, x, labels)
    curve, where, ranks = metric.report_items(None)
    assert dict(curve.series["plain"])[5] == numbers["late_interaction/recall@5"]
    assert sum(row[1] for row in where.rows) == 60
    assert len(ranks.values) == len(ranks.ids) <= 60


WORKER = """
import sys, torch, torch.distributed as dist
from toolbox.base import Batch
from toolbox_retrieval.late_interaction import LateInteractionRecall
rank, folder = int(sys.argv[1]), sys.argv[2]
data = torch.load(folder + "/items.pt")
dist.init_process_group("gloo", init_method="file://" + folder + "/meet", rank=rank, world_size=2)
results = []
for share in data["shares"][rank]:
    metric = LateInteractionRecall(ks=[1, 5])
    part = torch.tensor(share, dtype=torch.long)
    if len(part):
        metric.update({"tokens": data["x"][part, : 7 - rank]}, Batch(labels=data["labels"][part], ids=part.tolist()))
    results.append(metric.compute())
torch.save(results, folder + "/%d.pt" % rank)
dist.destroy_process_group()
"""


def test_two_processes_give_the_numbers_of_one(tmp_path):
    x, labels = sets()
    x[40:, 6] = 0  # the second process sees shorter sets
    rows = list(range(60))
    data = {"x": x, "labels": labels, "shares": [[rows[:40], rows], [rows[40:], []]]}
    torch.save(data, tmp_path / "items.pt")
    run_ranks("-c", WORKER, folder=tmp_path)
    expected = feed(LateInteractionRecall(ks=[1, 5]), x, labels, batch_size=60)
    for rank in range(2):
        for numbers in torch.load(tmp_path / f"{rank}.pt"):
            assert numbers == pytest.approx(expected, abs=1e-9)
