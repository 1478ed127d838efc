"""Probes of a frozen backbone: a grid of linear heads in one pass, k-NN, logistic regression, and who is compared."""

from __future__ import annotations

import json
import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from toolbox_classification import logistic
from toolbox_classification.compare_probes import find_grid_edge
from toolbox_classification.intervals import compute_student_t, estimate_item_interval, estimate_repeat_interval
from toolbox_classification.knn import KNN, classify_by_vote
from toolbox_classification.logistic import LogisticRegression, split_held_out
from toolbox_classification.logistic_fit import fit_logistic
from toolbox_classification.probe import Probe
from toolbox_classification.probe_accuracy import ProbeAccuracy
from torch import nn

from toolbox import api
from toolbox.base import Backbone, Batch, Features, l2_normalize
from toolbox.builtins.optim import SGD, AdamW
from toolbox.builtins.samplers import Shuffled
from toolbox.engine.param_groups import parameter_groups, torch_groups
from toolbox.errors import ToolboxError
from toolbox.report import load_report_items
from toolbox.utils.pool import TokenPool

RATES = [0.01, 0.1, 1.0]


class Tokens(Backbone):
    """Tokens in, tokens out; block i of n gives i / n of them."""

    dim, abilities = 4, frozenset({"layers"})

    def __init__(self):
        super().__init__()
        self.scale = nn.Parameter(torch.ones(()))

    def forward(self, inputs, *, layers=1, mask=None):
        blocks = tuple(inputs * self.scale * (i + 1) / layers for i in range(layers))
        return Features(inputs * self.scale, prefix=2, blocks=blocks if layers > 1 else None)

    def layers(self):
        return [nn.Identity()] * 4

    def preprocess(self):
        raise NotImplementedError


def probe(**arguments):
    torch.manual_seed(3)
    model = Probe(Tokens(), **arguments).double()
    model.connect(classes=5)
    return model.double()


def batch(rows=12, blocks=1, seed=0):
    torch.manual_seed(seed)
    images, labels = torch.randn(rows, 6, 4).double(), torch.randint(5, (rows,))
    return Batch.example({"image": images.repeat(blocks, 1, 1)}, labels=labels.repeat(blocks), blocks=blocks)


def trained(model, optimizer, steps=6, blocks=1):
    """The parameters after some steps, by the engine's own groups."""
    groups = parameter_groups(model, optimizer, {})
    update = optimizer.build(torch_groups(groups), fused=False)
    for step in range(steps):
        model(batch(blocks=blocks, seed=step))["loss"].backward()
        update.step()
        update.zero_grad()
    return model


# the pool


def test_a_pool_reads_the_first_tokens_of_the_last_blocks_and_the_mean_of_the_last_one():
    x = torch.randn(3, 6, 4)
    pool = TokenPool("cls+mean", blocks=3)
    found = pool(Tokens()(x, layers=pool.layers))
    wanted = torch.cat([x[:, 0] / 3, x[:, 0] * 2 / 3, x[:, 0], x[:, 2:].mean(1)], dim=1)
    assert torch.allclose(found, wanted, atol=1e-6)
    assert found.shape[1] == pool.dim(4) == 16
    assert torch.allclose(TokenPool("cls", blocks=2)(Tokens()(x, layers=2)), torch.cat([x[:, 0] / 2, x[:, 0]], dim=1))
    assert (TokenPool("cls", blocks=2).dim(4), TokenPool("cls+mean").dim(4), TokenPool("mean").dim(4)) == (8, 8, 4)


def test_a_pool_of_several_blocks_refuses_what_has_none():
    with pytest.raises(ValueError, match="gives none"):
        TokenPool("cls", blocks=2)(Features(torch.randn(2, 3, 4), prefix=1))
    with pytest.raises(ValueError, match="of the last one alone"):
        TokenPool("cls", blocks=2).in_plain_torch("pool")
    for mode, blocks in (("mean", 2), ("gem", 2), ("cls", 0)):
        with pytest.raises(ValueError, match="belongs to 'cls'"):
            TokenPool(mode, blocks=blocks)


def test_blocks_that_a_backbone_does_not_give_are_found_before_anything_runs(toy):
    (problem,) = api.check_config(toy({"model.pool": {"type": "core.Pool", "mode": "cls", "blocks": 2}}))
    assert "reads the last 2 blocks, and Patches gives its last one alone" in problem.message


