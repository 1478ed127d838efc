"""Re-ranking, query expansion and whitening against references in float64, written from the papers' formulas."""

from __future__ import annotations

import math
from functools import cache

import numpy as np
import pytest
import torch
from forked_python import run_ranks
from toolbox_retrieval import k_reciprocal
from toolbox_retrieval.k_reciprocal import KReciprocal
from toolbox_retrieval.recall import Recall
from toolbox_retrieval.whitening import Whitening

from benchmarks import rerank as benchmark
from toolbox.base import Batch
from toolbox.utils.neighbours import expand_queries, find_nearest, make_unit_rows
from toolbox.utils.ranking import rank_queries, summarize


def items(n=120, dim=8, classes=25, noise=1.5, seed=0):
    generator = torch.Generator().manual_seed(seed)
    labels = torch.randint(classes, (n,), generator=generator)
    centers = torch.randn(classes, dim, generator=generator)
    return centers[labels] + noise * torch.randn(n, dim, generator=generator), labels


def unit(x):
    return torch.nn.functional.normalize(x.double())


# the reference: sets and dense matrices, one item at a time


def order_of(cosines):
    """Others by falling cosine, equal ones by their place."""
    n = len(cosines)
    return [
        sorted((j for j in range(n) if j != i), key=lambda j: (-round(float(cosines[i, j]), 9), j)) for i in range(n)
    ]


def reference_distances(x, k1, k2, weight):
    cosines = unit(x) @ unit(x).T
    distance = 2 - 2 * cosines
    order, n = order_of(cosines), len(x)

    @cache
    def near(i, k):
        return {i, *order[i][:k]}

    @cache
    def reciprocal(i, k):
        return {j for j in near(i, k) if i in near(j, k)}

    encoded = torch.zeros(n, n).double()
    for i in range(n):
        base = reciprocal(i, k1)
        members = set(base)
        for q in base:
            more = reciprocal(q, math.ceil(k1 / 2))
            if len(base & more) >= 2 / 3 * len(more):
                members |= more
        for j in members:
            encoded[i, j] = torch.exp(-distance[i, j]) if i != j else 1.0
    encoded = torch.stack([encoded[[i, *order[i][: k2 - 1]]].mean(dim=0) for i in range(n)])
    jaccard = torch.stack(
        [1 - torch.minimum(row, encoded).sum(dim=1) / torch.maximum(row, encoded).sum(dim=1) for row in encoded]
    )
    return (1 - weight) * jaccard + weight * distance


def numbers_of(score, query_labels, gallery_labels, own, ks=(1, 5)):
    """Recall@K, MAP@R, R-precision and the mean reciprocal rank of dense scores, one query at a time."""
    rank, maps, precisions = [], [], []
    for i, row in enumerate(score.tolist()):
        candidates = [j for j in range(len(row)) if j != own[i]]
        candidates.sort(key=lambda j, i=i, row=row: (-round(row[j], 5), gallery_labels[j] == query_labels[i]))
        right = [bool(gallery_labels[j] == query_labels[i]) for j in candidates]
        r = sum(right)
        if r:
            rank.append(right.index(True) + 1)
            maps.append(sum(right[k] * sum(right[: k + 1]) / (k + 1) for k in range(r)) / r)
            precisions.append(sum(right[:r]) / r)
    means = {f"recall@{k}": sum(one <= k for one in rank) / len(score) for k in ks}
    return means | {
        "map@r": sum(maps) / len(maps),
        "r_precision": sum(precisions) / len(maps),
        "mrr": sum(1 / one for one in rank) / len(maps),
    }


def distances(x, k1, k2, weight, **arguments):
    """The final distances of the sparse implementation, dense."""
    units = make_unit_rows(x)
    encoded = KReciprocal(units, len(x), k1, k2, weight, **arguments)
    scores = units @ units.T
    encoded.rescore(torch.arange(len(x)), torch.arange(len(x)), scores)
    return 1 + weight - scores


def feed(metric, x, labels, ids=None, roles=None, batch_size=37):
    ids = list(range(len(x))) if ids is None else ids
    for start in range(0, len(x), batch_size):
        part = slice(start, start + batch_size)
        batch = Batch(labels=labels[part], ids=ids[part], roles=None if roles is None else roles[part])
        metric.update({"embeddings": x[part]}, batch)
    return metric.compute()


