"""Retrieval metrics against stored reference numbers, a brute force in float64, and pytorch-metric-learning."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from forked_python import run_ranks
from toolbox_retrieval import intervals as bootstrap
from toolbox_retrieval.intervals import compute_query_outcomes
from toolbox_retrieval.recall import Recall

from benchmarks import recall as benchmark
from toolbox.base import Batch
from toolbox.utils import ranking as retrieval
from toolbox.utils import resampling
from toolbox.utils.ranking import rank_metrics, rank_queries, summarize

GOLDEN = Path(__file__).parent / "golden"


def golden(name):
    with np.load(GOLDEN / f"{name}.npz") as stored:
        return {key: torch.from_numpy(np.array(stored[key])) for key in stored}


def items(n=300, dim=16, classes=40, noise=1.0, seed=0):
    generator = torch.Generator().manual_seed(seed)
    labels = torch.randint(classes, (n,), generator=generator)
    labels[:3] = torch.tensor([900, 901, 902])  # classes with one member
    centers = torch.randn(1000, dim, generator=generator)
    return centers[labels] + noise * torch.randn(n, dim, generator=generator), labels


def leave_one_out(x, labels, **arguments):
    numbers = torch.arange(len(x))
    arguments |= {"query_ids": numbers, "gallery_ids": numbers}
    return rank_metrics(x, x, query_labels=labels, gallery_labels=labels, **arguments)


def brute_force(x, labels, gallery=None, gallery_labels=None, ks=(1, 10, 100, 1000)):
    """The definitions, one query at a time, in float64."""
    alone = gallery is None
    gallery, gallery_labels = (x, labels) if alone else (gallery, gallery_labels)
    cosines = torch.nn.functional.normalize(x.double()) @ torch.nn.functional.normalize(gallery.double()).T
    ranks, precisions, r_precisions = [], [], []
    gallery_labels = gallery_labels.tolist()
    for i, (row, label) in enumerate(zip(cosines.tolist(), labels.tolist(), strict=True)):
        candidates = [j for j in range(len(gallery)) if not (alone and i == j)]
        # equal ones: negatives first
        candidates.sort(key=lambda j, row=row, label=label: (-round(row[j], 12), gallery_labels[j] == label))
        relevant = [gallery_labels[j] == label for j in candidates]
        r = sum(relevant)
        ranks.append(relevant.index(True) + 1 if r else 0)
        if r:
            precisions.append(sum(relevant[k] * sum(relevant[: k + 1]) / (k + 1) for k in range(r)) / r)
            r_precisions.append(sum(relevant[:r]) / r)
    return {
        **{f"recall@{k}": sum(0 < rank <= k for rank in ranks) / len(precisions) for k in ks},
        "map@r": sum(precisions) / len(precisions),
        "r_precision": sum(r_precisions) / len(r_precisions),
        "mrr": sum(1 / rank for rank in ranks if rank) / len(precisions),
        "queries": len(ranks),
        "queries_without_positive": len(ranks) - len(precisions),
    }


def feed(metric, x, labels, ids=None, roles=None, batch_size=37):
    ids = list(range(len(x))) if ids is None else ids
    for start in range(0, len(x), batch_size):
        part = slice(start, start + batch_size)
        batch = Batch(labels=labels[part], ids=ids[part], roles=None if roles is None else roles[part])
        metric.update({"embeddings": x[part]}, batch)
    return metric.compute()


# stored reference numbers


def test_recall_equals_the_stored_numbers():
    data = golden("retrieval_recall")
    x, labels, ks = data["in_embeddings"], data["in_labels"], data["param_k"].tolist()
    found = leave_one_out(x, labels, ks=ks, lone="miss")
    assert [found[f"recall@{k}"] for k in ks] == pytest.approx(data["out_leave_one_out"].tolist(), abs=1e-6)
    everything = leave_one_out(x, labels, ks=[len(x)], lone="miss")
    assert everything[f"recall@{len(x)}"] == pytest.approx(data["expected_k_equal_n_self_never_counted"].item())

    def against_gallery(queries, query_labels, **ids):
        found = rank_metrics(queries, x, query_labels=query_labels, gallery_labels=labels, ks=ks, lone="miss", **ids)
        return [found[f"recall@{k}"] for k in ks]

    others = against_gallery(data["in_query_other"], data["in_query_other_labels"])
    assert others == pytest.approx(data["out_query_gallery"].tolist(), abs=1e-6)
    kept = against_gallery(data["in_query_paired"], labels)
    assert kept == pytest.approx(data["out_paired_keep_diagonal"].tolist(), abs=1e-6)
    numbers = torch.arange(len(x))
    left_out = against_gallery(data["in_query_paired"], labels, query_ids=numbers, gallery_ids=numbers)
    assert left_out == pytest.approx(data["out_paired_exclude_diagonal"].tolist(), abs=1e-6)
    assert kept != left_out


@pytest.mark.parametrize("case", ["leave_one_out", "with_lone", "query_gallery"])
def test_other_metrics_equal_the_stored_numbers(case):
    data = golden("metric_learning_accuracy")
    x = data["in_embeddings"]
    labels = data["in_labels_with_lone" if case == "with_lone" else "in_labels"]
    if case == "query_gallery":
        found = rank_metrics(
            data["in_query_embeddings"], x, query_labels=data["in_query_labels"], gallery_labels=labels
        )
    else:
        found = leave_one_out(x, labels, lone="skip")
    names = {"map_at_r": "map@r", "precision_at_1": "recall@1", "r_precision": "r_precision", "mrr_full": "mrr"}
    for theirs, ours in names.items():
        assert found[ours] == pytest.approx(data[f"out_{case}_{theirs}"].item(), abs=1e-6), ours
    if case == "with_lone":
        assert found["queries"] - found["queries_without_positive"] == data["out_with_lone_queries_counted"]


# brute force and the library


@pytest.mark.parametrize(("classes", "noise"), [(40, 1.0), (40, 3.0), (3, 3.0), (150, 0.5)])
def test_equals_brute_force(classes, noise):
    x, labels = items(classes=classes, noise=noise)
    assert leave_one_out(x, labels) == pytest.approx(brute_force(x, labels), abs=1e-7)
    queries, query_labels = items(n=60, classes=classes, noise=noise)
    found = rank_metrics(queries[3:], x, query_labels=query_labels[3:], gallery_labels=labels)
    assert found == pytest.approx(brute_force(queries[3:], query_labels[3:], x, labels), abs=1e-7)


def test_a_large_gallery_finds_the_nearest_through_groups():
    generator = torch.Generator().manual_seed(3)
    values = torch.randn(5, 128 * 130, generator=generator)
    for count in (1, 3, 40, 400, 5000):
        largest, columns = retrieval.find_largest(values, count)
        assert torch.equal(largest, values.topk(count, dim=1).values), count
        assert torch.equal(values.gather(1, columns), largest), count
    x, labels = items(n=2000, classes=300, noise=2.0)
    x, labels = x[:2000], labels[:2000]
    queries = torch.arange(0, 2000, 20)
    found = rank_metrics(x[queries] + 0.1, x, query_labels=labels[queries], gallery_labels=labels)
    assert found == pytest.approx(brute_force(x[queries] + 0.1, labels[queries], x, labels), abs=1e-7)


@pytest.mark.parametrize("classes", [4, 60])
def test_equals_pytorch_metric_learning(classes):
    from pytorch_metric_learning.distances import CosineSimilarity
    from pytorch_metric_learning.utils.accuracy_calculator import AccuracyCalculator
    from pytorch_metric_learning.utils.inference import CustomKNN

    x, labels = items(n=240, classes=classes, noise=2.0, seed=1)
    names = {
        "recall@1": "precision_at_1",
        "map@r": "mean_average_precision_at_r",
        "r_precision": "r_precision",
        "mrr": "mean_reciprocal_rank",
    }
    calculator = AccuracyCalculator(
        include=tuple(names.values()),
        k=None,
        device=torch.device("cpu"),
        knn_func=CustomKNN(CosineSimilarity(), batch_size=64),
        kmeans_func=lambda *_: None,
    )
    expected = calculator.get_accuracy(x, labels, ref_includes_query=True)
    found = leave_one_out(x, labels, lone="skip")
    for ours, theirs in names.items():
        assert found[ours] == pytest.approx(expected[theirs], abs=1e-6), ours


def test_shuffled_labels_find_nothing_but_chance():
    x, labels = items(noise=0.3)
    shuffled = labels[torch.randperm(len(labels), generator=torch.Generator().manual_seed(5))]
    assert leave_one_out(x, labels)["recall@1"] > 0.95
    assert leave_one_out(x, shuffled)["recall@1"] < 0.1
    assert leave_one_out(x, shuffled)["map@r"] < 0.1


# ties, copies, lone classes


def test_collapsed_embeddings_find_nothing():
    for n, dim in ((333, 7), (1100, 768)):
        x = torch.randn(1, dim, generator=torch.Generator().manual_seed(0)).expand(n, dim)
        found = leave_one_out(x, torch.arange(n) // 4, ks=[1, 10, 100])
        assert [found[f"recall@{k}"] for k in (1, 10, 100)] == [0, 0, 0]
        assert found["map@r"] == found["r_precision"] == 0
        assert found["mrr"] < 1 / (n - 5)
    zeros = leave_one_out(torch.zeros(50, 4), torch.arange(50) // 2, ks=[1])
    assert zeros["recall@1"] == 0


def test_a_copy_of_another_class_stands_before_the_positive():
    x = torch.tensor([[1.0, 0, 0], [1, 0, 0], [1, 0, 0], [0, 1, 0], [0, 1, 0.1], [0, 0, 1]])
    labels = torch.tensor([0, 0, 1, 2, 2, 1])
    found = rank_queries(
        x, x, query_labels=labels, gallery_labels=labels, query_ids=torch.arange(6), gallery_ids=torch.arange(6)
    )
    assert found["rank"].tolist() == [2, 2, 5, 1, 1, 5]
    assert found["r_precision"].tolist() == [0, 0, 0, 1, 1, 0]


def test_copies_equal_brute_force():
    x, labels = items()
    x[50:100] = 2 * x[100:150]  # equal directions, mostly of other classes
    x[150:160] = x[160:170]
    labels[150:160] = labels[160:170]
    expected = brute_force(x, labels)
    assert leave_one_out(x, labels) == pytest.approx(expected, abs=1e-7)
    assert expected["recall@1"] < 0.9


def test_an_item_is_left_out_by_its_id_not_by_its_column():
    x, labels = items()
    order = torch.randperm(len(x), generator=torch.Generator().manual_seed(2))
    ids = torch.arange(len(x)) * 7 + 1000
    arguments = {"query_labels": labels, "gallery_labels": labels[order], "query_ids": ids}
    found = rank_metrics(x, x[order], gallery_ids=ids[order], **arguments)
    assert found == pytest.approx(leave_one_out(x, labels))
    # with ids that mean nothing an item finds itself
    assert rank_metrics(x, x[order], gallery_ids=-ids, **arguments)["recall@1"] == 1
    # its own copy under another label, as when a query's label was corrected, is left out too
    relabelled = rank_queries(
        x[:1],
        x[:2],
        query_labels=torch.tensor([5]),
        gallery_labels=torch.tensor([6, 5]),
        query_ids=torch.tensor([0]),
        gallery_ids=torch.tensor([0, 1]),
    )
    assert relabelled["rank"].tolist() == [1]


def test_lone_classes_miss_or_are_skipped():
    x, labels = items(noise=0.1)
    miss, skip = leave_one_out(x, labels, lone="miss"), leave_one_out(x, labels)
    lone = miss["queries_without_positive"]
    assert lone >= 3
    assert miss["recall@1000"] == pytest.approx((300 - lone) / 300)
    assert skip["recall@1000"] == 1
    assert miss["map@r"] == skip["map@r"]
    nothing = leave_one_out(x, torch.arange(300))
    assert (nothing["recall@1"], nothing["mrr"], nothing["queries_without_positive"]) == (0, 0, 300)


# memory and speed


def test_the_memory_cap_changes_no_number(monkeypatch):
    x, labels = items(n=1500, classes=200)
    expected = leave_one_out(x, labels)
    seen = set()
    original = retrieval._compare_scores

    def watch(similar, *rest):
        seen.add(len(similar))
        return original(similar, *rest)

    monkeypatch.setattr(retrieval, "_compare_scores", watch)
    for memory_mb in (1, 2, 5, 4000):
        seen.clear()
        assert leave_one_out(x, labels, memory_mb=memory_mb) == expected
        assert max(seen) * x.shape[0] * 4 <= memory_mb * 2**20
    monkeypatch.setattr(retrieval, "_ROWS", 7)
    assert leave_one_out(x, labels) == expected


def test_no_square_matrix_is_made():
    n = 6000
    x, labels = benchmark.make_items(n, 8)
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU], profile_memory=True) as profile:
        leave_one_out(x, labels, memory_mb=16)
    largest = max(event.self_cpu_memory_usage for event in profile.events())
    assert 8 * 2**20 < largest <= 16 * 2**20 < n * n * 4


def test_training_precision_does_not_reach_the_metric(monkeypatch):
    seen = []
    original = torch.mm
    monkeypatch.setattr(
        torch, "mm", lambda *a, **k: (seen.append(torch.get_float32_matmul_precision()), original(*a, **k))[1]
    )
    before = torch.get_float32_matmul_precision()
    x, labels = items(noise=3.0)
    try:
        torch.set_float32_matmul_precision("medium")
        leave_one_out(x, labels)
        assert torch.get_float32_matmul_precision() == "medium"
    finally:
        torch.set_float32_matmul_precision(before)
    assert seen == ["highest"]


def test_inputs_stay_untouched():
    x, labels = items()
    copy = x.clone()
    leave_one_out(x, labels)
    assert torch.equal(x, copy)


def test_the_benchmark_reports_its_promise():
    result = benchmark.run(pairs=3, n=600, dim=32)
    assert result["name"] == "recall"
    assert len(result["ratios"]) == 3
    assert result["ratio_median"] > 0
    assert result["promise"] == 1.6


# the component


def test_the_metric_equals_the_function_whatever_the_batches_and_their_order():
    x, labels = items()
    expected = leave_one_out(x, labels, ks=[1, 10, 100])
    metric = Recall()  # Recall@1000 of 300 items is left out
    with torch.inference_mode():
        assert feed(metric, x, labels, batch_size=64) == expected
    metric.reset()
    order = torch.randperm(300, generator=torch.Generator().manual_seed(2))
    assert feed(metric, 5 * x[order], labels[order], ids=order.tolist(), batch_size=11) == pytest.approx(expected)
    assert metric.compute() == pytest.approx(expected)


def test_ids_may_be_strings_and_repeated_items_count_once():
    x, labels = items()
    names = [f"img_{i}.jpg" for i in range(300)]
    expected = leave_one_out(x, labels, ks=[1, 10, 100])
    assert feed(Recall(), x, labels, ids=names) == pytest.approx(expected)
    padded = feed(Recall(), torch.cat([x, x[:9]]), torch.cat([labels, labels[:9]]), ids=names + names[:9])
    assert padded == pytest.approx(expected)
    # were they kept, each would find its copy
    wrong = feed(Recall(), torch.cat([x, x[:9]]), torch.cat([labels, labels[:9]]))
    assert wrong["queries"] == 309
    assert wrong["recall@1"] != pytest.approx(expected["recall@1"])


def test_half_precision_embeddings_are_read():
    x, labels = items(noise=0.3)
    assert feed(Recall(), x.bfloat16(), labels)["recall@1"] > 0.95


def test_queries_and_gallery_by_role():
    x, labels = items(noise=2.0)
    roles = ["query" if i % 4 == 0 else "gallery" for i in range(300)]
    asked = torch.tensor([role == "query" for role in roles])
    expected = rank_metrics(
        x[asked], x[~asked], query_labels=labels[asked], gallery_labels=labels[~asked], ks=[1, 10, 100]
    )
    found = feed(Recall(), x, labels, roles=roles)
    assert found == pytest.approx(expected)
    assert found["queries"] == 75
    assert found["recall@10"] != pytest.approx(leave_one_out(x, labels)["recall@10"])
    # one id in both roles: as a query it does not find itself
    both = feed(
        Recall(ks=[1]),
        torch.cat([x, x]),
        torch.cat([labels, labels]),
        ids=[*range(300)] * 2,
        roles=["query"] * 300 + ["gallery"] * 300,
    )
    assert both == pytest.approx(leave_one_out(x, labels, ks=[1]))


class Labelled:
    def __init__(self, labels):
        self.labels = labels

    def __len__(self):
        return 160


def test_check_names_the_ks_that_fit():
    dataset = Labelled([i // 4 for i in range(160)])
    (problem,) = Recall().check(dataset)
    assert problem.where == "ks"
    assert "Recall@1000" in problem.message
    assert "largest K is 159" in problem.message
    assert problem.hint == "use ks=[1,10,100]"
    assert Recall([1, 159]).check(dataset) == []
    assert Recall([160]).check(dataset)[0].hint == "use ks=[159]"
    assert "needs labels" in Recall([1]).check(Labelled(None))[0].message
    assert "share a class" in Recall([1]).check(Labelled(list(range(160))))[0].message


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"ks": []}, "ks must be"),
        ({"ks": [0, 1]}, "ks must be"),
        ({"ks": [1, 1]}, "ks must be"),
        ({"memory_mb": 0}, "memory_mb must be"),
        ({"lone": "keep"}, "lone must be"),
        ({"dims": [0]}, "dims must be"),
        ({"dims": [8, 8]}, "dims must be"),
        ({"intervals": -1}, "intervals must be"),
        ({"intervals": 3}, "intervals must be"),
        ({"whiten": 0}, "whiten must be"),
        ({"whiten": 8, "whiten_from": "test"}, "whiten_from must be"),
        ({"expand_gallery": True}, "no effect without alpha_qe"),
        ({"alpha_qe": [10]}, "alpha_qe must be"),
        ({"alpha_qe": [0, 3]}, "alpha_qe must be"),
        ({"alpha_qe": [2.5, 3]}, "alpha_qe must be"),
        ({"alpha_qe": [10, -1]}, "alpha_qe must be"),
        ({"alpha_qe": [float("inf"), 3]}, "alpha_qe must be"),
        ({"alpha_qe": [10, float("nan")]}, "alpha_qe must be"),
        ({"rerank": [20, 6]}, "rerank must be"),
        ({"rerank": [float("inf"), 6, 0.3]}, "rerank must be"),
        ({"rerank": [float("nan"), 6, 0.3]}, "rerank must be"),
        ({"rerank": [6, 20, 0.3]}, "rerank must be"),
        ({"rerank": [20, 6, 1.1]}, "rerank must be"),
        ({"rerank": [20.5, 6, 0.3]}, "rerank must be"),
    ],
)
def test_nonsense_arguments_are_refused(arguments, message):
    with pytest.raises(ValueError, match=message):
        Recall(**arguments)


def test_batches_that_do_not_fit_are_refused():
    metric, x, labels = Recall(), *items()
    ids = list(range(300))
    for outputs, batch, message in [
        ({"logits": x}, Batch(labels=labels, ids=ids), "'embeddings'"),
        ({"embeddings": x}, Batch(labels=None, ids=ids), "needs labels"),
        ({"embeddings": x}, Batch(labels=labels), "0 ids"),
        ({"embeddings": x}, Batch(labels=labels, ids=ids[1:]), "299 ids"),
        ({"embeddings": x}, Batch(labels=labels, ids=ids, roles=["document"] * 300), "document"),
    ]:
        with pytest.raises(ValueError, match=message):
            metric.update(outputs, batch)
    with pytest.raises(ValueError, match="no item"):
        metric.compute()
    with pytest.raises(ValueError, match="needs queries and a gallery"):
        feed(metric, x, labels, roles=["query"] * 300)
    with pytest.raises(ValueError, match="some have none"):
        feed(metric, x, labels)
    with pytest.raises(ValueError, match="not unique"):
        rank_queries(
            x, x, query_labels=labels, gallery_labels=labels, query_ids=labels, gallery_ids=torch.zeros(300).long()
        )


def test_diverged_embeddings_are_counted_and_refused():
    x, labels = items()
    x[7, 3], x[9, 0] = torch.nan, torch.inf
    with pytest.raises(ValueError, match="2 of 300 gallery embeddings hold NaN or infinity"):
        feed(Recall(), x, labels)


def test_summaries_without_queries_divide_by_nothing():
    empty = {"rank": torch.zeros(0, dtype=torch.long), "map@r": torch.zeros(0), "r_precision": torch.zeros(0)}
    assert summarize(empty, [1])["recall@1"] == 0


WORKER = """
import sys, torch, torch.distributed as dist
from toolbox.base import Batch
from toolbox_retrieval.recall import Recall
rank, folder = int(sys.argv[1]), sys.argv[2]
data = torch.load(folder + "/items.pt")
dist.init_process_group("gloo", init_method="file://" + folder + "/meet", rank=rank, world_size=2)
results = []
for share in data["shares"][rank]:
    metric = Recall()
    for part in torch.tensor(share, dtype=torch.long).split(50):
        if len(part):
            metric.update({"embeddings": data["x"][part]},
                          Batch(labels=data["labels"][part], ids=["item %d" % i for i in part]))
    results.append(metric.compute())
