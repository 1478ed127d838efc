"""Several processes find the numbers of one, to the last bit."""

from __future__ import annotations

import metrics
import pytest


@pytest.mark.parametrize("size", [2, 4])
@pytest.mark.parametrize("name", metrics.SETS)
def test_metrics_are_those_of_one_process(found, size, name):
    one = found[1][0]["metrics"][name]
    for rank, many in enumerate(found[size]):
        for key in (name, f"fsdp:{name}"):
            if key in many["metrics"]:
                assert many["metrics"][key]["numbers"] == one["numbers"], (rank, key)
                assert many["metrics"][key]["findings"] == one["findings"], (rank, key)


def test_the_numbers_are_worth_comparing(found):
    for name, one in found[1][0]["metrics"].items():
        numbers = one["numbers"]
        few = name in ("6 items", "few items to classify", "3 captioned items")
        assert few or 0 < numbers["i2t_recall@1" if "i2t_recall@1" in numbers else "recall@1"] < 1, name
        assert "top3" not in numbers or few or 0 < numbers["top3"] < 1, name
        assert len(numbers) > (10 if "i2t_recall@1" in numbers else 40), name
        assert one["findings"], name
    assert found[1][0]["metrics"]["some unreadable"]["numbers"]["unreadable_items"] == 3
    assert found[1][0]["metrics"]["whole batches unreadable"]["numbers"]["unreadable_items"] == 17