def under(numbers, prefix):
    return {name.removeprefix(f"{prefix}/"): value for name, value in numbers.items() if name.startswith(f"{prefix}/")}


# k-reciprocal re-ranking


@pytest.mark.parametrize(
    ("k1", "k2", "weight"),
    [(20, 6, 0.3), (5, 2, 0.0), (7, 3, 1.0), (1, 1, 0.5), (6, 1, 0.3), (30, 30, 0.1), (119, 5, 0.3), (500, 200, 0.3)],
)
def test_distances_and_numbers_equal_the_papers_formulas(k1, k2, weight):
    x, labels = items()
    expected = reference_distances(x, k1, k2, weight)
    torch.testing.assert_close(distances(x.double(), k1, k2, weight), expected, atol=1e-12, rtol=0)
    torch.testing.assert_close(distances(x, k1, k2, weight).double(), expected, atol=5e-6, rtol=0)
    found = under(feed(Recall(ks=[1, 5], rerank=[k1, k2, weight]), x, labels), "k_reciprocal")
    assert found == pytest.approx(numbers_of(-expected, labels, labels, range(len(x))), abs=1e-6)


def test_the_reference_would_notice_another_definition():
    x, _ = items()
    expected = reference_distances(x, 20, 6, 0.3)
    for other in ((19, 6, 0.3), (20, 5, 0.3), (20, 6, 0.31)):
        assert (reference_distances(x, *other) - expected).abs().max() > 1e-3


def test_re_ranking_mends_what_neighbours_know():
    x, labels = items(n=400, dim=16, classes=20, noise=1.6)
    found = feed(Recall(ks=[1], rerank=[20, 6, 0.3]), x, labels)
    assert found["k_reciprocal/map@r"] > found["map@r"] + 0.03
    shuffled = labels[torch.randperm(400, generator=torch.Generator().manual_seed(0))]
    found = feed(Recall(ks=[1], rerank=[20, 6, 0.3]), x, shuffled)
    assert found["k_reciprocal/recall@1"] < 0.12