# the sampler


def test_orders_go_side_by_side_and_the_first_is_that_of_one():
    one, three = Shuffled(4, drop_last=False), Shuffled(4, drop_last=False, repeats=3)
    for sampler in (one, three):
        sampler.setup(range(10), seed=1)
    assert (three.blocks, three.batch_size, len(three)) == (3, 12, 3)
    orders = [[], [], []]
    for number in range(3, 6):
        found = three.batch(number)
        rows = len(found) // 3
        assert found[:rows] == one.batch(number)
        for repeat, order in enumerate(orders):
            order += found[repeat * rows : (repeat + 1) * rows]
    assert all(sorted(order) == list(range(10)) for order in orders)
    assert orders[0] != orders[1] != orders[2]
    with pytest.raises(ValueError, match="repeats=0"):
        Shuffled(4, repeats=0)


# the grid


@pytest.mark.parametrize("optimizer", [SGD(lr=0.5, momentum=0.9), AdamW(lr=0.5, weight_decay=0.1)])
def test_heads_trained_together_are_those_trained_alone(optimizer):
    inputs = ["cls", "cls+mean", "cls:3", "mean"]
    together = trained(probe(inputs=inputs, rates=RATES), optimizer)
    for i, name in enumerate(inputs):
        for number, rate in enumerate(RATES):
            alone = trained(probe(inputs=[name], rates=[rate]), optimizer).heads[0]
            heads = together.heads[number]
            assert torch.allclose(heads.weights[i], alone.weights[0], atol=1e-6, rtol=0)
            assert torch.allclose(heads.biases[i], alone.biases[0], atol=1e-6, rtol=0)
            assert not torch.allclose(alone.weights[0], probe(inputs=[name], rates=[rate]).heads[0].weights[0])
    assert not torch.allclose(together.heads[0].weights[0], together.heads[1].weights[0], atol=1e-3)


def test_a_head_is_a_plain_linear_layer_trained_by_cross_entropy():
    start = probe(inputs=["cls+mean"], rates=[0.1])
    layer = nn.Linear(8, 5).double()
    with torch.no_grad():
        layer.weight.copy_(start.heads[0].weights[0][0])
        layer.bias.zero_()
    update = torch.optim.SGD(layer.parameters(), lr=0.05, momentum=0.9)
    for step in range(6):
        data = batch(seed=step)
        x = data.inputs["image"]
        x = torch.cat([x[:, 0], x[:, 2:].mean(1)], dim=1)
        nn.functional.cross_entropy(layer(x), data.labels).backward()
        update.step()
        update.zero_grad()
    heads = trained(start, SGD(lr=0.5, momentum=0.9)).heads[0]
    assert torch.allclose(heads.weights[0][0], layer.weight, atol=1e-12)
    assert torch.allclose(heads.biases[0], layer.bias, atol=1e-12)


def test_a_repeat_reads_its_own_block_and_starts_from_weights_of_its_own():
    one, two = probe(inputs=["cls"], rates=[0.1]), probe(inputs=["mean", "cls"], rates=RATES, repeats=2)
    assert torch.equal(two.heads[0].weights[1][0], one.heads[0].weights[0][0])
    assert not torch.equal(two.heads[0].weights[1][0], two.heads[0].weights[1][1])
    assert abs(two.heads[0].weights[0].std().item() - 0.01) < 0.003
    data = batch(rows=12)
    halves = replace(data, blocks=2)
    first = replace(data, inputs={"image": data.inputs["image"][:6]}, labels=data.labels[:6])
    two(halves)["loss"].backward()
    one(first)["loss"].backward()
    gradient = two.heads[1].weights[1].grad
    assert torch.allclose(gradient[0], one.heads[0].weights[0].grad[0], atol=1e-12)
    assert not torch.allclose(gradient[1], gradient[0])


def test_several_views_of_an_item_have_its_label():
    model, data = probe(inputs=["cls"], rates=[0.1], repeats=2), batch(rows=12)
    image = data.inputs["image"]
    single = model(replace(data, blocks=2))["loss"]
    views = model(replace(data, blocks=2, inputs={"image": torch.cat([image, image])}, views={"image": 2}))["loss"]
    assert torch.allclose(single, views)


