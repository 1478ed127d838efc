"""`gather` gives the gradients of one process, however its result is used."""

from __future__ import annotations

import gathers
import pytest


@pytest.mark.parametrize("size", [2, 4])
@pytest.mark.parametrize("case", gathers.CASES)
def test_gathered_rows_have_the_gradients_of_one_process(found, size, case):
    one = found[1][0]["gathers"][case]
    assert one["a"].abs().max() > 1e-3
    for many in found[size]:  # the value too is the same in every process
        for name, value in many["gathers"][case].items():
            assert (value - one[name]).abs().max() < 1e-10 * max(1.0, float(one[name].abs().max())), name


@pytest.mark.parametrize("size", [2, 4])
@pytest.mark.parametrize("case", gathers.ROW_BY_ROW)
def test_losses_that_gather_nothing_have_the_gradients_of_one_process(found, size, case):
    one = found[1][0]["gathers"][case]
    assert one["tower"].abs().max() > 1e-3
    for many in found[size]:
        differences = [(value - one[name]).abs().max() for name, value in many["gathers"][case].items()]
        assert (max(differences) < 1e-10) == (case != "a mistake")
