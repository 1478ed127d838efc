"""Several processes compute the gradients of one for dual encoders, those of scales and biases included."""

from __future__ import annotations

import aligned
import pytest
from test_gradients import largest_difference

LIMIT = 1e-9


@pytest.mark.parametrize("size", [2, 4])
@pytest.mark.parametrize("towers", aligned.TOWERS)
def test_several_processes_have_the_gradients_of_one(found, size, towers):
    one = found[1][0]["aligned"]
    for many in found[size]:
        keys = [key for key in many["aligned"] if key.removeprefix("fsdp:").startswith(towers)]
        assert len(keys) >= 4
        assert size == 4 or any("fsdp" in key for key in keys)
        for key in keys:
            assert largest_difference(one[key.removeprefix("fsdp:")], many["aligned"][key]) < LIMIT, key


def test_scales_and_biases_are_among_them(found):
    for key, steps in found[1][0]["aligned"].items():
        moved = {name.rpartition(".")[2] for name, value in steps[0].items() if "criterion" in name and value.abs() > 0}
        assert moved >= ({"log_scale", "bias"} if "SigLIP" in key else {"log_scale"}), key
        assert max(value.abs().max() for name, value in steps[0].items() if ".head." in name) > 1e-4, key


def gradients_of(step: dict) -> set[str]:
    """What has a gradient; what is logged depends on the towers that take part."""
    return {name for name in step if not name.startswith("logged")}


def test_what_is_logged_is_of_the_whole_batch(found):
    """As the tests above compare it, a number that each process had of its own rows would be found."""
    shares = {}
    for key, steps in found[1][0]["aligned"].items():
        assert steps[0].keys() >= {"logged loss", "logged repeated_texts"}, key
        assert any(name.startswith("logged chance") for name in steps[0]), key
        shares[key] = float(steps[0]["logged repeated_texts"])
    assert all(0.1 < share < 1 for share in shares.values())


def test_dropped_towers_have_gradients_of_zero(found):
    for steps in (found[1][0]["aligned"][f"3:1/{loss}/dropout/plain"] for loss in aligned.LOSSES):
        moved = [{name.split(".")[1] for name, g in step.items() if ".head." in name and g.any()} for step in steps]
        assert all(gradients_of(step) == gradients_of(steps[0]) for step in steps)
        assert any(len(names) < 4 for names in moved)


@pytest.mark.parametrize("mistake", ["not averaged", "detached", "local"])
def test_a_mistake_would_be_found(found, mistake):
    one = found[1][0]["aligned"]
    two = found[2][0]["aligned"]
    keys = [key for key in two if key.startswith(mistake)]
    assert len(keys) == len(aligned.MISTAKEN)
    for key in keys:
        assert largest_difference(one[key.removeprefix(f"{mistake}:")], two[key]) > 1e-5, key
