"""What several processes log is what one would."""

from __future__ import annotations

import logged
import pytest

TIMES = {"items_per_second", "data_wait_share"}


@pytest.mark.parametrize(("size", "case"), [(2, case) for case in logged.CASES] + [(4, case) for case in logged.MANY])
def test_logged_numbers_are_those_of_one_process(found, size, case):
    one, many = (found[count][0]["logged"][case] for count in (1, size))
    assert [line["step"] for line in one] == [3, 6, 9]
    for ours, theirs in zip(many, one, strict=True):
        assert ours.keys() == theirs.keys() > {"loss", "lr", "grad_norm"}
        for name in ours.keys() - TIMES:
            assert ours[name] == pytest.approx(theirs[name], rel=2e-5, abs=2e-6), (ours["step"], name)
        assert ours.keys() >= TIMES


@pytest.mark.parametrize("case", logged.CASES)
def test_items_of_all_processes_are_counted(found, case):
    one, two = (found[size][0]["logged"][f"{case} items"] for size in (1, 2))
    assert one == two > 0
