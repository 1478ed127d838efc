"""Whole runs of several processes: sharded like replicated, resumed, refused, and always through their wrapper."""

from __future__ import annotations

import json

import pytest
import runs
import torch
from same import assert_equal

import toolbox
from toolbox.engine.checkpoint import checkpoint as checkpoints


@pytest.fixture(scope="session")
def folder(found):
    from toolbox.registry import add_local, get_catalog

    here = runs.RECIPE.parent
    known = {plugin.namespace for plugin in get_catalog().plugins}
    places = {"toy": here / "toy_plugin.py", "processes": here / "processes" / "processes_plugin.py"}
    add_local([str(path) for name, path in places.items() if name not in known])
    return found["folder"]


def weights(folder, name):
    """The last weights of a run, loaded by this single process."""
    return toolbox.load(folder / name / "last", device="cpu").model.state_dict()


def furthest(a, b):
    assert a.keys() == b.keys()
    return max((a[name].double() - b[name].double()).abs().max().item() for name in a if a[name].numel())


@pytest.mark.parametrize("name", runs.SETTINGS)
def test_sharded_training_is_replicated_training(found, folder, name):
    limit = 2e-2 if name == "bf16" else 1e-6
    ours, theirs = weights(folder, f"{name}-fsdp"), weights(folder, f"{name}-ddp")
    assert furthest(ours, theirs) <= limit
    results = [found[2][0]["runs"][f"{name}-{mode}"] for mode in ("fsdp", "ddp")]
    assert results[0]["after"].keys() == results[1]["after"].keys()
    first = torch.load(folder / f"{name}-ddp" / "checkpoint-3.pt")
    last = torch.load(folder / f"{name}-ddp" / "checkpoint-6.pt")
    assert furthest(first, last) > 1e-4  # there was something to learn


def test_an_update_that_is_not_finite_on_one_process_is_left_out_by_all(found):
    for mode in ("ddp", "fsdp"):
        for process in range(2):
            assert found[2][process]["runs"][f"skipped-{mode}"]["skipped_steps"] == 1


def test_only_sharded_runs_write_shards(folder):
    for name in runs.SETTINGS:
        assert checkpoints.read(folder / f"{name}-fsdp" / "last").sharded
        assert not checkpoints.read(folder / f"{name}-ddp" / "last").sharded


@pytest.mark.parametrize("name", ["plain", "lora", "frozen", "bf16"])
@pytest.mark.parametrize("mode", ["ddp", "fsdp"])
def test_a_single_process_loads_the_weights_that_several_had(folder, name, mode):
    had = torch.load(folder / f"{name}-{mode}" / "checkpoint-6.pt")
    loaded = toolbox.load(folder / f"{name}-{mode}" / "checkpoint-6", device="cpu")
    assert_equal(loaded.model.state_dict(), had)
    images = [toolbox.build(dict(type="toy.Noise", count=4))[index]["image"] for index in range(4)]
    model = toolbox.load(folder / f"{name}-ddp" / "checkpoint-3", device="cpu")
    before = model.encode_image(images)
    model.model.load_state_dict(had)
    assert torch.equal(torch.as_tensor(model.encode_image(images)), torch.as_tensor(loaded.encode_image(images)))
    assert not torch.equal(torch.as_tensor(before), torch.as_tensor(loaded.encode_image(images)))


@pytest.mark.parametrize("step", [4, 8])
@pytest.mark.parametrize("mode", ["ddp", "fsdp"])
def test_a_resumed_run_ends_as_the_uninterrupted_one_bit_by_bit(found, folder, mode, step):
    whole, resumed = f"whole-{mode}", f"from-{step}-{mode}"
    ours, theirs = (checkpoints.read(folder / name / "last") for name in (resumed, whole))
    assert ours.step == theirs.step == 12
    assert_equal(ours.model_tensors(), theirs.model_tensors(), "model")
    assert_equal(ours.state(), theirs.state(), "state")
    lines = [
        [json.loads(line) for line in (folder / name / "metrics.jsonl").read_text().splitlines()]
        for name in (resumed, whole)
    ]
    assert_equal(*lines, "metrics.jsonl")
    results = [found[2][0]["runs"][name] for name in (resumed, whole)]
    assert_equal(*({**one, "said": None} for one in results), "results")
    assert any(f"Resuming at step {step}" in text for text in found[2][0]["runs"][resumed]["said"])


@pytest.mark.parametrize("size", [1, 4])
def test_another_number_of_processes_goes_on_from_a_sharded_checkpoint_and_says_so(found, folder, size):
    name = f"steady-by-{size}"
    assert furthest(weights(folder, name), weights(folder, "steady-fsdp")) < 1e-5
    said = "\n".join(found[size][0]["runs"]["resumed"]["said"])
    assert f"The checkpoint is of 2 processes, and the run goes on with {size}" in said
    for result in found[size]:
        assert result["runs"]["resumed"]["steps"] == 12


@pytest.mark.parametrize("mode", ["ddp", "fsdp"])
def test_models_are_called_through_their_wrapper_alone(found, mode):
    for many in found[2]:
        plain, chunks = (many["runs"][f"guarded-{name}-{mode}"] for name in ("plain", "chunks"))
        assert plain["loss"] == 6
        assert plain["baseline"] >= 2
        assert plain["predict"] >= 6
        assert chunks["compute_loss"] == 6
        assert chunks["encode"] == 24


def test_whoever_calls_a_model_past_its_wrapper_is_found(found):
    for many in found[2]:
        assert not [name for name in many["runs"] if name.startswith("past-")]


def test_what_several_processes_cannot_train_is_refused_with_its_place(found):
    for many in found[2]:
        told = many["runs"]["refused"]
        assert "model.head.stack.0" in told["batch norm"]
        assert "one process's share of the batch" in told["batch norm"]
        assert "A batch of 1 items cannot be shared by 2 processes" in told["small batch"]
        assert "Own gives another 'own' in process 1 than in process 0" in told["own numbers"]
        assert "plugin mixed" in told["other plugin"]
        assert "same installation" in told["other plugin"]