torch.save(results, folder + "/%d.pt" % rank)
dist.destroy_process_group()
"""


def test_two_processes_give_the_numbers_of_one(tmp_path):
    x, labels = items(noise=2.0)
    rows = list(range(300))
    # uneven with a repeated item, then one process without any
    shares = [[rows[:201], rows], [[*rows[201:], 0, 5], []]]
    torch.save({"x": x, "labels": labels, "shares": shares}, tmp_path / "items.pt")
    run_ranks("-c", WORKER, folder=tmp_path)
    expected = feed(Recall(), x, labels, ids=[f"item {i}" for i in range(300)])
    for rank in range(2):
        assert torch.load(tmp_path / f"{rank}.pt") == [expected, expected]


# findings


class Shapes(Labelled):
    def __init__(self, labels, groups=None, classes=None):
        super().__init__(labels)
        self.groups, self.classes = groups, classes


def judged(n=200, classes=50, noise=2.0, indices=True, **arguments):
    """A metric after `compute`, its embeddings, labels and dataset; item i has the dataset index i + 100."""
    x, labels = items(n=n, classes=classes, noise=noise)
    labels[labels >= 900] -= 840
    metric = Recall(ks=[1, 10], **arguments)
    for part in torch.arange(n).split(32):
        ids = [f"item {i:03}" for i in part.tolist()]
        batch = Batch(labels=labels[part], ids=ids, indices=(part + 100).tolist() if indices else [])
        metric.update({"embeddings": x[part]}, batch)
    numbers = metric.compute()
    groups = ["none"] * 100 + ["even" if label % 2 == 0 else "odd" for label in labels.tolist()]
    dataset = Shapes([0] * 100 + labels.tolist(), groups, [f"class {i}" for i in range(70)])
    return metric, numbers, x, labels, dataset


def titled(report_items):
    return {finding.title: finding for finding in report_items}


def test_examples_are_dataset_indices_ranked_and_never_the_query_itself():
    metric, _, x, labels, dataset = judged()
    similar = torch.nn.functional.normalize(x) @ torch.nn.functional.normalize(x).T
    ranks = metric._rankings[""]["rank"]
    found = titled(metric.report_items(dataset))
    spread = found["Queries and what was found"].examples
    assert len({example.query for example in spread}) == len(spread) > 20
    assert {example.results[0][1] for example in spread} == {True, False}
    hardest = found["Hardest misses"].examples
    confused = found["Confused classes"].examples if "Confused classes" in found else []
    for example in [*spread, *hardest, *confused]:
        query = example.query - 100
        assert example.query not in [index for index, _, _ in example.results]
        expected = similar[query].index_fill(0, torch.tensor(query), -2).topk(10)
        assert [index - 100 for index, _, _ in example.results] == expected.indices.tolist()
        assert [score for _, _, score in example.results] == pytest.approx(expected.values.tolist(), abs=1e-6)
        assert [right for _, right, _ in example.results] == (labels[expected.indices] == labels[query]).tolist()
    shown = [int(ranks[example.query - 100]) for example in hardest]
    assert shown == ranks.sort(descending=True).values[: len(shown)].tolist()
    assert [example.note for example in hardest] == [f"first match at rank {rank:,}" for rank in shown]


def test_findings_say_what_the_numbers_say():
    metric, numbers, x, labels, dataset = judged(dims=[4], alpha_qe=[3, 1.0])
    everything = metric.report_items(dataset)
    found = titled(everything)
    for prefix, name in (("", "plain"), ("dim4/", "dim4"), ("alpha_qe/", "alpha_qe")):
        curve = dict(found["Recall@K"].series[name])
        assert (curve[1], curve[10]) == pytest.approx((numbers[f"{prefix}recall@1"], numbers[f"{prefix}recall@10"]))
        assert list(curve.values()) == sorted(curve.values())
        assert max(curve) == 199
    shorter = dict(found["Shorter embeddings"].series["map@r"])
    assert shorter == pytest.approx({4: numbers["dim4/map@r"], 16: numbers["map@r"]})
    table = found["By super-class"]
    assert table.columns == ["group", "queries", "recall@1", "recall@10", "map@r"]
    assert {row[0] for row in table.rows} == {"even", "odd"}
    counted = numbers["queries"] - numbers["queries_without_positive"]
    assert 190 < sum(row[1] for row in table.rows) == counted < 200
    assert sum(row[1] * row[2] for row in table.rows) / counted == pytest.approx(numbers["recall@1"])
    ranks = [rank for rank in metric._rankings[""]["rank"].tolist() if rank]
    outcomes = everything[-1]
    assert outcomes.title == "rank of the first match"
    assert outcomes.values == ranks
    assert outcomes.ids[0].startswith("item ")
    assert set(outcomes.groups) == {"even", "odd"}
    where = found["Where the first match stands"]
    assert sum(row[1] for row in where.rows) == 200
    assert where.rows[0][1:] == [ranks.count(1), ranks.count(1) / 200]
    histogram = found["Similarity of the nearest"]
    unit = torch.nn.functional.normalize(x.double())
    similar = (unit @ unit.T).fill_diagonal_(-2)
    same = labels[:, None] == labels[None]
    asked = (same.sum(1) > 1).nonzero()[:, 0]
    for name, mask in (("nearest positive", same), ("nearest negative", ~same)):
        nearest = similar.masked_fill(~mask, -2).amax(1)[asked]
        expected = torch.histogram(nearest, torch.tensor(histogram.edges).double()).hist / len(asked)
        assert histogram.series[name] == pytest.approx(expected.tolist(), abs=1e-9)
    assert "By super-class" not in titled(judged(by_group=False)[0].report_items(dataset))


def test_confused_classes_are_counted_in_both_directions():
    metric, _, x, labels, dataset = judged(classes=12, noise=3.0)
    table = next(f for f in metric.report_items(dataset) if f.title == "Confused classes" and hasattr(f, "rows"))
    unit = torch.nn.functional.normalize(x)
    first = labels[(unit @ unit.T).fill_diagonal_(-2).argmax(1)].tolist()
    asked = [i for i in range(200) if (labels == labels[i]).sum() > 1]
    pairs = [(labels[i].item(), first[i]) for i in asked if first[i] != labels[i]]
    assert table.rows[0][2] + table.rows[0][3] == max(pairs.count((a, b)) + pairs.count((b, a)) for a, b in pairs)
    for a, b, forth, back, share in table.rows:
        a, b = int(a.removeprefix("class ")), int(b.removeprefix("class "))
        assert (forth, back) == (pairs.count((a, b)), pairs.count((b, a)))
        assert share == pytest.approx((forth + back) / ((labels == a) | (labels == b)).sum().item())


def test_findings_without_indices_groups_or_mistakes():
    metric, *_, dataset = judged(indices=False)
    kinds = {type(finding).__name__ for finding in metric.report_items(dataset)}
    assert kinds == {"Curve", "Histogram", "Table", "Outcomes"}
    assert metric.report_items(dataset)[-1].groups == []
    assert Recall().report_items(dataset) == []
    perfect, *_ = judged(noise=0.01)
    titles = titled(perfect.report_items(Shapes([0] * 300)))
    assert "Hardest misses" not in titles
    assert "Confused classes" not in titles
    tiny = Recall(ks=[1])
    tiny.update({"embeddings": torch.eye(2)}, Batch(labels=torch.zeros(2).long(), ids=["a", "b"], indices=[0, 1]))
    assert tiny.compute()["recall@1"] == 1
    assert tiny.report_items(Shapes([0, 0]))


# shorter embeddings and intervals


def test_dims_judge_the_first_dimensions_and_change_no_plain_number():
    x, labels = items(noise=2.0)
    plain = feed(Recall(ks=[1, 10]), x, labels)
    metric = Recall(ks=[1, 10], dims=[16, 3])
    found = feed(metric, x, labels)
    assert list(found) == metric.names()
    assert list(found)[: len(plain)] == list(plain)
    assert {name: found[name] for name in plain} == plain
    for d in (3, 16):
        expected = leave_one_out(x[:, :d].contiguous(), labels, ks=[1, 10])
        assert {name: found[f"dim{d}/{name}"] for name in expected if not name.startswith("queries")} == {
            name: value for name, value in expected.items() if not name.startswith("queries")
        }
    assert found["dim16/recall@1"] == found["recall@1"] != found["dim3/recall@1"]
    too_wide = Recall(ks=[1], dims=[17])
    (problem,) = too_wide.check_outputs({"embeddings": x})
    assert problem.where == "dims"
    with pytest.raises(ValueError, match="17 dimensions, and the embeddings have 16"):
        feed(too_wide, x, labels)


def test_summaries_are_the_means_of_outcomes():
    x, labels = items(noise=2.0)
    numbers = torch.arange(300)
    found = rank_queries(x, x, query_labels=labels, gallery_labels=labels, query_ids=numbers, gallery_ids=numbers)
    for lone in ("miss", "skip"):
        expected = summarize(found, [1, 10], lone=lone)
        for name, (values, counted) in compute_query_outcomes(found, [1, 10], lone=lone).items():
            assert (values * counted).sum() / counted.sum() == pytest.approx(expected[name]), name


def outcomes_of(hits, labels):
    """Per-query numbers of queries that find their match first, or second."""
    return {"rank": 2 - hits.long(), "map@r": hits.float(), "r_precision": hits.float()}, labels


def test_intervals_equal_a_plain_bootstrap_over_classes():
    x, labels = items(n=120, classes=20, noise=3.0)
    numbers = torch.arange(120)
    found = rank_queries(x, x, query_labels=labels, gallery_labels=labels, query_ids=numbers, gallery_ids=numbers)
    generator = torch.Generator().manual_seed(0)
    for lone in ("miss", "skip"):
        names = labels[found["rank"] > 0 if lone == "skip" else slice(None)].unique().tolist()
        got = bootstrap.estimate_intervals(found, labels, [1, 10], 50, lone=lone)
        means = []
        generator.manual_seed(0)
        for row in torch.randint(len(names), (50, len(names)), generator=generator).tolist():
            rows = torch.cat([(labels == names[cluster]).nonzero()[:, 0] for cluster in row])
            means.append(summarize({name: values[rows] for name, values in found.items()}, [1, 10], lone=lone))
        for name, bounds in got.items():
            expected = np.quantile([mean[name] for mean in means], [0.025, 0.975])
            assert bounds == pytest.approx(tuple(expected), abs=1e-12), name


def test_intervals_do_not_depend_on_how_draws_are_split(monkeypatch):
    found, labels = outcomes_of(torch.rand(200) < 0.7, torch.arange(200) // 4)
    expected = bootstrap.estimate_intervals(found, labels, [1], 100)
    monkeypatch.setattr(resampling, "DRAWS", 170)
    assert bootstrap.estimate_intervals(found, labels, [1], 100) == expected


def test_intervals_are_those_of_the_binomial_and_wider_where_a_class_moves_together():
    generator = torch.Generator().manual_seed(1)
    hits = torch.rand(2000, generator=generator) < 0.7
    single = bootstrap.estimate_intervals(*outcomes_of(hits, torch.arange(2000)), [1], 2000)["recall@1"]
    p = hits.float().mean().item()
    expected = 1.96 * (p * (1 - p) / 2000) ** 0.5
    assert single == pytest.approx((p - expected, p + expected), abs=0.1 * expected)
    together = hits[:500].repeat_interleave(4)
    wide = bootstrap.estimate_intervals(*outcomes_of(together, torch.arange(2000) // 4), [1], 2000)["recall@1"]
    naive = bootstrap.estimate_intervals(*outcomes_of(together, torch.arange(2000)), [1], 2000)["recall@1"]
    assert (wide[1] - wide[0]) / (naive[1] - naive[0]) == pytest.approx(2, rel=0.1)


def test_the_metric_gives_bounds_around_its_numbers():
    x, labels = items(noise=2.5)
    found = feed(Recall(ks=[1, 10], intervals=200), x, labels)
    for name in ("recall@1", "recall@10", "map@r", "r_precision", "mrr"):
        assert found[f"{name}_low"] < found[name] < found[f"{name}_high"], name
    with pytest.raises(ValueError, match="two classes"):
        feed(Recall(ks=[1], intervals=200), x, torch.zeros(300).long())
    assert Recall([1], intervals=200).check(Labelled([0] * 160))[0].where == "intervals"
