"""Numbers of plugins come in as plain ones, whatever library made them; what is none is refused by name."""

from __future__ import annotations

import decimal
import fractions
import json
from pathlib import Path

import numpy as np
import pytest
import torch

import toolbox
from toolbox.base.scalars import as_number, as_plain
from toolbox.engine.checkpoint.state import join, split
from toolbox.errors import ToolboxError
from toolbox.registry import add_local, get_catalog

PLUGIN = """
from toolbox.base import Hook, Metric
from toolbox.plugin import Component, hookimpl

namespace = "gives"


@hookimpl
def toolbox_components():
    here = __name__
    return [Component("metric", "Numbers", f"{here}:Numbers", ""), Component("hook", "Logs", f"{here}:Logs", "")]


class Numbers(Metric):
    given = {}

    def reset(self):
        pass

    def update(self, outputs, batch):
        pass

    def compute(self):
        return self.given


class Logs(Hook):
    logged, concluded = {}, {}

    def after_step(self, run):
        run.log(self.logged)

    def on_run_end(self, run, results):
        return self.concluded

    def state_dict(self):
        return {"last": self.logged.get("x")}
"""
KINDS = {
    "float32": np.float32(0.5),
    "float64": np.float64(0.5),
    "float16": np.float16(0.5),
    "0-d": np.array(0.5),
    "one": np.array([0.5]),
    "torch": torch.tensor(0.5),
    "torch one": torch.tensor([[0.5]]),
    "bf16": torch.tensor(0.5, dtype=torch.bfloat16),
    "fraction": fractions.Fraction(1, 2),
    "decimal": decimal.Decimal("0.5"),
    "gradient": torch.tensor(0.5, requires_grad=True),
}
SHORT = ["train_cfg.max_steps=3", "evaluate_before=False", "val_dataloader=None", "val_evaluator=None"]
NONE = ["0.5", None, [0.5, 0.6], np.zeros(2), torch.zeros(2), 1j, {}, np.complex64(1j), np.str_("a")]


@pytest.fixture
def gives(toy, monkeypatch, tmp_path):
    """`gives(numbers, logged, concluded, more) -> recipe` with a metric and a hook that give these."""
    toy()
    if "gives" not in {plugin.namespace for plugin in get_catalog().plugins}:
        (tmp_path / "gives_plugin.py").write_text(PLUGIN)
        add_local([str(tmp_path / "gives_plugin.py")])

    def recipe(numbers=None, logged=None, concluded=None, more=()):
        monkeypatch.setattr(get_catalog().resolve("gives.Numbers", "metric"), "given", numbers or {})
        hook = get_catalog().resolve("gives.Logs", "hook")
        monkeypatch.setattr(hook, "logged", logged or {})
        monkeypatch.setattr(hook, "concluded", concluded or {})
        return toy(
            [
                "val_evaluator=[dict(type='toy.Nearest'),dict(type='gives.Numbers')]",
                "train_cfg.max_steps=2",
                "train_cfg.val_interval=1",
                "custom_hooks=[dict(type='gives.Logs')]",
                "evaluate_before=False",
                *more,
            ]
        )

    return recipe


@pytest.mark.parametrize("value", KINDS.values(), ids=KINDS)
def test_every_number_becomes_a_plain_one(value):
    assert type(as_number(value)) is float
    assert as_number(value) == 0.5


def test_whole_numbers_and_truth_values_are_counts():
    for value in (np.int64(3), np.uint8(3), torch.tensor(3), np.array([3])):
        assert type(as_number(value)) is int
    assert [as_number(value) for value in (True, np.bool_(False), torch.tensor(True))] == [1, 0, 1]
    assert as_plain([True, np.bool_(True), None, "a"]) == [True, True, None, "a"]
    assert np.isnan(as_number(np.float32("nan")))
    assert as_plain([np.float32("inf"), float("nan")]) == [None, None]
    assert as_plain({1: np.arange(2), "b": torch.ones(1, 2)}) == {"1": [0, 1], "b": [[1.0, 1.0]]}


def test_what_comes_with_a_loss_may_be_any_number(toy, monkeypatch):
    embedder = get_catalog().resolve("retrieval.Embedder", "model") if toy() else None
    original = embedder.compute_loss
    monkeypatch.setattr(embedder, "compute_loss", lambda self, *given: original(self, *given) | KINDS)
    toolbox.train(toy([*SHORT, "default_hooks.logger.interval=1"]), out="w")
    lines = [json.loads(line) for line in Path("w/metrics.jsonl").read_text().splitlines()]
    assert [[line[name] for name in KINDS] for line in lines if "torch" in line] == [[0.5] * len(KINDS)] * 3


