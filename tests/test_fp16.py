"""Updates that the scaler of fp16 skips: they are counted, logged and resumed, and too many of them end the run."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from test_exactness import assert_same, interrupt_at
from test_resume import interrupted

import toolbox
from toolbox.engine import device
from toolbox.engine.checkpoint import run_folder
from toolbox.engine.checkpoint.files import as_json
from toolbox.engine.checkpoint.state import join, split
from toolbox.engine.train_step import TrainStep
from toolbox.errors import ToolboxError
from toolbox.progress import LineConsole

FP16 = ["optim_wrapper.precision=fp16", "evaluate_before=False", "default_hooks.logger.interval=1"]


@pytest.fixture(autouse=True)
def processor(monkeypatch):
    """A processor that offers fp16."""
    original = device._offered

    def offered(requested):
        found = original(requested)
        return replace(found, precisions=(*found.precisions, "fp16"))

    monkeypatch.setattr(device, "_offered", offered)


@pytest.fixture
def overflow_at(monkeypatch):
    """`overflow_at(*numbers)`: the gradients of these updates (1 is the first) are infinite."""
    original = TrainStep._update

    def install(*numbers):
        def update(self, values, step):
            if step + 1 in numbers:
                next(p.grad for p in self.parameters if p.grad is not None).view(-1)[0] = torch.inf
            original(self, values, step)

        monkeypatch.setattr(TrainStep, "_update", update)

    return install


@pytest.fixture
def nan_gradients(toy, monkeypatch):
    """A loss that is finite, and whose every gradient is NaN."""
    toy()
    from toy_plugin import Pull

    original = Pull.compute

    def compute(self, embeddings, *arguments):
        return original(self, embeddings, *arguments) + (0 * embeddings).abs().sqrt().sum()

    monkeypatch.setattr(Pull, "compute", compute)


def refuse(word):
    raise AssertionError(f"{word} is no JSON")


def strict(path):
    """The lines of a file, each of which must be JSON as its standard has it."""

    return [json.loads(line, parse_constant=refuse) for line in Path(path).read_text().splitlines()]


@pytest.mark.parametrize("clip", [[], ["optim_wrapper.clip_grad=None"]], ids=["clipped", "not clipped"])
def test_a_few_updates_left_out_at_the_start_are_counted_and_said(toy, overflow_at, clip):
    overflow_at(1, 2, 3)
    results = toolbox.train(toy([*FP16, *clip]), out="w", console=LineConsole())
    assert results["skipped_steps"] == json.loads(Path("w/train_results.json").read_text())["skipped_steps"] == 3
    lines = [line for line in strict("w/metrics.jsonl") if "lr" in line]
    assert [line["skipped_steps"] for line in lines] == [1, 2, *[3] * 10]
    assert all(line["loss"] > 0 for line in lines)
    assert ["grad_norm" in line for line in lines] == [not clip and step > 3 for step in range(1, 13)]
    assert "3 left out so far" in Path("w/train.log").read_text()


@pytest.mark.parametrize("clip", [[], ["optim_wrapper.clip_grad=None"]], ids=["clipped", "not clipped"])
def test_a_run_whose_every_gradient_is_nan_fails(toy, nan_gradients, clip):
    with pytest.raises(ToolboxError, match="None of the 12 updates was made") as caught:
        toolbox.train(toy([*FP16, *clip]), out="w")
    assert "bf16" in caught.value.problems[0].hint
    assert not Path("w/train_results.json").exists()
    with pytest.raises(ToolboxError, match="None of the 12 updates was made"):
        toolbox.train(toy([*FP16, *clip]), out="w", resume=True)


def test_too_many_in_a_row_end_the_run_and_single_ones_do_not(toy, overflow_at):
    options = [*FP16, "optim_wrapper.max_skipped_in_a_row=4"]
    overflow_at(1, 2, 3, 4, 6, 7, 8, 10)
    assert toolbox.train(toy(options), out="single")["skipped_steps"] == 8
    overflow_at(*range(3, 13))
    with pytest.raises(ToolboxError, match=r"5 updates in a row were left out .* more than the 4 allowed") as caught:
        toolbox.train(toy(options), out="w")
    assert caught.value.problems[0].where.endswith("optim_wrapper.max_skipped_in_a_row")
    assert strict("w/metrics.jsonl")[-1]["step"] == 6


def test_the_same_limit_holds_for_updates_that_the_recipe_leaves_out(toy, overflow_at):
    options = [*FP16[1:], "optim_wrapper.on_nonfinite=skip", "optim_wrapper.max_skipped=100"]
    overflow_at(*range(1, 13))
    with pytest.raises(ToolboxError, match="None of the 12 updates was made"):
        toolbox.train(toy(options), out="all")
    with pytest.raises(ToolboxError, match="3 updates in a row"):
        toolbox.train(toy([*options, "optim_wrapper.max_skipped_in_a_row=2"]), out="row")


@pytest.mark.parametrize("step", [2, 5])
def test_the_counts_survive_an_interruption(toy, overflow_at, monkeypatch, step):
    overflow_at(1, 2, 4, 5, 6)
    options = [*FP16, "optim_wrapper.max_skipped_in_a_row=3", "default_hooks.logger.interval=3"]
    toolbox.train(toy(options), out="whole")
    with monkeypatch.context() as patch:
        interrupt_at(patch, step)
        interrupted(toy(options), out="w")
    assert toolbox.train(toy(options), out="w", resume=True)["skipped_steps"] == 5
    assert_same(Path("whole"), Path("w"))
    numbers = [
        [{k: v for k, v in line.items() if "second" not in k and "share" not in k} for line in strict(f)]
        for f in ("whole/metrics.jsonl", "w/metrics.jsonl")
    ]
    assert numbers[0] == numbers[1]


def test_a_row_that_began_before_an_interruption_goes_on(toy, overflow_at, monkeypatch):
    overflow_at(3, 4, 5, 6, 7)
    options = [*FP16, "optim_wrapper.max_skipped_in_a_row=4"]
    with monkeypatch.context() as patch:
        interrupt_at(patch, 5)
        interrupted(toy(options), out="w")
    with pytest.raises(ToolboxError, match="5 updates in a row"):
        toolbox.train(toy(options), out="w", resume=True)


def test_every_file_of_a_run_is_json(toy, monkeypatch):
    """Numbers that are not finite become null, and a resumed run reads them."""
    toy()
    from toy_plugin import Nearest

    original = Nearest.compute
    monkeypatch.setattr(Nearest, "compute", lambda self: original(self) | {"none": float("nan"), "far": float("inf")})
    toolbox.train(toy(), out="w")
    line = next(line for line in strict("w/metrics.jsonl") if "val/nearest" in line)
    assert line["val/none"] is line["val/far"] is None
    for file in Path("w").rglob("*.json"):
        text = file.read_text()
        json.loads(text, parse_constant=refuse)
    assert toolbox.train(toy(["train_cfg.max_steps=14"]), out="w", resume=True)["steps"] == 14
    page = Path("w/report.html").read_text()
    assert "<svg" in page


def test_states_keep_what_json_has_no_word_for():
    value, tensors = split({"a": [float("inf"), 1.5], "b": (float("-inf"), {"c": float("nan")})})
    text = as_json(value)
    assert "Inf" not in text
    assert "NaN" not in text
    found = join(json.loads(text), tensors)
    assert found["a"] == [float("inf"), 1.5]
    assert found["b"][0] == float("-inf")
    assert found["b"][1]["c"] != found["b"][1]["c"]


def test_lines_of_older_runs_are_mended_when_they_are_resumed(tmp_path):
    file = tmp_path / "metrics.jsonl"
    file.write_text('{"step": 1, "loss": NaN}\n{"step": 2, "loss": 0.5}\n{"step": 3, "loss": Infinity}\n')
    assert run_folder.cut_metrics(file, 2) == 2
    assert strict(file) == [{"step": 1, "loss": None}, {"step": 2, "loss": 0.5}]
