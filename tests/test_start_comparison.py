"""Step 0 is validated: curves begin there, and a run that made its model worse says so."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from test_exactness import interrupt_at
from test_resume import interrupted

import toolbox
from toolbox.engine.evaluation.start_comparison import worse_than_start
from toolbox.errors import ToolboxError
from toolbox.report.series import read_series

SAID = "is worse than the model was at the start"


@pytest.fixture
def worse(toy, monkeypatch):
    """A recipe whose metric falls with every step."""
    toy()
    from toy_plugin import Nearest, Pull

    steps, original = [], Pull.compute

    def compute(self, *arguments):
        steps.append(True)
        return original(self, *arguments)

    monkeypatch.setattr(Pull, "compute", compute)
    monkeypatch.setattr(Nearest, "compute", lambda self: {"nearest": 1 / (1 + len(steps))})

    def recipe():
        steps.clear()
        return toy()

    return recipe


def lines(folder):
    return [json.loads(line) for line in Path(folder, "metrics.jsonl").read_text().splitlines()]


def test_step_0_is_validated_logged_and_drawn(toy):
    results = toolbox.train(toy(), out="w")
    first = lines("w")[0]
    assert (first["step"], first["epoch"]) == (0, 0.0)
    assert first["val/nearest"] == results["start"]["nearest"]
    assert [step for step, _ in read_series(Path("w/metrics.jsonl"))["val/nearest"]] == [0, 6, 12]
    assert "step 0: " in Path("w/report.html").read_text()
    assert "step 0 val: nearest" in Path("w/train.log").read_text()
    assert SAID not in Path("w/train.log").read_text()


def test_a_metric_may_give_no_numbers(toy, monkeypatch):
    recipe = toy(
        [
            "test_dataloader=dict(dataset=dict(type='toy.Noise',seed=2),batch_size=16,num_workers=0)",
            "test_evaluator=dict(type='toy.Nearest')",
            "train_cfg.max_steps=2",
        ]
    )
    from toy_plugin import Nearest

    given = iter([{}, {"nearest": 0.5}])
    monkeypatch.setattr(Nearest, "compute", lambda self: next(given) if self.chooses else {})
    results = toolbox.train(recipe, out="w")  # neither on the test set nor at step 0: no interruption
    assert (results["before"], results["start"], results["after"]) == (None, None, {})
    assert results["best"]["value"] == 0.5
    given = iter([{}, {}])
    with pytest.raises(ToolboxError, match=r"no finite validation metric 'auto'.*There are: none"):
        toolbox.train(recipe, out="v")


def test_nothing_is_judged_before_where_the_recipe_says_so(toy):
    results = toolbox.train(toy(["evaluate_before=False"]), out="w")
    assert results["start"] is None
    assert lines("w")[0]["step"] > 0


def test_training_does_not_depend_on_it(toy):
    from test_exactness import assert_same

    toolbox.train(toy(["evaluate_before=False"]), out="without")
    toolbox.train(toy(), out="w")
    assert_same(Path("without"), Path("w"))


def test_a_best_checkpoint_worse_than_the_start_is_said_aloud(worse):
    results = toolbox.train(worse(), out="w")
    assert results["best"]["value"] < results["start"]["nearest"]
    said = next(line for line in Path("w/train.log").read_text().splitlines() if SAID in line)
    assert said.startswith("Warning: ")
    for words in ("optim_wrapper.optimizer.lr=0.0001", "tune.mode", "frozen", "step 0"):
        assert words in said


def test_a_resumed_run_keeps_it(worse, monkeypatch):
    whole = toolbox.train(worse(), out="whole")
    with monkeypatch.context() as patch:
        interrupt_at(patch, 7)
        interrupted(worse(), out="w")
    results = toolbox.train(worse(), out="w", resume=True)
    assert results["start"] == whole["start"] is not None
    assert SAID in Path("w/train.log").read_text()
    assert [line["step"] for line in lines("w")] == [line["step"] for line in lines("whole")]


def test_metrics_that_learn_from_the_training_set_judge_no_start(toy):
    metrics = "val_evaluator=[dict(type='toy.Nearest'),dict(type='classification.KNN',ks=[1])]"
    results = toolbox.train(toy([metrics, "train_cfg.max_steps=3"]), out="w")
    assert results["start"].keys() == {"nearest"}
    assert len(results["best"]["metrics"]) > 1


@pytest.mark.parametrize(
    ("start", "value", "better", "said"),
    [
        (0.5, 0.4, "greater", True),
        (0.5, 0.4, "less", False),
        (0.5, 0.6, "less", True),
        (0.5, 0.5, "greater", False),
        (None, 0.5, "greater", False),
        (float("nan"), 0.5, "greater", False),
    ],
)
def test_when_it_is_said(start, value, better, said):
    best = {"step": 3, "metric": "m", "value": value, "metrics": {}}
    recipe = {"optim_wrapper": {"optimizer": {"type": "core.AdamW"}}}
    assert (worse_than_start({"m": start}, best, {"m": better}, recipe) is not None) == said
    assert worse_than_start(None, best, {}, recipe) is None
    assert worse_than_start({"other": 1.0}, best, {}, recipe) is None