@pytest.mark.parametrize("value", ["0.5", torch.zeros(2)], ids=repr)
def test_what_comes_with_a_loss_and_is_no_number_is_named(toy, monkeypatch, value):
    embedder = get_catalog().resolve("retrieval.Embedder", "model") if toy() else None
    original = embedder.compute_loss
    monkeypatch.setattr(embedder, "compute_loss", lambda self, *given: original(self, *given) | {"more": value})
    with pytest.raises(ToolboxError, match="The model's loss comes with 'more'"):
        toolbox.train(toy(SHORT), out="w")


@pytest.mark.parametrize("kind", [np.float32, torch.tensor])
def test_a_schedule_may_give_numbers_of_any_library(toy, monkeypatch, kind):
    cosine = get_catalog().resolve("core.WarmupCosine", "schedule") if toy() else None
    original = cosine.factor
    toolbox.train(toy(SHORT), out="plain")
    monkeypatch.setattr(cosine, "factor", lambda self, step, steps: kind(original(self, step, steps)))
    toolbox.train(toy(SHORT), out="other")
    rates = [
        [json.loads(line).get("lr") for line in Path(f"{name}/metrics.jsonl").read_text().splitlines()]
        for name in ("plain", "other")
    ]
    assert rates[0] == pytest.approx(rates[1])


@pytest.mark.parametrize("value", NONE, ids=repr)
def test_what_is_no_number_is_refused(value):
    with pytest.raises(ValueError, match="a number is needed, not"):
        as_number(value)


def test_a_run_takes_numbers_of_every_kind(gives):
    recipe = gives(
        {f"m_{name}": value for name, value in KINDS.items()},
        {f"h_{name}": value for name, value in KINDS.items()},
        {"entry": {"array": np.arange(2), "number": np.float32(0.5), "nan": torch.tensor(float("nan"))}},
        ["default_hooks.checkpoint.save_best=m_float32"],
    )
    results = toolbox.train(recipe, out="w")
    assert {name: results["best"]["metrics"][f"m_{name}"] for name in KINDS} == dict.fromkeys(KINDS, 0.5)
    assert results["entry"] == {"array": [0, 1], "number": 0.5, "nan": None}
    lines = [json.loads(line) for line in Path("w/metrics.jsonl").read_text().splitlines()]
    assert {line["h_float32"] for line in lines if "h_float32" in line} == {0.5}
    assert json.loads(Path("w/train_results.json").read_text())["entry"]["array"] == [0, 1]
    again = gives({"m_float32": 0.5}, {"x": np.float32(1)}, more=["train_cfg.max_steps=3"])
    assert toolbox.train(again, out="w", resume=True)["steps"] == 3


@pytest.mark.parametrize("value", ["text", np.zeros(3)], ids=repr)
def test_a_metric_that_gives_no_number_is_named_and_the_step_is_kept(gives, value):
    with pytest.raises(ToolboxError) as caught:
        toolbox.train(gives({"good": 1.0, "odd": value}), out="w")
    (problem,) = caught.value.problems
    assert problem.message.startswith("Numbers.compute gives 'odd', where a number is needed, not")
    assert problem.where.endswith("val_evaluator")
    with pytest.raises(ToolboxError, match=r"Numbers\.compute gives a number under the name 3"):
        toolbox.train(gives({3: 1.0}), out="v")


def test_a_metric_that_gives_no_dict_is_named(gives):
    with pytest.raises(ToolboxError, match=r"Numbers\.compute gives a float, and \{name: number\} is needed"):
        toolbox.train(gives(0.5), out="w")


def test_a_hook_that_logs_no_number_is_told_which(gives):
    with pytest.raises(ToolboxError, match="What was logged holds 'odd', where a number is needed, not 'text'"):
        toolbox.train(gives({"m": 1.0}, {"odd": "text"}), out="w")


@pytest.mark.parametrize("odd", [{"odd": object()}, {"deep": {"odd": [{1, 2}]}}, [1]], ids=["object", "deep", "list"])
def test_results_are_written_before_a_hook_is_refused_what_it_concludes(gives, odd):
    with pytest.raises(ToolboxError, match=r"Logs\.on_run_end gives what JSON cannot hold") as caught:
        toolbox.train(gives({"m": 1.0}, concluded=odd), out="w")
    assert caught.value.problems[0].where.endswith("custom_hooks.0")
    assert json.loads(Path("w/train_results.json").read_text())["after"]["m"] == 1.0


def test_a_state_may_hold_numbers_of_numpy():
    assert join(*split({"a": np.float32(0.5), "b": [np.int64(1), np.bool_(True)]})) == {"a": 0.5, "b": [1, True]}
