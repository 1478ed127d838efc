"""Runs repeat bit for bit: with other workers, after an interruption; tests/faults kills them."""

from __future__ import annotations

import json
import signal
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

import toolbox
from toolbox.engine import trainer
from toolbox.engine.data import bad_items
from toolbox.engine.signals import Interrupted

HERE = Path(__file__).parent


def trained(folder: Path) -> tuple[dict, dict, dict]:
    """What a run's last checkpoint holds: weights, optimizer and generator tensors, and the plain state."""
    last = folder / "last"
    plain = json.loads((last / "state.json").read_text())
    return load_file(last / "model.safetensors"), load_file(last / "state.safetensors"), plain


def same(a: dict, b: dict) -> bool:
    return a.keys() == b.keys() and all(torch.equal(a[key], b[key]) for key in a)


def assert_same(a: Path, b: Path) -> None:
    (weights_a, state_a, plain_a), (weights_b, state_b, plain_b) = trained(a), trained(b)
    assert same(weights_a, weights_b)
    assert same(state_a, state_b)
    assert len(state_a) > 5  # moments and generators are in there
    assert plain_a["progress"]["best"] == plain_b["progress"]["best"]


@pytest.fixture
def whole(toy):
    """An uninterrupted run."""
    toolbox.train(toy(), out="whole")
    return Path("whole")


def interrupt_at(monkeypatch, step: int, signum: int = signal.SIGTERM) -> None:
    """Send this process a real signal once, during `step`."""
    original, calls = bad_items.BadItems.check, []

    def check(self, got, processes):
        calls.append(True)
        if len(calls) == step:
            signal.raise_signal(signum)
        original(self, got, processes)

    monkeypatch.setattr(bad_items.BadItems, "check", check)


@pytest.mark.parametrize("step", [1, 5, 6, 11])
def test_a_resumed_run_equals_the_uninterrupted_one(toy, whole, monkeypatch, step):
    interrupt_at(monkeypatch, step)
    with pytest.raises(Interrupted, match=f"step {step} of 12"):
        toolbox.train(toy(), out="stopped")
    assert json.loads((Path("stopped/last/manifest.json")).read_text())["step"] == step
    results = toolbox.train(toy(), out="stopped", resume=True)
    assert_same(whole, Path("stopped"))
    assert results["before"] == json.loads(Path("whole/train_results.json").read_text())["before"]
    steps = [json.loads(line)["step"] for line in Path("stopped/metrics.jsonl").read_text().splitlines()]
    assert steps == sorted(steps)


def test_with_accumulation(toy, monkeypatch):
    more = ["optim_wrapper.accumulative_counts=2"]
    toolbox.train(toy(more), out="whole")
    interrupt_at(monkeypatch, 7)
    with pytest.raises(Interrupted):
        toolbox.train(toy(more), out="stopped")
    toolbox.train(toy(more), out="stopped", resume=True)
    assert_same(Path("whole"), Path("stopped"))


def test_the_number_of_workers_changes_nothing(toy, whole):
    toolbox.train(toy(["train_dataloader.num_workers=2", "val_dataloader.num_workers=1"]), out="workers")
    assert_same(whole, Path("workers"))


def test_another_seed_gives_another_run(toy, whole):
    toolbox.train(toy(["randomness.seed=1"]), out="other")
    assert not same(trained(whole)[0], trained(Path("other"))[0])


def test_a_run_without_its_generator_state_would_differ(toy, whole, monkeypatch):
    """Negative control: the comparison above can fail."""
    interrupt_at(monkeypatch, 5)
    with pytest.raises(Interrupted):
        toolbox.train(toy(), out="stopped")
    monkeypatch.setattr(trainer, "set_random_state", lambda device, state: torch.manual_seed(99))
    toolbox.train(toy(), out="stopped", resume=True)
    assert not same(trained(whole)[0], trained(Path("stopped"))[0])


def test_draws_of_an_image_differ_and_repeat_over_runs(toy):
    from toolbox.engine.data.batch_builder import BatchBuilder, input_specs
    from toolbox.registry import build

    config = toy()
    model = toolbox.build(config)

    def fetch(seed):
        augment = build(config.train_dataloader.augment)
        return BatchBuilder(build(config.train_dataloader.dataset), input_specs(model), augment=augment, seed=seed)

    state = torch.get_rng_state()
    first = fetch(0)[[(10, 3), (11, 3)]].inputs["image"]
    assert not torch.equal(first[0], first[1])
    assert torch.equal(first, fetch(0)[[(10, 3), (11, 3)]].inputs["image"])
    assert torch.equal(first[1], fetch(0)[[(11, 3)]].inputs["image"][0])
    assert not torch.equal(first, fetch(1)[[(10, 3), (11, 3)]].inputs["image"])
    assert torch.equal(state, torch.get_rng_state())  # the model's generator is untouched


def test_a_run_that_was_killed_before_its_results_writes_them_whole(toy, whole):
    """Nothing is left to train or to validate: which values are better comes from the checkpoint."""
    results = json.loads((Path("whole") / "train_results.json").read_text())
    (Path("whole") / "train_results.json").unlink()
    resumed = toolbox.train(toy(), out="whole", resume=True)
    assert results["better"]
    assert resumed["better"] == results["better"]
    assert resumed["settings"] == results["settings"]
