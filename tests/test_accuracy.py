"""Accuracy and CalibrationError: their numbers against plain loops, what they refuse, what they show."""

from __future__ import annotations

import math
import random
import re
from dataclasses import replace

import numpy as np
import pytest
import torch
from test_report import Page, Squares
from toolbox_classification.accuracy import Accuracy
from toolbox_classification.calibration import CalibrationError

from toolbox.base import Batch, Curve, Gallery, Histogram, Matrix, Outcomes, Table
from toolbox.report import load_report_items, save_report_items, write_report
from toolbox.report.matrix import draw_matrix


class Named:
    """A dataset's labels and names, without its pictures."""

    groups = None

    def __init__(self, labels, classes=None):
        self.labels = list(labels)
        self.classes = [f"class {i}" for i in range(classes)] if classes else None


def made(items=200, classes=12, seed=0, noise=2.0):
    """(logits, labels): right more often than not, with some ties."""
    generator = torch.Generator().manual_seed(seed)
    labels = torch.randint(classes, (items,), generator=generator)
    logits = torch.randn(items, classes, generator=generator)
    logits[torch.arange(items), labels] += noise
    return (4 * logits).round() / 4, labels


def judged(metric, logits, labels, size=None):
    metric.reset()
    for rows in torch.arange(len(labels)).split(size or len(labels)):
        batch = Batch(labels=labels[rows], ids=rows.tolist(), indices=rows.tolist())
        metric.update({"logits": logits[rows]}, batch)
    return metric.compute()


def of(report_items, kind, title=""):
    return next(found for found in report_items if isinstance(found, kind) and title in found.title)


# ---- numbers


@pytest.mark.parametrize(("classes", "noise"), [(12, 2.0), (6, 0.0), (150, 3.0)])
def test_accuracy_equals_a_plain_loop(classes, noise):
    logits, labels = made(classes=classes, noise=noise)
    found = judged(Accuracy([1, 2, 5]), logits, labels, size=37)
    places, recalls, tied = [], {}, 0
    for row, label in zip(logits.tolist(), labels.tolist(), strict=True):
        place = sum(value >= row[label] for other, value in enumerate(row) if other != label)
        tied += any(value == row[label] for other, value in enumerate(row) if other != label)
        places.append(place)
        recalls.setdefault(label, []).append(place == 0)
    assert tied  # else the rule for ties is not tried
    for k in (1, 2, 5):
        assert found[f"top{k}"] == sum(place < k for place in places) / len(places)
    mean = sum(sum(right) / len(right) for right in recalls.values()) / len(recalls)
    assert found["balanced_accuracy"] == pytest.approx(mean, abs=1e-12)
    assert list(found) == ["top1", "top2", "top5", "balanced_accuracy"]


def test_a_model_that_says_the_same_of_everything_scores_nothing():
    labels = torch.arange(30) % 3
    found = judged(Accuracy([1, 2]), torch.zeros(30, 3), labels)
    assert set(found.values()) == {0.0}
    # negative control: the smallest difference decides
    logits = torch.zeros(30, 3).index_put((torch.arange(30), labels), torch.tensor(1e-6))
    assert set(judged(Accuracy([1, 2]), logits, labels).values()) == {1.0}


def test_a_class_that_is_rare_counts_as_much_in_the_balanced_number():
    labels = torch.tensor([0] * 90 + [1] * 10)
    found = judged(Accuracy([1]), torch.tensor([[1.0, 0.0]]).expand(100, 2), labels)
    assert found == {"top1": 0.9, "balanced_accuracy": 0.5}


def test_an_item_that_is_seen_twice_counts_once():
    logits, labels = made()
    metric = Accuracy()
    alone = judged(metric, logits, labels)
    again = Batch(labels=labels[:50], ids=list(range(50)), indices=list(range(50)))
    metric.update({"logits": logits[:50]}, again)
    assert metric.compute() == alone
    metric.update({"logits": logits[:50]}, replace(again, ids=[f"other {i}" for i in range(50)]))  # negative control
    assert metric.compute() != alone


@pytest.mark.parametrize("metric", [Accuracy(), CalibrationError()])
def test_items_of_one_id_are_not_taken_for_one(metric):
    batch = Batch(labels=torch.tensor([0, 1, 2, 0]), ids=["a", "b", "b", "c"], indices=[0, 1, 2, 3])
    metric.update({"logits": torch.eye(4)}, batch)
    with pytest.raises(ValueError, match="1 items have the id of another one, such as item 1: 'b'"):
        metric.compute()


