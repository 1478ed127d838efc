"""Retrieval metrics against stored reference numbers, a brute force in float64, and pytorch-metric-learning."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from toolbox.cli.benchmarks import recall as benchmark
from toolbox.core import ranking as retrieval
from toolbox.core.ranking import rank_metrics, rank_queries, summarize
from toolbox.core.retrieval import RetrievalRecall

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
        **{f"recall@{k}": sum(0 < rank <= k for rank in ranks) / len(ranks) for k in ks},
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
        batch = {"labels": labels[part], "ids": ids[part]} | ({} if roles is None else {"roles": roles[part]})
        metric.update({"embeddings": x[part]}, batch)
    return metric.compute()


# stored reference numbers


def test_recall_equals_the_stored_numbers():
    data = golden("retrieval_recall")
    x, labels, ks = data["in_embeddings"], data["in_labels"], data["param_k"].tolist()
    found = leave_one_out(x, labels, ks=ks)
    assert [found[f"recall@{k}"] for k in ks] == pytest.approx(data["out_leave_one_out"].tolist(), abs=1e-6)
    everything = leave_one_out(x, labels, ks=[len(x)])
    assert everything[f"recall@{len(x)}"] == pytest.approx(data["expected_k_equal_n_self_never_counted"].item())

    def against_gallery(queries, query_labels, **ids):
        found = rank_metrics(queries, x, query_labels=query_labels, gallery_labels=labels, ks=ks, **ids)
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
        largest, columns = retrieval.largest(values, count)
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
        "recall@1": "precision_at_1", "map@r": "mean_average_precision_at_r", "r_precision": "r_precision",
        "mrr": "mean_reciprocal_rank",
    }  # fmt: skip
    calculator = AccuracyCalculator(
        include=tuple(names.values()), k=None, device=torch.device("cpu"),
        knn_func=CustomKNN(CosineSimilarity(), batch_size=64), kmeans_func=lambda *_: None,
    )  # fmt: skip
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
        x[:1], x[:2], query_labels=torch.tensor([5]), gallery_labels=torch.tensor([6, 5]),
        query_ids=torch.tensor([0]), gallery_ids=torch.tensor([0, 1]),
    )  # fmt: skip
    assert relabelled["rank"].tolist() == [1]


def test_lone_classes_miss_or_are_skipped():
    x, labels = items(noise=0.1)
    miss, skip = leave_one_out(x, labels), leave_one_out(x, labels, lone="skip")
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
    original = retrieval._judge

    def watch(similar, *rest):
        seen.add(len(similar))
        return original(similar, *rest)

    monkeypatch.setattr(retrieval, "_judge", watch)
    for memory_mb in (1, 2, 5, 4000):
        seen.clear()
        assert leave_one_out(x, labels, memory_mb=memory_mb) == expected
        assert max(seen) * x.shape[0] * 4 <= memory_mb * 2**20
    monkeypatch.setattr(retrieval, "_ROWS", 7)
    assert leave_one_out(x, labels) == expected


def test_no_square_matrix_is_made():
    n = 6000
    x, labels = benchmark.items(n, 8)
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
    expected = leave_one_out(x, labels)
    metric = RetrievalRecall()
    with torch.inference_mode():
        assert feed(metric, x, labels, batch_size=64) == expected
    metric.reset()
    order = torch.randperm(300, generator=torch.Generator().manual_seed(2))
    assert feed(metric, 5 * x[order], labels[order], ids=order.tolist(), batch_size=11) == pytest.approx(expected)
    assert metric.compute() == pytest.approx(expected)


def test_ids_may_be_strings_and_repeated_items_count_once():
    x, labels = items()
    names = [f"img_{i}.jpg" for i in range(300)]
    expected = leave_one_out(x, labels)
    assert feed(RetrievalRecall(), x, labels, ids=names) == pytest.approx(expected)
    padded = feed(RetrievalRecall(), torch.cat([x, x[:9]]), torch.cat([labels, labels[:9]]), ids=names + names[:9])
    assert padded == pytest.approx(expected)
    # were they kept, each would find its copy
    wrong = feed(RetrievalRecall(), torch.cat([x, x[:9]]), torch.cat([labels, labels[:9]]))
    assert wrong["queries"] == 309
    assert wrong["recall@1"] != pytest.approx(expected["recall@1"])


def test_half_precision_embeddings_are_read():
    x, labels = items(noise=0.3)
    assert feed(RetrievalRecall(), x.bfloat16(), labels)["recall@1"] > 0.95


def test_queries_and_gallery_by_role():
    x, labels = items(noise=2.0)
    roles = ["query" if i % 4 == 0 else "gallery" for i in range(300)]
    asked = torch.tensor([role == "query" for role in roles])
    expected = rank_metrics(x[asked], x[~asked], query_labels=labels[asked], gallery_labels=labels[~asked])
    found = feed(RetrievalRecall(), x, labels, roles=roles)
    assert found == pytest.approx(expected)
    assert found["queries"] == 75
    assert found["recall@10"] != pytest.approx(leave_one_out(x, labels)["recall@10"])
    # one id in both roles: as a query it does not find itself
    both = feed(
        RetrievalRecall(ks=[1]), torch.cat([x, x]), torch.cat([labels, labels]), ids=[*range(300)] * 2,
        roles=["query"] * 300 + ["gallery"] * 300,
    )  # fmt: skip
    assert both == pytest.approx(leave_one_out(x, labels, ks=[1]))


class Labelled:
    def __init__(self, labels):
        self.labels = labels

    def __len__(self):
        return 160


def test_check_names_the_ks_that_fit():
    dataset = Labelled([i // 4 for i in range(160)])
    (problem,) = RetrievalRecall().check(dataset)
    assert problem.where == "ks"
    assert "Recall@1000" in problem.message
    assert "largest K is 159" in problem.message
    assert problem.hint == "use ks=[1,10,100]"
    assert RetrievalRecall([1, 159]).check(dataset) == []
    assert RetrievalRecall([160]).check(dataset)[0].hint == "use ks=[159]"
    assert "needs labels" in RetrievalRecall([1]).check(Labelled(None))[0].message
    assert "share a class" in RetrievalRecall([1]).check(Labelled(list(range(160))))[0].message


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"ks": []}, "ks must be"),
        ({"ks": [0, 1]}, "ks must be"),
        ({"ks": [1, 1]}, "ks must be"),
        ({"memory_mb": 0}, "memory_mb must be"),
        ({"lone": "keep"}, "lone must be"),
    ],
)
def test_nonsense_arguments_are_refused(arguments, message):
    with pytest.raises(ValueError, match=message):
        RetrievalRecall(**arguments)


def test_batches_that_do_not_fit_are_refused():
    metric, x, labels = RetrievalRecall(), *items()
    ids = list(range(300))
    for outputs, batch, message in [
        ({"logits": x}, {"labels": labels, "ids": ids}, "'embeddings'"),
        ({"embeddings": x}, {"labels": None, "ids": ids}, "needs labels and ids"),
        ({"embeddings": x}, {"labels": labels}, "needs labels and ids"),
        ({"embeddings": x}, {"labels": labels, "ids": ids[1:]}, "299 ids"),
        ({"embeddings": x}, {"labels": labels, "ids": ids, "roles": ["document"] * 300}, "document"),
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
        feed(RetrievalRecall(), x, labels)


def test_summaries_without_queries_divide_by_nothing():
    empty = {"rank": torch.zeros(0, dtype=torch.long), "map@r": torch.zeros(0), "r_precision": torch.zeros(0)}
    assert summarize(empty, [1])["recall@1"] == 0


WORKER = """
import sys, torch, torch.distributed as dist
from toolbox.core.retrieval import RetrievalRecall
rank, folder = int(sys.argv[1]), sys.argv[2]
data = torch.load(folder + "/items.pt")
dist.init_process_group("gloo", init_method="file://" + folder + "/meet", rank=rank, world_size=2)
results = []
for share in data["shares"][rank]:
    metric = RetrievalRecall()
    for part in torch.tensor(share, dtype=torch.long).split(50):
        if len(part):
            metric.update({"embeddings": data["x"][part]},
                          {"labels": data["labels"][part], "ids": ["item %d" % i for i in part]})
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
    workers = [
        subprocess.Popen([sys.executable, "-c", WORKER, str(rank), str(tmp_path)], stderr=subprocess.PIPE, text=True)
        for rank in range(2)
    ]
    errors = [worker.communicate(timeout=120)[1] for worker in workers]
    assert [worker.returncode for worker in workers] == [0, 0], errors
    expected = feed(RetrievalRecall(), x, labels, ids=[f"item {i}" for i in range(300)])
    for rank in range(2):
        assert torch.load(tmp_path / f"{rank}.pt") == [expected, expected]


