"""Several processes compute the gradients of one, for every loss and in every way through a step."""

from __future__ import annotations

import gradients
import pytest

from toolbox.registry import get_catalog

LIMIT = 1e-10
ROW_BY_ROW = {"CrossEntropy", "ArcFace", "SubCenterArcFace"}


def largest_difference(one: list[dict], many: list[dict]) -> float:
    """Over all steps and parameters; infinite where a process has a gradient that the other lacks."""
    assert len(one) == len(many) > 0
    if any(a.keys() != b.keys() for a, b in zip(one, many, strict=True)):
        return float("inf")
    return max((a[name] - b[name]).abs().max().item() for a, b in zip(one, many, strict=True) for name in a)


def test_every_loss_is_looked_at():
    registered = {
        name.partition(".")[2]
        for name in (entry.fullname for entry in get_catalog().find("loss"))
        if name.startswith("losses.")
    }
    assert set(gradients.LOSSES) == registered
    assert len(list(gradients.cases())) > 200


def test_gradients_are_large_enough_to_compare(found):
    for key, steps in found[1][0]["gradients"].items():
        for step in steps:
            assert (
                max(value.abs().max() for name, value in step.items() if "." in name and "after" not in name) > 1e-3
            ), key


@pytest.mark.parametrize("size", [2, 4])
@pytest.mark.parametrize("name", gradients.LOSSES)
def test_several_processes_have_the_gradients_of_one(found, size, name):
    one = found[1][0]["gradients"]
    for many in found[size]:
        keys = [key for key in many["gradients"] if key.startswith(f"{name}.")]
        assert len(keys) >= 4
        for key in keys:
            assert largest_difference(one[key], many["gradients"][key]) < LIMIT, key


@pytest.mark.parametrize("size", [2, 4])
def test_sharded_models_have_the_gradients_of_one_process(found, size):
    one, seen = found[1][0]["gradients"], set()
    for many in found[size]:
        for key, steps in many["gradients"].items():
            if key.startswith("fsdp:"):
                key = key.removeprefix("fsdp:")
                seen.add(key.partition(".")[0])
                assert largest_difference(one[key], steps) < LIMIT, key
    assert seen == set(gradients.LOSSES)


@pytest.mark.parametrize("mistake", ["not averaged", "detached"])
def test_a_mistake_would_be_found_with_every_loss(found, mistake):
    one, seen = found[1][0]["gradients"], set()
    for size in (2, 4):
        for key, steps in found[size][0]["gradients"].items():
            kind, _, key = key.rpartition(":")
            if kind == mistake:
                if mistake == "detached" and key.partition(".")[0] in ROW_BY_ROW:  # nothing is gathered
                    assert largest_difference(one[key], steps) < LIMIT, (size, key)
                    continue
                seen.add(key.partition(".")[0])
                assert largest_difference(one[key], steps) > 1e-3, (size, key)
    assert seen == set(gradients.LOSSES) - (ROW_BY_ROW if mistake == "detached" else set())