@pytest.mark.parametrize("bins", [1, 7, 15, 100])
def test_calibration_error_equals_a_plain_loop(bins):
    logits, labels = made(items=400, noise=1.0)
    logits += torch.rand(logits.shape, generator=torch.Generator().manual_seed(1)) / 100  # no ties
    probabilities = np.exp(logits.double().numpy())
    probabilities /= probabilities.sum(axis=1, keepdims=True)
    expected = 0.0
    for number in range(bins):
        inside = [
            (row.max(), row.argmax() == label)
            for row, label in zip(probabilities, labels.tolist(), strict=True)
            if number / bins < row.max() <= (number + 1) / bins
        ]
        if inside:
            sure, right = (sum(column) / len(inside) for column in zip(*inside, strict=True))
            expected += len(inside) / len(labels) * abs(right - sure)
    found = judged(CalibrationError(bins), logits, labels, size=33)["calibration_error"]
    assert found == pytest.approx(expected, abs=1e-6)
    assert found > 1e-3


def test_a_calibrated_model_has_no_error_and_one_that_boasts_has_its_excess():
    labels = torch.tensor([0] * 75 + [1] * 25)
    logits = torch.tensor([[math.log(0.75), math.log(0.25)]]).expand(100, 2)
    assert judged(CalibrationError(), logits, labels)["calibration_error"] == pytest.approx(0, abs=1e-6)
    boasting = judged(CalibrationError(), 100 * logits, labels)["calibration_error"]
    assert boasting == pytest.approx(0.25, abs=1e-6)
    assert CalibrationError.better == "less"
    assert Accuracy.better == "greater"


def test_intervals_are_those_of_the_bootstrap_over_items():
    logits, labels = made(items=150, noise=2.5)
    metric = Accuracy([1, 3], intervals=2000)
    found = judged(metric, logits, labels)
    assert list(found) == metric.names()
    assert judged(metric, logits, labels, size=7) == found  # the draws are seeded
    chance = np.random.default_rng(3)
    rank = ((logits >= logits.gather(1, labels[:, None])).sum(1)).numpy()
    drawn = {"top1": [], "top3": [], "balanced_accuracy": []}
    for _ in range(2000):
        rows = chance.integers(0, 150, 150)
        right, own = rank[rows] <= 1, labels.numpy()[rows]
        drawn["top1"].append(right.mean())
        drawn["top3"].append((rank[rows] <= 3).mean())
        drawn["balanced_accuracy"].append(np.mean([right[own == label].mean() for label in np.unique(own)]))
    for name, values in drawn.items():
        low, high = np.quantile(values, [0.025, 0.975])
        assert found[f"{name}_low"] == pytest.approx(low, abs=0.02)
        assert found[f"{name}_high"] == pytest.approx(high, abs=0.02)
        assert found[f"{name}_low"] < found[name] < found[f"{name}_high"]


# ---- what is refused


def test_too_few_classes_for_a_k_are_refused_or_said():
    with pytest.raises(ValueError, match="top5 would be 1 for any answer among 5 classes"):
        judged(Accuracy([1, 5]), *made(classes=5))
    asked = Accuracy([1, 5])
    assert [problem.hint for problem in asked.check(Named([0, 1], 3))] == ["use ks=[1]"]
    assert [problem.where for problem in asked.check_outputs({"logits": torch.empty(1, 5, device="meta")})] == ["ks"]
    assert asked.check(Named([0, 1], 6)) == asked.check_outputs({"logits": torch.empty(1, 6, device="meta")}) == []
    metric = Accuracy()
    assert metric.check(Named([0, 1], 2)) == []
    found = judged(metric, *made(classes=5))
    assert list(found) == ["top1", "balanced_accuracy"]
    table = of(metric.report_items(Named([], 5)), Table, "By class")
    assert "There is no top5: it would be 1 for any answer among 5 classes." in table.note


