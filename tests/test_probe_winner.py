"""A probe predicts by the method that validated best; training sets are read and kept once."""

from __future__ import annotations

import csv
import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from test_probe import PROBE, clouds, shown
from toolbox_classification.classifiers import NearestNeighbours
from toolbox_classification.knn import KNN
from toolbox_classification.logistic import LogisticRegression
from toolbox_classification.probe import Probe
from toy_plugin import Noise

import toolbox
from toolbox import api
from toolbox.base import Batch, l2_normalize
from toolbox.cli.main import main
from toolbox.engine.checkpoint.files import sha256
from toolbox.errors import ToolboxError

KNN3 = {"type": "classification.KNN", "ks": [3, 7]}  # the items are training items too: k = 1 would tell all
LOGISTIC = {"type": "classification.LogisticRegression", "cs": [0.01, 100.0, 1e4]}
COUNT = 40


def recipe_of(toy, *others, **more):
    """Linear heads that learn nothing, beside what can tell the classes apart."""
    data = {"type": "toy.Noise", "count": COUNT, "per_class": 8}
    return toy(
        {
            **PROBE,
            "model.rates": [1e-9],
            "model.repeats": 1,
            "train_dataloader.sampler": {"type": "core.Shuffled", "batch_size": 16},
            "train_dataloader.dataset": data,
            "val_dataloader.dataset": {**data, "seed": 0, "count": 39},
            "train_cfg": {"max_steps": 4, "val_interval": 2},
            "val_evaluator": [{"type": "classification.ProbeAccuracy", "choose": True}, *others],
            "test_evaluator": [
                {"type": "classification.ProbeAccuracy"},
                {"type": "classification.Accuracy", "ks": [1]},
                *others,
            ],
            "test_dataloader.dataset": {**data, "count": 38},
            "evaluate_pixels": False,
            **more,
        }
    )


def accuracy(encoder, count=38):
    data = Noise(count=count, per_class=8)
    told = encoder.classify([data[i]["image"] for i in range(count)], top=1)
    return sum(row[0][0] == f"class {label}" for row, label in zip(told, data.labels, strict=True)) / count


@pytest.mark.parametrize("method", ["knn", "logistic", "linear"])
def test_what_won_is_saved_and_predicts_as_promised(toy, method, capsys, tmp_path):
    others = {"knn": [KNN3], "logistic": [LOGISTIC], "linear": []}[method]
    more = {"model.rates": [1.0]} if method == "linear" else {}
    recipe = recipe_of(toy, *others, **more)
    results = api.train(recipe, out="run")
    assert results["probes"]["best"] == method
    promised = results["after"][method]
    assert promised > (0.2 if method == "linear" else results["after"]["linear"])
    assert results["after"]["top1"] == pytest.approx(promised)
    encoder = toolbox.load("run")
    assert accuracy(encoder) == pytest.approx(promised)
    names = {"knn": "k-NN, k = ", "logistic": "logistic regression, C = ", "linear": "the linear head mean at rate 1"}
    assert encoder.model.predictor.startswith(names[method])
    assert api.evaluate(recipe, "run", split="test")["top1"] == pytest.approx(promised)
    # from the files, by the command
    data = Noise(count=38, per_class=8)
    (tmp_path / "pictures").mkdir()
    for i in range(38):
        data[i]["image"].save(tmp_path / "pictures" / f"{i:02}.png")
    capsys.readouterr()
    assert main(["predict", "run", "pictures", "--out", "p.csv", "--page", "p.html", "--batch-size", "7"]) == 0
    assert f"by {encoder.model.predictor}" in capsys.readouterr().out
    with open("p.csv", newline="") as file:
        rows = list(csv.DictReader(file))
    right = [row["label1"] == f"class {label}" for row, label in zip(rows, data.labels, strict=True)]
    assert sum(right) / 38 == pytest.approx(promised)
    assert {row["classifier"] for row in rows} == {encoder.model.predictor}
    assert encoder.model.predictor in Path("p.html").read_text()
    if method != "linear":
        assert main(["predict", "run", "pictures/00.png", "--out", "l.json", "--head", "linear"]) == 0
        assert json.loads(Path("l.json").read_text())[0]["classifier"].startswith("the linear head")
        linear = toolbox.load("run", overrides=["model.classifier=linear"])
        assert accuracy(linear) == pytest.approx(results["after"]["linear"])
    else:
        assert main(["predict", "run", "pictures/00.png", "--head", "knn"]) == 2
        assert "model.classifier: The probe shall predict by 'knn', and no metric" in capsys.readouterr().err