def test_identical_items_are_no_matter_of_chance():
    x, labels = items(n=90)
    x[10:14] = x[10]
    x[40:45] = 3 * x[70]
    expected = reference_distances(x, 6, 3, 0.3)
    torch.testing.assert_close(distances(x, 6, 3, 0.3).double(), expected, atol=5e-6, rtol=0)
    found = feed(Recall(ks=[1, 5], rerank=[6, 3, 0.3], lone="miss"), x, labels)
    assert under(found, "k_reciprocal") == pytest.approx(numbers_of(-expected, labels, labels, range(90)), abs=1e-6)
    same = torch.ones(60, 4)
    collapsed = feed(Recall(ks=[1], rerank=[6, 3, 0.3], alpha_qe=[5, 3]), same, torch.arange(60) // 3)
    assert collapsed["recall@1"] == collapsed["k_reciprocal/recall@1"] == collapsed["alpha_qe/recall@1"] == 0
    zeros = feed(Recall(ks=[1], rerank=[6, 3, 0.3], alpha_qe=[5, 3]), 0 * same, torch.arange(60) // 3)
    assert zeros["alpha_qe/recall@1"] == 0


@pytest.mark.parametrize("n", [2, 3, 5])
def test_tiny_sets(n):
    x, _ = items(n=n)
    labels = torch.zeros(n).long()
    labels[2:] = 1
    expected = reference_distances(x, 20, 6, 0.3)
    torch.testing.assert_close(distances(x, 20, 6, 0.3).double(), expected, atol=5e-6, rtol=0)
    ks = [k for k in (1, 5) if k < n]
    metric = Recall(ks=ks, rerank=[20, 6, 0.3], alpha_qe=[10, 3.0], expand_gallery=True, lone="miss")
    found = feed(metric, x, labels)
    assert under(found, "k_reciprocal") == pytest.approx(numbers_of(-expected, labels, labels, range(n), ks=ks))


def test_a_single_query_and_a_single_gallery_item():
    metric = Recall(ks=[1], rerank=[20, 6, 0.3], alpha_qe=[10, 3.0], expand_gallery=True)
    found = feed(metric, torch.eye(2), torch.zeros(2).long(), roles=["query", "gallery"])
    assert found["k_reciprocal/recall@1"] == found["alpha_qe/recall@1"] == 1


def test_chunks_change_no_distance(monkeypatch):
    x, _ = items()
    expected = distances(x, 20, 6, 0.3)
    monkeypatch.setattr(k_reciprocal, "_PAIRS", 50)
    assert torch.allclose(distances(x, 20, 6, 0.3), expected, atol=1e-6)
    units = make_unit_rows(x)
    whole = k_reciprocal.list_neighbours(units, 20, 512)
    assert torch.equal(k_reciprocal.list_neighbours(units, 20, 0), whole)
    sets = k_reciprocal.find_reciprocal_sets(whole, 20, 512)
    assert all(map(torch.equal, k_reciprocal.find_reciprocal_sets(whole, 20, 0), sets))
    values = k_reciprocal.compute_closeness(units, *sets, 512)
    assert torch.allclose(k_reciprocal.compute_closeness(units, *sets, 0), values, atol=1e-6)
    sums = k_reciprocal.average_rows(*sets, values, whole[:, :6], 512)
    again = k_reciprocal.average_rows(*sets, values, whole[:, :6], 0)
    assert all(torch.allclose(a, b, atol=1e-6) for a, b in zip(again, sums, strict=True))


def test_queries_apart_from_the_gallery_are_ranked_within_the_union():
    x, labels = items()
    asked = torch.arange(120) % 4 == 0
    roles = ["query" if one else "gallery" for one in asked]
    found = under(feed(Recall(ks=[1, 5], rerank=[10, 4, 0.3], lone="miss"), x, labels, roles=roles), "k_reciprocal")
    union = torch.cat([x[~asked], x[asked]])
    score = -reference_distances(union, 10, 4, 0.3)[90:, :90]
    assert found == pytest.approx(numbers_of(score, labels[asked], labels[~asked], [-1] * 30), abs=1e-6)
    # an id in both roles is one item
    both = feed(
        Recall(ks=[1, 5], rerank=[10, 4, 0.3], alpha_qe=[4, 2.0]),
        torch.cat([x, x]),
        torch.cat([labels, labels]),
        ids=[*range(120)] * 2,
        roles=["query"] * 120 + ["gallery"] * 120,
    )
    alone = feed(Recall(ks=[1, 5], rerank=[10, 4, 0.3], alpha_qe=[4, 2.0]), x, labels)
    assert both == pytest.approx(alone)


def test_memory_stays_bounded():
    x, _ = items(n=3000, dim=16, classes=600)
    units = make_unit_rows(x)
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU], profile_memory=True) as profile:
        KReciprocal(units, 3000, 20, 6, 0.3, memory_mb=4)
    largest = max(event.self_cpu_memory_usage for event in profile.events())
    assert 2**20 < largest < 16 * 2**20 < 3000 * 3000 * 4


@pytest.mark.slow
def test_the_benchmark_reports_its_promise():
    result = benchmark.run(n=500, dim=16)
    assert result["name"] == "rerank"
    assert result["seconds_plain"] > 0
    assert 5 * 10**7 < result["peak_bytes"] < result["promise_bytes"] == 4 * 10**9


# neighbours and query expansion


def test_nearest_are_the_others_in_order_and_the_first_of_equals():
    x, _ = items(n=60)
    x[20:24] = x[5]
    units = make_unit_rows(x)
    order = order_of(unit(x) @ unit(x).T)
    for k in (1, 7, 59, 60, 200):
        cosines, places = find_nearest(units, units, torch.arange(60), k)
        assert places.shape == (60, min(k, 60))
        filled = min(k, 59)
        assert places[:, :filled].tolist() == [row[:filled] for row in order]
        assert (cosines[:, filled:] == -torch.inf).all()
    assert torch.equal(find_nearest(units, units, torch.arange(60), 7, memory_mb=0)[1], torch.tensor(order)[:, :7])


def reference_expansion(queries, gallery, own, k, alpha):
    cosines = unit(queries) @ unit(gallery).T
    rows = []
    for i, row in enumerate(cosines):
        near = sorted((j for j in range(len(gallery)) if j != own[i]), key=lambda j, row=row: -row[j])[:k]
        rows.append(unit(queries)[i] + sum(max(float(row[j]), 0.0) ** alpha * unit(gallery)[j] for j in near))
    return unit(torch.stack(rows))