@pytest.mark.parametrize("make", [Accuracy, CalibrationError])
def test_what_cannot_be_judged_is_refused(make):
    metric = make()
    assert "has none" in metric.check(type("Bare", (), {"labels": None}))[0].message
    assert "has 1" in metric.check(Named([0, 0], 1))[0].message
    assert "gives embeddings" in metric.check_outputs({"embeddings": torch.empty(2, 3)})[0].message
    assert "of shape (2, 3, 4)" in metric.check_outputs({"logits": torch.empty(2, 3, 4)})[0].message
    logits, labels = made(classes=6)
    with pytest.raises(ValueError, match="class number 6, and the model chooses from 6"):
        judged(metric, logits, labels.clone().index_fill_(0, torch.tensor([3]), 6))
    with pytest.raises(ValueError, match="class number -1"):
        judged(metric, logits, labels.clone().index_fill_(0, torch.tensor([3]), -1))
    for bad in (math.nan, math.inf):
        broken = logits.clone()
        broken[[4, 9], 2] = bad
        with pytest.raises(ValueError, match=r"2 of 200 items hold NaN or infinity \(4, 9\)"):
            judged(metric, broken, labels)
    masked = logits.clone()
    masked[:, 0] = -math.inf  # a class that is ruled out is no mistake of the numbers
    assert all(map(math.isfinite, judged(metric, masked, labels).values()))
    with pytest.raises(ValueError, match="0 labels for 2 items"):
        metric.update({"logits": torch.zeros(2, 6)}, Batch(labels=None, ids=[0, 1]))
    with pytest.raises(ValueError, match="reads the model's 'logits'"):
        metric.update({"embeddings": torch.zeros(2, 6)}, Batch(labels=torch.tensor([0, 1]), ids=[0, 1]))
    metric.reset()
    with pytest.raises(ValueError, match="saw no item"):
        metric.compute()
    for classes in (6, 7):
        batch = Batch(labels=torch.tensor([0]), ids=[classes])
        metric.update({"logits": torch.zeros(1, classes)}, batch)
    with pytest.raises(ValueError, match="6 logits for some items and 7 for others"):
        metric.compute()


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda: Accuracy([]), "different numbers from 1 up"),
        (lambda: Accuracy([0]), "from 1 up"),
        (lambda: Accuracy([1, 1]), "different"),
        (lambda: Accuracy(intervals=-1), "at least 0"),
        (lambda: CalibrationError(0), "at least 1"),
    ],
)
def test_arguments_that_make_no_sense(make, words):
    with pytest.raises(ValueError, match=words):
        make()


# ---- findings


def test_the_findings_tell_who_is_taken_for_whom():
    labels = torch.tensor([0] * 10 + [1] * 10 + [2] * 5)
    said = torch.tensor([0] * 10 + [0] * 6 + [2] * 1 + [1] * 3 + [2] * 4 + [1])
    logits = torch.nn.functional.one_hot(said, 4).float() * torch.linspace(3, 8, 25)[:, None]
    metric = Accuracy([1])
    assert judged(metric, logits, labels)["top1"] == 17 / 25
    found = metric.report_items(Named(labels.tolist(), 4))
    table = of(found, Table, "By class")
    assert table.rows == [
        ["class 1", 10, 0.3, "class 0"],
        ["class 2", 5, 0.8, "class 1"],
        ["class 0", 10, 1.0, None],
    ]
    assert "1 more have no item here" in table.note
    assert of(found, Table, "confusions").rows[0] == ["class 1", "class 0", 6, 0.6]
    matrix = of(found, Matrix)
    assert matrix.values == [[1, 0, 0, 0], [0.6, 0.3, 0.1, 0], [0, 0.2, 0.8, 0], [0, 0, 0, 0]]
    gallery = of(found, Gallery)
    assert gallery.examples[0].query == 24
    assert re.fullmatch(r"is class 2, predicted class 1 with \d\.\d\d", gallery.examples[0].note)
    assert len(gallery.examples) == 8
    outcomes = of(found, Outcomes)
    assert (sum(outcomes.values), outcomes.mean) == (17, "top1")
    assert outcomes.ids == [str(i) for i in range(25)]


def test_a_tie_that_is_lost_is_said_to_be_the_other_class():
    metric = Accuracy([1])
    judged(metric, torch.zeros(4, 3), torch.tensor([0, 0, 1, 2]))
    matrix = of(metric.report_items(Named([], 3)), Matrix)
    assert [matrix.values[i][i] for i in range(3)] == [0, 0, 0]
    assert [sum(row) for row in matrix.values] == [1, 1, 1]