def test_a_probe_refuses_batches_that_it_would_misread():
    model = probe(inputs=["cls"], rates=[0.1], repeats=2)
    for change, message in (
        (dict(labels=None), "needs labels"),
        (dict(blocks=1), "repeats=2"),
    ):
        with pytest.raises(ValueError, match=message):
            model(replace(batch(blocks=2), **change))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"inputs": ["cls", "cls:1"]}, "different ways"),
        ({"inputs": []}, "different ways"),
        ({"inputs": ["gem"]}, "has 'gem'"),
        ({"inputs": ["cls:x"]}, "has 'cls:x'"),
        ({"inputs": ["mean:2"]}, "blocks=2"),
        ({"inputs": ["cls:0"]}, "blocks=0"),
        ({"rates": []}, "positive"),
        ({"rates": [0.0]}, "positive"),
        ({"rates": [0.1, 0.1]}, "the same"),
        ({"repeats": 0}, "repeats=0"),
    ],
)
def test_a_probe_refuses_arguments_without_meaning(arguments, message):
    with pytest.raises(ValueError, match=message):
        Probe(Tokens(), **arguments)


def test_nothing_stands_for_the_result_before_a_head_is_chosen():
    model, data = probe(inputs=["cls", "mean"], rates=RATES, repeats=2), batch(rows=6)
    before = model(data, "predict")
    assert "logits" not in before
    assert "linear" not in before
    assert set(model(data, "baseline")) == {"embeddings"}
    numbers = dict.fromkeys(model.names(), 0.5)
    model.on_validation_end(numbers)
    assert model.chosen.tolist() == [0, 0]  # of equals the lowest rate
    model.on_validation_end({**numbers, "linear/mean/0.1": 0.7})
    assert model.chosen.tolist() == [1, 1]
    after = model(data, "predict")
    assert torch.equal(after["linear"], after["linear/mean/0.1"])
    assert torch.equal(after["logits"].argmax(1), after["linear"][:, 0])
    with pytest.raises(ToolboxError, match="linear/mean/1"):
        model.on_validation_end({name: 1.0 for name in numbers if name != "linear/mean/1"})
    copy = probe(inputs=["cls", "mean"], rates=RATES, repeats=2)
    copy.load_state_dict(model.state_dict())
    assert torch.equal(copy(data, "predict")["logits"], after["logits"])


# accuracy and its intervals


def test_accuracy_chooses_on_validation_and_judges_the_chosen_head_alone():
    labels = torch.tensor([0, 1, 2, 3])
    right, half = labels[:, None].repeat(1, 2), torch.tensor([[0, 0], [1, 0], [0, 0], [0, 3]])
    outputs = {"linear/cls/0.1": half, "linear/mean/0.1": right, "linear": half}
    choosing, judging = ProbeAccuracy(choose=True), ProbeAccuracy()
    for metric in (choosing, judging):
        assert metric.check_outputs(outputs) == []
        metric.update(outputs, Batch(labels=labels))
    assert choosing.compute() == {"linear": 1.0, "linear/cls/0.1": 0.5, "linear/mean/0.1": 1.0}
    numbers = judging.compute()
    assert numbers["linear"] == 0.5
    assert numbers["linear_std"] == 0
    assert not any("/" in name for name in numbers)
    unchosen = {name: value for name, value in outputs.items() if name != "linear"}
    assert "No head is chosen" in judging.check_outputs(unchosen)[0].message
    assert "classification.Probe" in judging.check_outputs({"embeddings": right})[0].message


def test_intervals_are_those_of_the_textbook():
    for freedom, wanted in ((1, 12.7062), (2, 4.30265), (9, 2.26216), (100, 1.98397)):
        assert compute_student_t(freedom) == pytest.approx(wanted, abs=1e-4)
    low, high = estimate_repeat_interval([0.8, 0.82, 0.84])
    assert (low, high) == pytest.approx((0.82 - 4.30265 * 0.02 / 3**0.5, 0.82 + 4.30265 * 0.02 / 3**0.5), abs=1e-5)
    low, high = estimate_item_interval([300, 700])
    half = 1.96 * (0.7 * 0.3 / 1000) ** 0.5
    assert (low, high) == pytest.approx((0.7 - half, 0.7 + half), abs=0.003)
    assert estimate_item_interval([0, 10]) == (1.0, 1.0)


