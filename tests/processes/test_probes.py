"""Several processes train the linear probes of one."""

from __future__ import annotations

import probes
import pytest
import torch


@pytest.mark.parametrize("size", [2, 4])
@pytest.mark.parametrize("mode", ["ddp", "fsdp"])
@pytest.mark.parametrize("case", probes.CASES)
def test_several_processes_train_the_probes_of_one(found, size, mode, case):
    one = found[1][0]["probes"][f"ddp:{case}"]
    for many in found[size]:
        other = many["probes"][f"{mode}:{case}"]
        assert other.keys() == one.keys()
        for name, value in one.items():
            assert torch.allclose(other[name], value, atol=1e-6 if name in ("loss", "logits") else 1e-12), name


def test_a_step_is_large_enough_to_compare(found):
    plain, accumulated = (found[1][0]["probes"][f"ddp:{case}"] for case in probes.CASES)
    weights = [name for name in plain if name.startswith("heads")]
    assert len(weights) == 4
    assert all((plain[name] - accumulated[name]).abs().max() > 1e-3 for name in weights)


@pytest.mark.parametrize("size", [2, 4])
def test_means_over_shares_that_are_not_equal_would_be_found(found, size):
    right, wrong = found[1][0]["probes"]["ddp:plain"], found[size][0]["probes"]["mistake"]
    assert all((right[name] - wrong[name]).abs().max() > 1e-6 for name in right if name.startswith("heads"))
