"""Queries that nothing can answer, and galleries of fewer items than K."""

from __future__ import annotations

import json
import math
from pathlib import Path

import pytest
import torch
from PIL import Image
from test_retrieval import feed
from toolbox_classification.accuracy import Accuracy
from toolbox_classification.calibration import CalibrationError
from toolbox_classification.knn import KNN
from toolbox_classification.logistic import LogisticRegression
from toolbox_datasets.inshop import InShop
from toolbox_datasets.records import Records
from toolbox_retrieval.late_interaction import LateInteractionRecall
from toolbox_retrieval.recall import Recall

from toolbox import api
from toolbox.base import Batch
from toolbox.cli.test import main
from toolbox.report.paired import pair_outcomes

# two pairs, and eight items that are negatives only
LABELS = torch.tensor([0, 0, 1, 1, *range(2, 10)])
EMBEDDINGS = torch.eye(10)[LABELS.clamp(max=2)] + 1e-3 * torch.randn(12, 10, generator=torch.Generator().manual_seed(0))


class Data:
    """What findings ask of a dataset."""

    classes = None

    def __init__(self, groups=None, labels=None, roles=None):
        self.groups, self.labels, self.roles = groups, labels, roles

    def __len__(self):
        return len(self.labels)


def judged(metric, **fields):
    values = {"embeddings": EMBEDDINGS, "tokens": EMBEDDINGS[:, None]}
    metric.update(values, Batch(**{"labels": LABELS, "ids": range(12), "indices": range(12), **fields}))
    return metric.compute()


@pytest.mark.parametrize(("kind", "prefix"), [(Recall, ""), (LateInteractionRecall, "late_interaction/")])
def test_queries_without_a_positive_are_left_out_and_counted(kind, prefix):
    skip, miss = kind(ks=[1]), kind(ks=[1], lone="miss")
    found = judged(skip)
    assert [found[f"{prefix}{name}"] for name in ("recall@1", "map@r", "r_precision", "mrr")] == [1.0] * 4
    assert (found[f"{prefix}queries"], found[f"{prefix}queries_without_positive"]) == (12, 8)
    assert set(found) == set(skip.names())
    (said,) = skip.remarks()
    assert said == "8 of 12 queries have no other item of their class to find: they are left out of all means."
    assert judged(miss)[f"{prefix}recall@1"] == pytest.approx(4 / 12)
    assert miss.remarks() == [
        "8 of 12 queries have no other item of their class to find: they count as misses in Recall@K."
    ]
    # item by item as in the numbers
    of = {lone: metric.report_items(Data())[-1] for lone, metric in (("skip", skip), ("miss", miss))}
    assert of["skip"].values == [1, 1, 1, 1]
    assert len(of["miss"].values) == 12
    assert sum(math.isnan(rank) for rank in of["miss"].values) == pair_outcomes(of["miss"], of["miss"]).unfound == 8


def test_intervals_tables_and_curves_leave_them_out_too():
    variants = dict(dims=[5], alpha_qe=[1, 1.0], rerank=[3, 1, 0.3])
    metric = Recall(ks=[1, 2], intervals=200, **variants)
    found = judged(metric)
    # a draw of classes that has none of the two pairs would say 0
    assert [found[f"recall@1_{end}"] for end in ("low", "high")] == [1.0, 1.0]
    assert [found[f"{name}/recall@2"] for name in ("dim5", "alpha_qe", "k_reciprocal")] == [1.0] * 3
    # of both pairs one item is "mixed", with negatives; "plain" has negatives only
    groups = ["pairs", "mixed", "pairs", "mixed", *["mixed"] * 4, *["plain"] * 4]
    shown = {one.title: one for one in metric.report_items(Data(groups)) if hasattr(one, "title")}
    assert shown["By super-class"].rows == [["mixed", 2, 1.0, 1.0, 1.0], ["pairs", 2, 1.0, 1.0, 1.0]]
    assert {share for line in shown["Recall@K"].series.values() for _, share in line} == {1.0}
    assert {example.query for example in shown["Queries and what was found"].examples} <= {0, 1, 2, 3}
    missed = Recall(ks=[1, 2], intervals=200, lone="miss")
    low, high = (judged(missed)[f"map@r_{end}"] for end in ("low", "high"))
    missed.reset()
    assert (low, high) == (1.0, 1.0)  # it leaves them out in either case, and says nothing of draws without any
    rows = {row[0]: row[1:3] for row in _table(missed, groups).rows}
    assert rows == {"plain": [4, 0.0], "mixed": [6, pytest.approx(1 / 3)], "pairs": [2, 1.0]}


def _table(metric, groups):
    judged(metric)
    return next(one for one in metric.report_items(Data(groups)) if one.title == "By super-class")


def test_no_query_with_a_positive_is_no_number():
    for metric in (Recall(ks=[1]), Recall(ks=[1], lone="miss"), LateInteractionRecall(ks=[1])):
        with pytest.raises(ValueError, match="none of the 12 queries has an item of its class"):
            judged(metric, labels=torch.arange(12))