# k-NN


def clouds(count, classes=5, dim=8, noise=1.0, seed=0):
    rng = np.random.default_rng(seed)
    labels = rng.integers(classes, size=count)
    centres = np.random.default_rng(99).normal(size=(classes, dim))
    x = torch.tensor(centres[labels] + noise * rng.normal(size=(count, dim)))
    return nn.functional.normalize(x, dim=1).float(), torch.tensor(labels)


def shown(metric, train, test):
    for action, (x, y) in ((metric.fit, train), (metric.update, test)):
        for start in range(0, len(x), 50):
            rows = slice(start, start + 50)
            action({"embeddings": x[rows]}, Batch(labels=y[rows], ids=list(range(len(x)))[rows]))
    return metric.compute()


def test_knn_is_the_weighted_vote_of_all_neighbours_that_loops_find():
    (gallery, classes), (queries, _) = clouds(120), clouds(40, seed=1)
    own = torch.full((40,), -1)
    own[3] = 7
    queries[3] = gallery[7]
    found = classify_by_vote(queries, own, gallery, classes, [1, 5, 30], 0.07, memory_mb=1)
    for query in range(40):
        cosines = gallery.double() @ queries[query].double()
        if own[query] >= 0:
            cosines[own[query]] = -2
        order = cosines.argsort(descending=True)
        for number, k in enumerate([1, 5, 30]):
            votes = [0.0] * 5
            for item in order[:k].tolist():
                votes[classes[item]] += math.exp(cosines[item] / 0.07)
            assert found[number, query] == int(np.argmax(votes)), (query, k)


def test_k_is_chosen_by_leaving_one_out_of_the_training_set():
    train, test = clouds(150, noise=0.8), clouds(60, noise=0.8, seed=2)
    numbers = shown(KNN([1, 5, 20, 400], choose_by=1000), train, test)
    x, y = train
    best = [
        float((classify_by_vote(x, torch.arange(150), x, y, [k], 0.07)[0] == y).double().mean()) for k in (1, 5, 20)
    ]
    assert numbers["knn_k"] == (1, 5, 20)[int(np.argmax(best))] != 1
    assert numbers["knn"] == numbers[f"knn@{numbers['knn_k']:g}"]
    assert numbers["knn_low"] < numbers["knn"] < numbers["knn_high"]
    assert "knn@400" not in numbers
    metric = KNN([1, 400])
    shown(metric, train, test)
    (curve,) = metric.report_items([])
    assert "leaves out k = 400" in curve.note
    assert "leaves out k = 400" in metric.notes(150)[0]
    with pytest.raises(ValueError, match="more training items"):
        shown(KNN([400]), train, test)


# logistic regression


@pytest.mark.parametrize("c", [0.1, 10.0])
def test_a_fit_is_that_of_scikit_learn(c):
    linear_model = pytest.importorskip("sklearn.linear_model")
    x, y = clouds(300, noise=1.5)
    found = fit_logistic(x.double(), y, 5, c, tolerance=1e-7)
    theirs = linear_model.LogisticRegression(C=c, tol=1e-9, max_iter=5000).fit(x.double().numpy(), y.numpy())
    assert found.converged
    assert torch.allclose(found.weights, torch.tensor(theirs.coef_), atol=1e-4)
    assert torch.allclose(found.biases, torch.tensor(theirs.intercept_ - theirs.intercept_.mean()), atol=1e-4)
    test, labels = clouds(500, noise=1.5, seed=4)
    accuracy = float((found.compute_scores(test).argmax(1) == labels).double().mean())
    assert accuracy == pytest.approx(theirs.score(test.double().numpy(), labels.numpy()), abs=1e-3)


@pytest.mark.parametrize("c", [0.01, 1.0])
def test_a_fit_of_two_classes_is_that_of_scikit_learn(c):
    linear_model = pytest.importorskip("sklearn.linear_model")
    x, y = clouds(200, classes=2, noise=2.0)
    found = fit_logistic(x.double(), y, 2, c, tolerance=1e-8)
    theirs = linear_model.LogisticRegression(C=c, tol=1e-10, max_iter=5000).fit(x.double().numpy(), y.numpy())
    assert torch.allclose(found.weights[1] - found.weights[0], torch.tensor(theirs.coef_[0]), atol=1e-4)
    assert (found.biases[1] - found.biases[0]).item() == pytest.approx(theirs.intercept_[0], abs=1e-4)