def test_k_nn_is_kept_where_it_wins_or_is_asked_for(toy):
    for classifier, kept in (("best", ["logistic"]), ("knn", ["knn", "logistic"])):
        # logistic regression is perfect; k = 39 tells the largest class
        large = {"type": "classification.KNN", "ks": [39], "temperature": 1e6}
        recipe = recipe_of(toy, large, LOGISTIC, **{"model.classifier": classifier})
        results = api.train(recipe, out=f"{classifier}_run")
        assert results["probes"]["best"] == "logistic"
        tensors = load_file(f"{classifier}_run/best/model.safetensors")
        assert sorted({name.split(".")[1] for name in tensors if name.startswith("fitted.")}) == kept
    with pytest.raises(ToolboxError, match="The checkpoint holds no k-NN, but linear and logistic regression"):
        toolbox.load("best_run", overrides=["model.classifier=knn"])
    encoder = toolbox.load("knn_run")
    assert encoder.model.predictor == "k-NN, k = 39"
    assert accuracy(encoder) == pytest.approx(results["after"]["knn"])
    (problem,) = api.check_config(recipe_of(toy, LOGISTIC, **{"model.classifier": "knn"}))
    assert problem.where.endswith("model.classifier")


def test_a_resumed_run_ends_with_the_same_winner(toy, tmp_path):
    recipe = recipe_of(toy, KNN3, LOGISTIC)
    whole = api.train(recipe, out="whole")
    api.train(recipe_of(toy, KNN3, LOGISTIC, **{"train_cfg.max_steps": 2}), out="cut")
    resumed = api.train(recipe, out="cut", resume=True)
    assert resumed["after"] == whole["after"]
    assert toolbox.load("cut").model.predictor == toolbox.load("whole").model.predictor


def test_an_older_checkpoint_predicts_by_its_linear_head_and_says_so(toy, capsys):
    api.train(recipe_of(toy, KNN3), out="run")
    path = Path("run/best").resolve()
    tensors = load_file(path / "model.safetensors")
    kept = {name: value for name, value in tensors.items() if name != "best" and not name.startswith("fitted.")}
    assert len(kept) < len(tensors)
    save_file(kept, path / "model.safetensors")
    manifest = json.loads((path / "manifest.json").read_text())
    file = path / "model.safetensors"
    manifest["files"]["model.safetensors"] |= {"bytes": file.stat().st_size, "sha256": sha256(file)}
    (path / "manifest.json").write_text(json.dumps(manifest))
    encoder = toolbox.load(path)
    assert "does not say whether k-NN or logistic regression is better" in encoder.model.predictor
    assert encoder.classify(Noise()[0]["image"], top=1)


# what chooses k and C


def test_the_validation_set_chooses_k_and_the_test_set_takes_it_over(toy):
    train, val, test = clouds(150, noise=0.8), clouds(60, noise=0.8, seed=2), clouds(60, noise=0.8, seed=3)
    choosing, judging = KNN([1, 5, 20]), KNN([1, 5, 20])
    choosing.chooses, judging.chosen = True, {"knn_k": 5}
    numbers = shown(choosing, train, val)
    assert numbers["knn"] == max(numbers[f"knn@{k}"] for k in (1, 5, 20)) > numbers["knn@1"]
    assert choosing.remarks() == []
    numbers = shown(judging, train, test)
    assert (numbers["knn_k"], numbers["knn"]) == (5, numbers["knn@5"])
    assert judging.remarks() == []
    alone = KNN([1, 5, 20])
    shown(alone, train, test)
    assert "no validation set has chosen it" in alone.remarks()[0]
    # a k that this set would not try
    other = KNN([1])
    other.chosen = {"knn_k": 20}
    assert shown(other, train, test)["knn_k"] == 20


def test_the_validation_set_chooses_c_and_the_test_set_takes_it_over():
    train, val, test = clouds(150, noise=1.2), clouds(90, noise=1.2, seed=2), clouds(60, noise=1.2, seed=3)
    each = {c: shown(LogisticRegression([c]), train, val)["logistic"] for c in (1e-3, 1.0, 1e4)}
    choosing, judging = LogisticRegression([1e-3, 1.0, 1e4]), LogisticRegression([1e-3, 1e4])
    choosing.chooses, judging.chosen = True, {"logistic_c": 1.0}
    numbers = shown(choosing, train, val)
    assert numbers["logistic"] == max(each.values()) > min(each.values())
    assert each[numbers["logistic_c"]] == numbers["logistic"]
    assert choosing.remarks() == judging.remarks() == []
    numbers = shown(judging, train, test)
    assert numbers["logistic_c"] == 1.0
    assert numbers["logistic"] == shown(LogisticRegression([1.0]), train, test)["logistic"]
    alone = LogisticRegression([1e-3, 1.0])
    shown(alone, train, test)
    assert "no validation set has" in alone.remarks()[0]


