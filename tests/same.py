"""Whether what two runs have left is the same."""

from __future__ import annotations

from typing import Any

import torch

_TIMES = {"seconds", "items_per_second", "data_wait_seconds", "data_wait_share", "peak_memory_bytes", "report"}


def assert_equal(a: Any, b: Any, place: str = "") -> None:
    """Nested values are equal, tensors bit by bit, apart from times."""
    if isinstance(a, dict):
        assert a.keys() == b.keys(), place
        for key in a.keys() - _TIMES:
            assert_equal(a[key], b[key], f"{place}.{key}")
    elif isinstance(a, list | tuple):
        assert len(a) == len(b), f"{place}: {len(a)} and {len(b)}"
        for index, pair in enumerate(zip(a, b, strict=True)):
            assert_equal(*pair, f"{place}.{index}")
    elif isinstance(a, torch.Tensor):
        assert a.dtype == b.dtype, place
        assert torch.equal(a, b), place
    else:
        assert a == b, f"{place}: {a} and {b}"