def test_a_fit_keeps_no_graph_of_its_iterations():
    kept = []
    x, y = clouds(50)
    with torch.autograd.graph.saved_tensors_hooks(lambda tensor: kept.append(1) or tensor, lambda tensor: tensor):
        fit_logistic(x.double(), y, 5, 1.0)
    assert kept == []


def test_c_is_chosen_on_a_tenth_of_each_class_and_all_is_fitted_then():
    linear_model = pytest.importorskip("sklearn.linear_model")
    (x, y), (test, labels) = train, judged = clouds(300, noise=1.0), clouds(400, noise=1.0, seed=5)
    numbers = shown(LogisticRegression(), train, judged)
    assert 1e-6 < numbers["logistic_c"] < 1e5
    assert "logistic_not_converged" not in numbers
    theirs = linear_model.LogisticRegression(C=numbers["logistic_c"], tol=1e-9, max_iter=5000).fit(x.numpy(), y.numpy())
    assert numbers["logistic"] == pytest.approx(theirs.score(test.numpy(), labels.numpy()), abs=1e-3)
    kept, held = split_held_out(y)
    assert sorted([*kept.tolist(), *held.tolist()]) == list(range(300))
    assert torch.bincount(y[held]).tolist() == [round(count / 10) for count in torch.bincount(y).tolist()]
    few = torch.tensor([0, 1, 1, 2, 2, 2])
    assert torch.bincount(few[split_held_out(few)[1]]).tolist() == [0, 1, 1]


def test_more_numbers_than_items_give_the_same_fit():
    linear_model = pytest.importorskip("sklearn.linear_model")
    (x, y), (test, labels) = clouds(60, dim=90, noise=2.0), clouds(400, dim=90, noise=2.0, seed=5)
    numbers = shown(LogisticRegression([30.0]), (x, y), (test, labels))
    unit, unit_test = (l2_normalize(rows).double().numpy() for rows in (x, test))
    theirs = linear_model.LogisticRegression(C=30.0, tol=1e-9, max_iter=5000).fit(unit, y.numpy())
    assert numbers["logistic"] == pytest.approx(theirs.score(unit_test, labels.numpy()), abs=1e-3)
    assert 0.3 < numbers["logistic"] < 1


def test_the_same_training_set_is_fitted_once_and_another_one_again(monkeypatch):
    fits = []
    monkeypatch.setattr(
        logistic, "fit_logistic", lambda *given, **settings: fits.append(1) or fit_logistic(*given, **settings)
    )
    train, judged = clouds(80, seed=11), clouds(40, seed=12)
    first = shown(LogisticRegression([1.0]), train, judged)
    assert len(fits) == 1
    assert shown(LogisticRegression([1.0]), train, judged) == first
    assert len(fits) == 1
    shown(LogisticRegression([1.0]), (train[0], (train[1] + 1) % 5), judged)
    shown(LogisticRegression([2.0]), train, judged)
    shown(LogisticRegression([1.0]), (train[0] * torch.linspace(1, 2, train[0].shape[1]), train[1]), judged)
    assert len(fits) == 4


def test_a_fit_that_has_not_converged_is_said():
    metric = LogisticRegression([1e4, 1e5], max_iter=2)
    numbers = shown(metric, clouds(100), clouds(30, seed=1))
    assert numbers["logistic_not_converged"] == 3
    (curve,) = metric.report_items([])
    assert "Not converged in 2 iterations: C = 10000, C = 100000, the chosen C" in curve.note


def test_classes_without_training_items_are_never_told():
    x, y = clouds(100, noise=0.2)
    numbers = {
        **shown(LogisticRegression([10.0]), (x, 3 * y), (x[:20], torch.full((20,), 1))),
        **shown(KNN([3]), (x, 3 * y), (x[:20], torch.full((20,), 1))),
    }
    assert numbers["logistic"] == numbers["knn"] == 0
    assert shown(LogisticRegression([10.0]), (x, 3 * y), (x, 3 * y))["logistic"] > 0.9
    for metric in (LogisticRegression(), KNN([3])):
        with pytest.raises(ValueError, match="one class only"):
            shown(metric, (x, 0 * y), (x, y))


