"""What belongs together, directly or over others."""

from __future__ import annotations

import numpy as np


def find_components(count: int, left: np.ndarray, right: np.ndarray) -> np.ndarray:
    """(count,) for each node the smallest node that it is joined with, over edges left[i] - right[i]."""
    parent = list(range(count))
    for a, b in zip(left.tolist(), right.tolist(), strict=True):
        while parent[a] != a:
            parent[a] = a = parent[parent[a]]
        while parent[b] != b:
            parent[b] = b = parent[parent[b]]
        if a < b:
            parent[b] = a
        else:
            parent[a] = b
    for node in range(count):  # parents come before their children
        parent[node] = parent[parent[node]]
    return np.asarray(parent, dtype=np.int64)