@pytest.mark.parametrize(("k", "alpha"), [(10, 3.0), (1, 0.5), (5, 0.0), (500, 2.0)])
@pytest.mark.parametrize("gallery_too", [False, True])
def test_expansion_equals_its_formula(k, alpha, gallery_too):
    x, labels = items()
    own = torch.arange(120)
    expected = reference_expansion(x, x, own, k, alpha)
    units = make_unit_rows(x)
    torch.testing.assert_close(expand_queries(units, units, own, k, alpha).double(), expected, atol=2e-6, rtol=0)
    score = expected @ (expected if gallery_too else unit(x)).T
    metric = Recall(ks=[1, 5], alpha_qe=[k, alpha], expand_gallery=gallery_too)
    found = under(feed(metric, 7 * x, labels), "alpha_qe")
    assert found == pytest.approx(numbers_of(score, labels, labels, range(120)), abs=1e-6)


def test_expansion_of_queries_apart_from_the_gallery():
    x, labels = items()
    asked = torch.arange(120) % 4 == 0
    roles = ["query" if one else "gallery" for one in asked]
    none = [-1] * 30
    queries = reference_expansion(x[asked], x[~asked], none, 5, 3.0)
    gallery = reference_expansion(x[~asked], x[~asked], range(90), 5, 3.0)
    for gallery_too, base in ((False, unit(x[~asked])), (True, gallery)):
        metric = Recall(ks=[1, 5], alpha_qe=[5, 3.0], expand_gallery=gallery_too, lone="miss")
        found = under(feed(metric, x, labels, roles=roles), "alpha_qe")
        assert found == pytest.approx(numbers_of(queries @ base.T, labels[asked], labels[~asked], none), abs=1e-6)


def test_chunks_change_no_expansion():
    units = make_unit_rows(items()[0])
    expected = expand_queries(units, units, torch.arange(120), 10, 3.0)
    assert torch.allclose(expand_queries(units, units, torch.arange(120), 10, 3.0, memory_mb=0), expected, atol=1e-6)


# whitening


def test_whitening_equals_scikit_learn():
    from sklearn.decomposition import PCA

    train, test = items(n=300, noise=1.0)[0], items(seed=1)[0]
    whitening = Whitening(5)
    for part in train.split(64):
        whitening.add(part)
    found = whitening.fit()(3 * test)
    expected = PCA(5, whiten=True, svd_solver="full").fit(unit(train).numpy()).transform(unit(test).numpy())
    expected /= np.linalg.norm(expected, axis=1, keepdims=True)
    np.testing.assert_allclose(found.double() @ found.double().T, expected @ expected.T, atol=1e-6)
    white = whitening.fit()
    rows = (unit(train) - white.mean) @ white.matrix
    torch.testing.assert_close(rows.T @ rows / 300, torch.eye(5).double(), atol=1e-9, rtol=0)


def test_the_metric_whitens_by_the_training_set_or_by_the_gallery():
    train, (x, labels) = items(n=300, seed=3)[0], items()
    numbers = torch.arange(120)
    for source, seen in (("train", train), ("gallery", x)):
        metric = Recall(ks=[1, 5], whiten=4, whiten_from=source)
        assert metric.wants_training() == (source == "train")
        for part in train.split(70):
            metric.fit({"embeddings": part}, Batch())
        found = under(feed(metric, x, labels), "whiten")
        whitening = Whitening(4)
        whitening.add(seen)
        new = whitening.fit()(x)
        expected = summarize(
            rank_queries(new, new, query_labels=labels, gallery_labels=labels, query_ids=numbers, gallery_ids=numbers),
            [1, 5],
        )
        assert found == pytest.approx({name: value for name, value in expected.items() if "queries" not in name})
    metric.reset()
    with pytest.raises(ValueError, match="none were given"):
        feed(Recall(ks=[1], whiten=4), x, labels)
    learned = Recall(ks=[1], whiten=4)
    learned.fit({"embeddings": train}, Batch())
    learned.reset()
    with pytest.raises(ValueError, match="none were given"):
        feed(learned, x, labels)


