"""Tests of plugins run as those of the core do, on one thread, whose sums are the same in batches of all sizes."""

from __future__ import annotations

import pytest


@pytest.fixture(autouse=True, scope="session")
def _few_threads():
    import torch

    torch.set_num_threads(1)
