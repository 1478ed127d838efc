"""Which values of a metric are better is the metric's to say: for the best checkpoint, early stopping and reports."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from toolbox_classification.calibration import CalibrationError

import toolbox
from toolbox.base import Metric
from toolbox.builtins.early_stop import EarlyStop
from toolbox.errors import Problem
from toolbox.testing import check_metric

FALLING = [0.9, 0.5, 0.4, 0.6, 0.7, 0.8]


class Both(Metric):
    """Gives a loss and an accuracy; both fall."""

    better = {"margin": "less"}

    def reset(self):
        pass

    def update(self, outputs, batch):
        pass

    def compute(self):
        return {"margin": 1.0, "val_loss": 1.0, "hits": 1.0}


def test_what_a_metric_says_of_its_numbers():
    both = Both()
    assert [both.direction(name) for name in ("margin", "margin_low", "val_loss", "hits")] == [
        "less",
        "less",
        "less",
        "greater",
    ]
    assert CalibrationError().direction("calibration_error") == "less"


@pytest.mark.parametrize(
    ("name", "direction"),
    [
        ("val/loss", "less"),
        ("mean_absolute_error", "less"),
        ("top1-error", "less"),
        ("NLL", "less"),
        ("lossless", "greater"),
        ("recall@1", "greater"),
        ("terrors", "greater"),
        ("top1_low", "greater"),
    ],
)
def test_what_a_name_tells_where_the_metric_says_nothing(name, direction):
    class Silent(Both):
        pass

    Silent.better = {}
    assert Silent().direction(name) == direction


def test_a_class_that_declares_greater_is_believed():
    class Odd(Both):
        better = "greater"

    assert Odd().direction("val_loss") == "greater"


def test_a_word_that_is_neither_is_refused(toy, monkeypatch):
    recipe = toy()
    from toy_plugin import Nearest

    monkeypatch.setattr(Nearest, "better", "max", raising=False)
    with pytest.raises(ValueError, match=r"Nearest.better must be 'greater' or 'less', not 'max'"):
        Nearest().direction("nearest")
    found = toolbox.check_config(recipe)
    assert "val_evaluator.0" in str(found[0])
    with pytest.raises(AssertionError, match="must be 'greater' or 'less'"):
        check_metric(Nearest)


@pytest.fixture
def falling(toy, monkeypatch):
    """`falling(name, **attributes)`: the toy metric gives that number, which falls and then rises."""
    toy()
    from toy_plugin import Nearest

    def install(name, **attributes):
        values = iter(FALLING)
        monkeypatch.setattr(Nearest, "compute", lambda self: {name: next(values), "hits": 0.5})
        for key, value in attributes.items():
            monkeypatch.setattr(Nearest, key, value, raising=False)

    return install


RUN = ["evaluate_before=False", "train_cfg.max_steps=12", "train_cfg.val_interval=2"]


@pytest.mark.parametrize(
    ("name", "attributes"),
    [("gap", {"better": "less"}), ("gap", {"better": {"gap": "less"}}), ("mean_error", {}), ("val_loss", {})],
    ids=str,
)
def test_early_stopping_best_and_results_follow_the_metric(toy, falling, name, attributes):
    falling(name, **attributes)
    stop = f"custom_hooks=[dict(type='core.EarlyStop',metric='{name}',patience=2)]"
    results = toolbox.train(toy([*RUN, stop]), out="w")
    assert results["best"]["value"] == 0.4
    assert "not improved on 0.4 in 2 evaluations" in results["stopped"]
    assert json.loads(Path("w/train_results.json").read_text())["better"][name] == "less"


def test_a_mode_and_a_rule_go_first(toy, falling):
    falling("gap", better="less")
    stop = "custom_hooks=[dict(type='core.EarlyStop',metric='gap',patience=2,mode='max')]"
    assert "improved on 0.9" in toolbox.train(toy([*RUN, stop]), out="w")["stopped"]
    falling("gap", better="less")
    stop = "custom_hooks=[dict(type='core.EarlyStop',metric='gap',patience=2)]"
    rule = "default_hooks.checkpoint=dict(interval=4,rule='greater')"
    results = toolbox.train(toy([*RUN, stop, rule]), out="v")
    assert results["best"]["value"] == 0.9
    assert "improved on 0.9" in results["stopped"]


@pytest.mark.parametrize("first", ["a test set is judged", "the second metric alone can judge"])
def test_a_rule_is_for_the_first_metric_though_others_judge_before(toy, monkeypatch, first):
    toy()
    from toolbox_classification.knn import KNN

    values = iter(FALLING)  # of a metric that learns, so that step 0 goes without
    monkeypatch.setattr(KNN, "compute", lambda self: {"knn_top1": next(values) if self.chooses else 0.5})
    monkeypatch.setattr(KNN, "has_choice", False)
    options = [
        "val_evaluator=[dict(type='classification.KNN',ks=[3]),dict(type='toy.Nearest')]",
        "train_cfg.val_interval=2",
        "default_hooks.checkpoint=dict(interval=12,rule='less')",
        "custom_hooks=[dict(type='core.EarlyStop',metric='knn_top1',patience=2)]",
    ]
    if first == "a test set is judged":
        data = "dict(dataset=dict(type='toy.Noise',seed=2),batch_size=16,num_workers=0)"
        options += [f"test_dataloader={data}", "test_evaluator=dict(type='toy.Nearest')"]
    else:
        absent = [Problem("It reads what the head gives.")]
        monkeypatch.setattr(KNN, "check_outputs", lambda self, out: [] if out["embeddings"].shape[1] == 8 else absent)
    results = toolbox.train(toy(options), out="w")
    assert (results["best"]["metric"], results["best"]["value"]) == ("knn_top1", 0.4)
    assert "not improved on 0.4 in 2 evaluations" in results["stopped"]
    assert results["start"].keys() == {"nearest"}


def test_a_hook_may_be_tried_without_a_run():
    class Bare:
        reason = None

        def stop(self, reason):
            self.reason = reason

    hook, run = EarlyStop("recall@1", patience=1), Bare()
    for value in (0.1, 0.2, 0.1):
        hook.after_evaluate(run, {"recall@1": value})
    assert "0.2" in run.reason