# runs


PROBE = {
    "model": {
        "type": "classification.Probe",
        "backbone": {"type": "toy.Patches"},
        "inputs": ["mean"],
        "rates": RATES,
        "repeats": 2,
    },
    "train_dataloader.sampler": {"type": "core.Shuffled", "batch_size": 16, "repeats": 2},
    "train_dataloader.augment": None,
    "optim_wrapper": {"optimizer": {"type": "core.SGD", "lr": 1.0}},
    "val_evaluator": [
        {"type": "classification.ProbeAccuracy", "choose": True},
        {"type": "classification.KNN", "ks": [1, 3, 99]},
        {"type": "classification.LogisticRegression", "cs": [1.0, 100.0]},
    ],
    "test_dataloader": {"dataset": {"type": "toy.Noise", "seed": 0, "per_class": 4}, "num_workers": 0},
    "test_evaluator": [
        {"type": "classification.ProbeAccuracy"},
        {"type": "classification.KNN", "ks": [1, 3]},
        {"type": "classification.LogisticRegression", "cs": [1.0, 100.0]},
    ],
    "custom_hooks": [{"type": "classification.CompareProbes"}],
    "evaluate_pixels": True,
}


def test_a_best_rate_at_the_edge_of_the_grid_is_known():
    def val(*accuracies):
        return {f"linear/cls/{rate:g}": found for rate, found in zip((0.1, 0.2, 0.3), accuracies, strict=False)}

    assert find_grid_edge(val(0.5, 0.6, 0.7)) == "highest"
    assert find_grid_edge(val(0.7, 0.6, 0.5)) == "lowest"
    assert find_grid_edge(val(0.5, 0.7, 0.6)) == ""
    assert find_grid_edge(val(0.5, 0.7)) == ""  # of two rates each is at an edge


def test_a_run_chooses_on_validation_and_tells_what_each_method_comes_to(toy):
    recipe = toy({**PROBE, "train_cfg": {"max_steps": 8, "val_interval": 4}})
    assert api.check_config(recipe) == []
    results = api.train(recipe, out="run")
    saved = json.loads(Path("run/train_results.json").read_text())
    val, after, before = saved["best"]["metrics"], saved["after"], saved["before"]
    assert val["linear"] == max(value for name, value in val.items() if name.startswith("linear/"))
    assert not any(name.startswith("linear/") for name in after)
    assert {"knn", "logistic"} <= set(before)
    assert "linear" not in before
    assert before["knn"] == after["knn"]
    assert {"knn", "logistic"} <= set(saved["pixels"])
    probes = saved["probes"]
    assert set(probes["methods"]) == {"linear", "knn", "logistic"}
    assert probes["methods"][probes["best"]]["val"] == max(row["val"] for row in probes["methods"].values())
    assert probes["methods"]["linear"]["test"] == after["linear"]
    assert results is not None
    titles = [finding.title for finding in load_report_items("run")]
    assert titles[:3] == ["Probes", "Linear probes by learning rate", "Linear probes"]
    log = Path("run/train.log").read_text()
    assert "before: ProbeAccuracy cannot judge it" in log
    assert "best on the validation set" in log
    again = api.evaluate(recipe, "run", split="test")
    assert {name: again[name] for name in after} == after  # what was chosen is saved


@pytest.mark.parametrize("tested", [True, False])
def test_what_is_called_a_test_is_of_the_test_set(toy, tested):
    judge = {"type": "classification.KNN", "ks": [1]}
    recipe = {
        **PROBE,
        "model": toy()["model"],
        "train_dataloader.sampler": toy()["train_dataloader"]["sampler"],
        "train_cfg": {"max_steps": 2},
        "val_evaluator": [judge],
        "test_evaluator": [judge],
    }
    recipe["test_dataloader"] = toy(recipe)["val_dataloader"]  # whose numbers are those of the validation
    if not tested:
        recipe |= {"test_dataloader": None, "test_evaluator": None}
    saved = api.train(toy(recipe), out="run")
    assert saved["after"] == saved["best"]["metrics"]
    assert saved["probes"]["methods"]["knn"]["test"] == (saved["after"]["knn"] if tested else None)
    (table,) = [finding for finding in load_report_items("run") if finding.title == "Probes"]
    assert table.rows[0][3] == saved["probes"]["methods"]["knn"]["test"]