def test_many_classes_show_the_worst_and_say_how_many_are_left_out():
    logits, labels = made(items=3000, classes=300, noise=2.0)
    metric = Accuracy()
    judged(metric, logits, labels)
    found = metric.report_items(Named(labels.tolist(), 300))
    table, matrix = of(found, Table, "By class"), of(found, Matrix)
    present = len(labels.unique())
    assert f"The worst 50 of {present} classes; {present - 50} are left out." in table.note
    assert [row[2] for row in table.rows] == sorted(row[2] for row in table.rows)
    assert (len(table.rows), len(matrix.rows)) == (50, 25)
    assert "The 25 of 300 classes with the most confusions." in matrix.note
    assert len(of(found, Gallery).examples) == 24
    perfect = torch.nn.functional.one_hot(labels, 300).float()
    judged(metric, perfect, labels)
    assert [type(one) for one in metric.report_items(Named(labels.tolist(), 300))] == [Table, Outcomes]


def test_reliability_is_drawn_of_what_the_bins_hold():
    logits, labels = made(noise=1.0)
    metric = CalibrationError(10)
    number = judged(metric, logits, labels)["calibration_error"]
    curve, histogram = metric.report_items(Named([]))
    assert isinstance(curve, Curve)
    assert isinstance(histogram, Histogram)
    assert curve.series["calibrated"] == [(0, 0), (1, 1)]
    assert all(0 <= x <= 1 and 0 <= y <= 1 for x, y in curve.series["accuracy"])
    assert [sum(shares) for shares in histogram.series.values()] == pytest.approx([1, 1])
    counts = np.histogram(judged_confidence(logits), bins=np.linspace(0, 1, 11))[0]
    gaps = [abs(x - y) for x, y in curve.series["accuracy"]]
    assert number == pytest.approx(sum(g * n for g, n in zip(gaps, counts[counts > 0], strict=True)) / 200, abs=1e-6)


def judged_confidence(logits):
    return logits.softmax(dim=1).amax(dim=1).numpy()


# ---- the report


def test_the_report_draws_it_all(tmp_path):
    logits, labels = made(items=60, classes=3, noise=0.5)
    metrics = [Accuracy([1]), CalibrationError()]
    for metric in metrics:
        judged(metric, logits, labels)
    dataset = Squares(60)
    found = [one for metric in metrics for one in metric.report_items(dataset)]
    page = Page(write_report(tmp_path, {"after": judged(metrics[0], logits, labels)}, (dataset, found)))
    assert len(page.all("figure", "matrix")) == 1
    assert len(page.all("rect", "heat")) == 9
    assert page.all("ol", "flips")
    assert not page.all("ol", "queries")  # its items were not asked for others
    assert "no results" not in page.text
    assert "similarity to the query" not in page.text
    assert "<script" not in page.source
    assert "is black, predicted white" in page.text
    assert load_report_items(save_report_items(tmp_path, found))[-1].title == "How sure it is"


def test_a_matrix_survives_the_file_and_any_of_them_can_be_drawn(tmp_path):
    matrix = Matrix("M", ["a", "b"], ["x", "y", "z"], [[0.1, math.nan, 1], [np.float32(0.5), 0, -2]], "said", "class")
    back = load_report_items(save_report_items(tmp_path, [matrix]))[0]
    assert back.values[1] == [0.5, 0, -2]
    assert math.isnan(back.values[0][1])
    drawing = draw_matrix(back)
    assert [square.share for square in drawing.squares] == pytest.approx([0.7, 0, 1, 0.833, 0.667, 0], abs=1e-3)
    assert drawing.squares[2].tip == "class a, said z: 1.0000"
    assert "1 of the values are not finite: their cells are empty." in drawing.remarks
    assert "differ in length" in draw_matrix(Matrix("M", ["a"], ["x"], [[1, 2]], "x", "y")).remarks[0]
    assert draw_matrix(Matrix("M", [], [], [], "x", "y")).remarks == ["There is no value to draw."]
    wide = Matrix("M", ["a" * 99] * 60, ["b"] * 70, [[random.random()] * 70] * 60, "x", "y")
    drawing = draw_matrix(wide)
    assert (len(drawing.squares), drawing.remarks[0]) == (
        1600,
        "20 more rows and 30 more columns are in report_items.json.",
    )
    assert len(drawing.rows[0][1]) < 20
    same = draw_matrix(Matrix("M", ["a"], ["x"], [[0]], "x", "y"))
    assert [square.share for square in same.squares] == [0]
    for damaged in ('"values":[[1]]', '"values":[[1,2,3]]', '"values":3'):
        matrix = f'{{"kind":"matrix","title":"t","rows":["a"],"columns":["x","y"],{damaged}}}'
        text = f'{{"format":1,"report_items":[{matrix}]}}'
        (tmp_path / "report_items.json").write_text(text)
        with pytest.raises(Exception, match="The file is damaged"):
            load_report_items(tmp_path)