def test_records_with_negatives_are_judged_by_what_can_be_answered(tmp_path):
    names = ["a1", "a2", "b1", "b2", "n1", "n2", "n3"]
    for number, name in enumerate(names):
        Image.new("RGB", (8, 8), (30 * number,) * 3).save(tmp_path / f"{name}.png")
    lines = [
        dict(query_image="a1.png", positive="a2.png", negatives=["n1.png", "n2.png"]),
        dict(query_image="b1.png", positive="b2.png", negatives=["n3.png"]),
    ]
    (tmp_path / "r.jsonl").write_text("\n".join(map(json.dumps, lines)))
    data = Records(str(tmp_path / "r.jsonl"))
    where = {"a": 0, "b": 1, "n": 2}
    x = torch.eye(3)[[where[path[0]] for path in data.index.paths]]
    metric = Recall(ks=[1])
    found = feed(metric, x + 1e-3 * torch.arange(7)[:, None], torch.tensor(data.labels))
    assert (found["recall@1"], found["queries_without_positive"]) == (1.0, 3)


# a gallery that is a part of the items


@pytest.mark.parametrize("metric", [Recall, LateInteractionRecall])
def test_k_is_held_against_the_gallery_not_against_all_items(metric):
    roles = ["gallery"] * 3 + ["query"] * 9
    data = Data(labels=[0, 1, 2] + [0, 1, 2] * 3, roles=roles)
    (problem,) = metric([1, 3, 10]).check(data)
    assert problem.where == "ks"
    assert "Recall@10 asks for more than the 3 items" in problem.message
    assert problem.hint == "use ks=[1,3]"
    assert metric([1, 3]).check(data) == []
    assert metric([11]).check(Data(labels=data.labels)) == []
    data.labels = [0, 1, 2] + [3] * 9
    assert "No class of the 9 queries is among the 3 items of the gallery" in metric([1]).check(data)[0].message


@pytest.mark.parametrize(("kind", "prefix"), [(Recall, ""), (LateInteractionRecall, "late_interaction/")])
def test_a_k_above_the_gallery_gives_no_number(kind, prefix):
    roles = dict(labels=torch.tensor([0, 1, 2] * 4), roles=["gallery"] * 3 + ["query"] * 9)
    metric = kind(ks=[1, 3, 10])
    found = judged(metric, **roles)
    assert [name for name in found if "recall" in name] == [f"{prefix}recall@1", f"{prefix}recall@3"]
    assert metric.remarks() == ["Recall@10 is left out: a query is compared with 3 items."]
    curve = next(one for one in metric.report_items(Data()) if one.title.startswith("Recall@K"))
    assert max(k for k, _ in curve.series["plain"]) == 3
    with pytest.raises(ValueError, match="Recall@4 asks for more than the 3 items"):
        judged(kind(ks=[4]), **roles)
    # each of 12 is compared with 11 others; in both roles too, as it never finds itself
    pairs = Batch(labels=LABELS.repeat(2), ids=[*range(12)] * 2, roles=["query"] * 12 + ["gallery"] * 12)
    for k in (11, 12):
        one, both = kind(ks=[1, k]), kind(ks=[1, k])
        both.update({"embeddings": EMBEDDINGS.repeat(2, 1), "tokens": EMBEDDINGS.repeat(2, 1)[:, None]}, pairs)
        assert [f"{prefix}recall@{k}" in numbers for numbers in (judged(one), both.compute())] == [k == 11] * 2


def test_in_shop_says_which_items_are_its_gallery(tmp_path):
    rows = [(f"img/W/D/id_{i}/g.jpg", f"id_{i}", "gallery") for i in range(3)]
    rows += [(f"img/W/D/id_{i}/q{j}.jpg", f"id_{i}", "query") for i in range(3) for j in range(2)]
    rows += [(f"img/W/D/id_9{i}/{j}.jpg", f"id_9{i}", "train") for i in range(4) for j in range(3)]
    lines = [f"{len(rows)}", "image_name item_id evaluation_status", *map(" ".join, rows)]
    (tmp_path / "list_eval_partition.txt").write_text("\n".join(lines))
    test, train = (InShop(str(tmp_path), split) for split in ("test", "trainval"))
    assert sorted(test.roles) == ["gallery"] * 3 + ["query"] * 6
    assert train.roles is None
    assert Recall([1, 4]).check(test)[0].hint == "use ks=[1]"


# what is said of it


def test_what_is_left_out_is_said_once_by_a_run_and_by_an_evaluation(toy, capsys):
    data = {"type": "toy.Noise", "count": 13, "seed": 1}  # three classes of four, and one item alone
    overrides = {
        "val_dataloader.dataset": data,
        "val_evaluator": {"type": "retrieval.Recall", "ks": [1]},
        "train_cfg": {"max_steps": 4, "val_interval": 2},
    }
    recipe = toy(overrides)
    api.train(recipe, out="run")
    said = "1 of 13 queries have no other item of their class to find"
    assert capsys.readouterr().out.count(said) == 1
    text = "".join(f"{key} = {value!r}\n" for key, value in api.to_dict(recipe).items())
    Path("recipe.py").write_text(text)
    assert main(["recipe.py", "run", "--json"]) == 0
    captured = capsys.readouterr()
    assert said in captured.err
    assert json.loads(captured.out)["queries_without_positive"] == 1


def test_every_number_of_a_metric_has_its_own_direction():
    less = {
        Recall: ["queries_without_positive"],
        LateInteractionRecall: ["late_interaction/queries_without_positive"],
        LogisticRegression: ["logistic_not_converged"],
        CalibrationError: ["calibration_error"],
        Accuracy: [],
        KNN: [],
    }
    greater = ["recall@1", "late_interaction/map@r", "dim64/recall@1_low", "logistic", "knn@10", "top1", "top5_high"]
    for kind, names in less.items():
        assert [kind().direction(name) for name in names] == ["less"] * len(names)
        if kind is not CalibrationError:
            assert {kind().direction(name) for name in greater} == {"greater"}