def test_before_and_after_and_an_evaluation_use_one_k(toy):
    recipe = recipe_of(toy, KNN3, LOGISTIC)
    results = api.train(recipe, out="run")
    chosen = {name: results["best"]["metrics"][name] for name in ("knn_k", "logistic_c")}
    for numbers in (
        results["before"],
        results["after"],
        api.evaluate(recipe, "run", split="test"),
        api.evaluate(recipe, None, split="test"),
    ):
        assert {name: numbers[name] for name in chosen} == chosen


def test_logits_of_what_was_fitted_are_its_answers():
    train, (test, _) = clouds(200), clouds(50, seed=5)
    for metric in (KNN([3]), LogisticRegression([10.0])):
        shown(metric, train, (test, torch.zeros(50, dtype=torch.long)))
        logits = metric.classifier()(5 * test)
        assert logits.dtype == torch.float32
        assert logits.isfinite().all()
    x, labels = train
    x = l2_normalize(x)
    found = NearestNeighbours(x, labels, 3, 0.07)(test).softmax(1)
    cosines, rows = (l2_normalize(test) @ x.T).topk(3, dim=1)
    votes = torch.zeros(50, 5).scatter_add_(1, labels[rows], (cosines / 0.07).exp())
    assert torch.allclose(found, votes / votes.sum(1, keepdim=True), atol=1e-5)


def test_classes_that_nothing_was_fitted_to_are_told_last():
    model = Probe.__new__(Probe)
    torch.nn.Module.__init__(model)
    model.classes, nearest = 4, NearestNeighbours(torch.eye(3), torch.arange(3), 1, 1.0)
    model.fitted = torch.nn.ModuleDict({"knn": nearest})
    logits = model._fitted_logits("knn", torch.eye(3))
    assert logits.shape == (3, 4)
    assert logits.argmax(1).tolist() == [0, 1, 2]


# the training set is read and kept once


def test_a_frozen_training_set_is_read_once_in_a_run(toy, monkeypatch):
    reads = []
    plain = Noise.__getitem__
    kind = type(api.build({"type": "toy.Noise"}))
    monkeypatch.setattr(kind, "__getitem__", lambda self, i: reads.append(len(self)) or plain(self, i))
    recipe = recipe_of(toy, KNN3, LOGISTIC, train_cfg={"max_steps": 6, "val_interval": 1})
    api.train(recipe, out="run")
    trained = 6 * 16  # what the steps read
    assert reads.count(COUNT) <= COUNT + trained
    reads.clear()
    judges = {"val_evaluator": [KNN3], "test_evaluator": [KNN3], "custom_hooks": None, "evaluate_before": False}
    data = {"train_dataloader.dataset": {"type": "toy.Noise", "count": COUNT}}
    trunk = toy({**data, **judges, "test_dataloader": PROBE["test_dataloader"], "train_cfg": {"max_steps": 2}})
    api.train(trunk, out="other")  # where embeddings change, every evaluation learns anew
    assert reads.count(COUNT) >= 2 * COUNT + 2 * 8


def test_metrics_of_a_run_keep_one_copy_and_drop_what_changes():
    shared = {}
    metrics = [KNN([1]), LogisticRegression([1.0]), KNN([1])]
    for metric in metrics:
        metric.share(shared)
        metric.reset()
    x, y = clouds(60)
    batch = Batch(labels=y, ids=list(range(60)))
    outputs = {"embeddings": x}
    for metric in metrics:
        metric.fit(outputs, batch)
    for metric in metrics:
        metric.update({"embeddings": x}, batch)
    rows = [metric.rows()[0] for metric in metrics]
    assert len({found.data_ptr() for found in rows}) == 1
    assert len(rows[0]) == 60
    assert metrics[0].compute()["knn"] == 1.0
    for metric in metrics:
        metric.reset()
    assert metrics[0]._training.rows()[0] is rows[0]
    metrics[1].forget()
    with pytest.raises(ValueError, match="saw no item"):
        metrics[2]._training.rows()