def test_a_probe_on_stored_features_is_the_probe_of_the_backbone_at_work(toy):
    vit = {"hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2, "patch_size": 8}
    backbone = {"type": "dinov3.ViT", "name": None, "size": 16, "arch": vit}
    several = {
        **PROBE,
        "model.backbone": backbone,
        "model.inputs": ["cls", "cls+mean:2"],
        "train_cfg": {"max_steps": 6, "val_interval": 6},
        "evaluate_pixels": False,
        "test_evaluator": [*PROBE["test_evaluator"], {"type": "classification.Accuracy"}],
    }
    live = api.train(toy(several), out="live")
    stored = api.train(toy({**several, "features": {"dtype": "fp32"}}), out="stored")
    assert stored["features"]["computed"] > 0
    for name, value in live["best"]["metrics"].items():
        assert stored["best"]["metrics"][name] == pytest.approx(value, abs=1e-6), name
    for name, value in live["after"].items():
        assert stored["after"][name] == pytest.approx(value, abs=1e-6), name
    assert live["probes"] == stored["probes"]
    assert 0 <= live["after"]["top1"] <= 1


def test_where_no_metric_can_judge_the_backbone_alone_there_is_no_before(toy):
    alone = {"val_evaluator": PROBE["val_evaluator"][:1], "test_evaluator": PROBE["test_evaluator"][:1]}
    recipe = toy({**PROBE, **alone, "train_cfg": {"max_steps": 2}, "custom_hooks": None})
    api.train(recipe, out="run")
    saved = json.loads(Path("run/train_results.json").read_text())
    assert saved["before"] is None
    assert saved["pixels"] is None
    assert saved["after"]["linear"] >= 0
    assert "before: no metric can judge it" in Path("run/train.log").read_text()
    with pytest.raises(ToolboxError, match=r"classification\.Probe"):
        api.evaluate(recipe, None, split="test")


@pytest.mark.parametrize(
    ("change", "where", "message"),
    [
        ({"optim_wrapper.clip_grad": {"max_norm": 1.0}}, "optim_wrapper.clip_grad", "clips the gradients of all heads"),
        ({"optim_wrapper.on_nonfinite": "skip"}, "optim_wrapper.on_nonfinite", "where one overflows"),
        ({"optim_wrapper.precision": "fp16"}, "optim_wrapper.precision", "where one overflows"),
        ({"optim_wrapper.parts": {"model.heads": {"lr": 0.1}}}, "parts.model.heads.lr", "replaces the learning rates"),
        ({"optim_wrapper.optimizer": {"type": "core.AdamW8bit"}}, "optim_wrapper.optimizer", "share a scale"),
        ({"val_dataloader.dataset": PROBE["test_dataloader"]["dataset"]}, "test_dataloader.dataset", "evaluate it"),
        ({"model.repeats": 3}, "train_dataloader.sampler", "repeats=3"),
        (
            {"val_evaluator": [{"type": "classification.ProbeAccuracy"}]},
            "val_evaluator",
            "the validation set chooses it",
        ),
        ({"val_evaluator": [{"type": "classification.KNN", "ks": [1]}]}, "val_evaluator", "nothing chooses"),
        (
            {"test_evaluator": [{"type": "classification.ProbeAccuracy", "choose": True}]},
            "test_evaluator.0.choose",
            "too good",
        ),
        ({"model.backbone.tune": {"mode": "full"}}, "model.backbone.tune", "leaves its backbone as it is"),
        ({"model.inputs": ["cls:2"]}, "model", "reads the last 2 blocks"),
    ],
)
def test_what_would_spoil_a_probe_is_found_before_anything_runs(toy, change, where, message):
    problems = api.check_config(toy({**PROBE, **change}))
    assert any(where in problem.where and message in problem.message for problem in problems), problems


def test_a_frozen_tune_is_what_a_probe_has_anyway(toy):
    assert api.check_config(toy({**PROBE, "model.backbone.tune": {"mode": "frozen"}})) == []