def test_examples_are_dataset_indices_ranked_and_never_the_query_itself():
    generator = torch.Generator().manual_seed(0)
    metric = RetrievalRecall(ks=[1])
    labels = torch.arange(40) // 4
    embeddings = torch.randn(40, 8, generator=generator) + 2 * torch.randn(10, 8, generator=generator)[labels]
    for part in torch.arange(40).split(16):
        ids = [f"item {i}" for i in part.tolist()]
        metric.update(
            {"embeddings": embeddings[part]}, {"labels": labels[part], "ids": ids, "indices": (part + 100).tolist()}
        )
    recall = metric.compute()["recall@1"]
    assert 0.2 < recall < 1
    found = metric._examples(count=40, results=5)
    assert len({example.query for example in found}) == len(found) > 20
    similar = torch.nn.functional.normalize(embeddings) @ torch.nn.functional.normalize(embeddings).T
    for example in found:
        query = example.query - 100
        assert example.query not in [index for index, _, _ in example.results]
        expected = similar[query].index_fill(0, torch.tensor(query), -2).topk(5)
        assert [index - 100 for index, _, _ in example.results] == expected.indices.tolist()
        assert [score for _, _, score in example.results] == pytest.approx(expected.values.tolist(), abs=1e-6)
        assert [right for _, right, _ in example.results] == (labels[expected.indices] == labels[query]).tolist()
    assert {example.results[0][1] for example in found} == {True, False}