def test_whitening_refuses_what_it_cannot_learn():
    x, labels = items()
    (problem,) = Recall(ks=[1], whiten=9).check_outputs({"embeddings": x})
    assert (problem.where, "9 dimensions" in problem.message) == ("whiten", True)
    with pytest.raises(ValueError, match="wider than the embeddings, which have 8"):
        feed(Recall(ks=[1], whiten=9, whiten_from="gallery"), x, labels)
    flat = x.clone()
    flat[:, 5:] = 0
    with pytest.raises(ValueError, match="than the 5 in which the 120 embeddings"):
        feed(Recall(ks=[1], whiten=6, whiten_from="gallery"), flat, labels)
    with pytest.raises(ValueError, match="too wide"):
        Whitening(5).add(torch.zeros(1, 10000))
    metric = Recall(ks=[1], whiten=4)
    metric.fit({"embeddings": torch.full((3, 8), torch.nan)}, Batch())
    with pytest.raises(ValueError, match="NaN"):
        feed(metric, x, labels)
    metric = Recall(ks=[1], whiten=4)
    metric.fit({"embeddings": torch.randn(30, 6)}, Batch())
    with pytest.raises(ValueError, match="learned from embeddings of 6 dimensions, and these have 8"):
        feed(metric, x, labels)


# all of it


EVERYTHING = dict(
    ks=[1, 5], dims=[4], intervals=40, whiten=5, alpha_qe=[5, 3.0], expand_gallery=True, rerank=[10, 4, 0.3]
)


def test_names_come_in_order_and_plain_numbers_first_and_unchanged():
    x, labels = items()
    plain = feed(Recall(ks=[1, 5]), x, labels)
    metric = Recall(**EVERYTHING)
    metric.fit({"embeddings": x}, Batch())
    found = feed(metric, x, labels)
    assert list(found) == metric.names()
    assert list(found.items())[: len(plain)] == list(plain.items())
    assert all(isinstance(value, (int, float)) and math.isfinite(value) for value in found.values())


WORKER = """
import sys, torch, torch.distributed as dist
from toolbox.base import Batch
from toolbox_retrieval.recall import Recall
rank, folder = int(sys.argv[1]), sys.argv[2]
data = torch.load(folder + "/items.pt")
dist.init_process_group("gloo", init_method="file://" + folder + "/meet", rank=rank, world_size=2)
results = []
for share in data["shares"][rank]:
    metric = Recall(**data["arguments"])
    for part in torch.tensor(share, dtype=torch.long).split(50):
        if len(part):
            metric.fit({"embeddings": data["train"][part]}, Batch())
            metric.update({"embeddings": data["x"][part]}, Batch(
                labels=data["labels"][part], ids=["item %03d" % i for i in part], indices=part.tolist()))
    numbers = metric.compute()
    dataset = type("Set", (), {"groups": ["group %d" % (i % 3) for i in range(120)], "classes": None})
    results.append((numbers, metric.report_items(dataset)))
torch.save(results, folder + "/%d.pt" % rank)
dist.destroy_process_group()
"""


def test_two_processes_give_the_numbers_and_findings_of_one(tmp_path):
    x, labels = items(noise=2.0)
    train = items(seed=5)[0]
    rows = list(range(120))
    shares = [[rows[:77], rows], [rows[77:], []]]
    data = {"x": x, "labels": labels, "train": train, "shares": shares, "arguments": EVERYTHING}
    torch.save(data, tmp_path / "items.pt")
    run_ranks("-c", WORKER, folder=tmp_path)
    metric = Recall(**EVERYTHING)
    metric.fit({"embeddings": train}, Batch())
    for part in torch.arange(120).split(37):
        ids = [f"item {i:03}" for i in part]
        metric.update({"embeddings": x[part]}, Batch(labels=labels[part], ids=ids, indices=part.tolist()))
    expected = metric.compute()
    dataset = type("Set", (), {"groups": [f"group {i % 3}" for i in range(120)], "classes": None})
    for rank in range(2):
        for numbers, report_items in torch.load(tmp_path / f"{rank}.pt", weights_only=False):
            assert numbers == pytest.approx(expected, abs=1e-9)
            assert list(numbers) == list(expected)
            for ours, theirs in zip(metric.report_items(dataset), report_items, strict=True):
                assert ours.title == theirs.title
                if hasattr(ours, "examples"):
                    shown = [(e.query, e.note, [r[:2] for r in e.results]) for e in ours.examples]
                    assert shown == [(e.query, e.note, [r[:2] for r in e.results]) for e in theirs.examples]
                elif hasattr(ours, "rows"):
                    assert ours.rows == theirs.rows
