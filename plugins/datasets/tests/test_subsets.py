"""Splits by images are disjoint, complete, balanced and the same everywhere; ratios are nested."""

from __future__ import annotations

import subprocess
import sys
from itertools import pairwise

import numpy as np
import pytest
from toolbox_datasets import subsets
from toolbox_datasets.subsets import divided, lots, places, portion, thinned


def some_labels(seed: int) -> np.ndarray:
    rng = np.random.default_rng(seed)
    counts = rng.integers(0, 60, rng.integers(2, 30))
    return rng.permutation(np.repeat(np.arange(len(counts)), counts))


@pytest.mark.parametrize("case", range(30))
@pytest.mark.parametrize(("val", "test"), [(0.1, 0), (0.1, 0.2), (0.5, 0.4), (0.01, 0), (0.9, 0)])
def test_splits_are_disjoint_complete_and_balanced(case, val, test):
    labels = some_labels(case)
    drawn = lots(len(labels), case)
    found = {name: divided(labels, drawn, name, val, test) for name in ("train", "val", "test")}
    assert sorted(np.concatenate(list(found.values()))) == list(range(len(labels)))
    assert all((np.diff(indices) > 0).all() for indices in found.values())
    splits = 2 + (test > 0)
    for label, count in enumerate(np.bincount(labels)):
        taken = {name: int((labels[indices] == label).sum()) for name, indices in found.items()}
        if count < splits:
            assert taken["train"] == count
            continue
        assert taken["train"] >= 1
        for name, share in (("val", val), ("test", test)):
            assert (taken[name] >= 1) == (share > 0)
            assert abs(taken[name] - share * count) <= 1


@pytest.mark.parametrize("case", range(30))
def test_a_smaller_ratio_is_part_of_a_larger_one_and_classes_keep_their_shares(case):
    labels = some_labels(case)
    labels = labels[np.isin(labels, np.flatnonzero(np.bincount(labels) >= 10))]
    labels = np.unique(labels, return_inverse=True)[1]
    drawn, names = lots(len(labels), 7), [str(label) for label in range(len(labels))]
    before = np.arange(0)
    for ratio in (0.1, 0.2, 0.35, 0.8, 1.0):
        found = thinned(labels, drawn, ratio, None, names)
        assert set(before) <= set(found)
        counts = np.bincount(labels), np.bincount(labels[found], minlength=labels.max() + 1)
        assert (np.abs(counts[1] - ratio * counts[0]) <= 0.5 + 1e-9).all()
        before = found
    assert before.tolist() == list(range(len(labels)))
    for shots in (1, 5, 10):
        assert set(np.bincount(labels[thinned(labels, drawn, 1.0, shots, names)])) == {shots}
    assert set(thinned(labels, drawn, 1.0, 5, names)) <= set(thinned(labels, drawn, 1.0, 10, names))


def test_what_is_drawn_is_the_same_on_every_machine():
    """Numbers that another version of NumPy, another platform or another hash seed must give too."""
    assert lots(3, 42).tolist() == list(map(int, reference(42, 3)))
    labels = np.arange(40) % 4
    code = (
        "import numpy as np; from toolbox_datasets.subsets import *;"
        "l = np.arange(40) % 4; print(divided(l, lots(40, 42), 'val', 0.2).tolist())"
    )
    printed = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert eval(printed) == divided(labels, lots(40, 42), "val", 0.2).tolist() == VALIDATION


VALIDATION = [3, 7, 13, 14, 16, 29, 30, 32]


def reference(seed: int, count: int) -> list[int]:
    """SplitMix64 with Python's own whole numbers."""

    def mix(z):
        z = ((z ^ (z >> 30)) * 0xBF58476D1CE4E5B9) % 2**64
        z = ((z ^ (z >> 27)) * 0x94D049BB133111EB) % 2**64
        return z ^ (z >> 31)

    start = mix(seed)
    return [mix((start + index * 0x9E3779B97F4A7C15) % 2**64) for index in range(1, count + 1)]


def test_the_mixing_is_that_of_splitmix64():
    """The first outputs of the published generator for the state 0 and 1234567."""

    def outputs(state, count):
        steps = np.uint64(state) + np.arange(1, count + 1, dtype=np.uint64) * np.uint64(subsets.GOLDEN)
        return subsets.mixed(steps).tolist()

    assert outputs(0, 3) == [0xE220A8397B1DCDAF, 0x6E789E6AA1B965F4, 0x06C45D188009454F]
    assert outputs(1234567, 2) == [6457827717110365317, 3203168211198807973]


def test_seeds_draw_otherwise_and_evenly():
    labels = np.zeros(1000, dtype=np.int64)
    chosen = [set(divided(labels, lots(1000, seed), "val", 0.1)) for seed in range(200)]
    overlaps = [len(one & other) for one, other in pairwise(chosen)]
    assert 8 < np.mean(overlaps) < 12  # a tenth of a tenth
    count = np.bincount([index for found in chosen for index in found], minlength=1000)
    assert 0.7 < count.var() / (200 * 0.1 * 0.9) < 1.3  # as of draws that are independent


def test_portions_are_exact():
    assert [portion(count, 0.1) for count in (4, 5, 14, 15, 750)] == [0, 1, 1, 2, 75]
    assert portion(10, 0.25) == 3
    assert portion(1000, 0.1 + 0.2) == 300


def test_places_count_within_a_class():
    labels, drawn = np.array([1, 0, 1, 0, 1]), np.array([5, 9, 1, 2, 7], dtype=np.uint64)
    assert places(labels, drawn).tolist() == [1, 1, 0, 0, 2]


def test_a_class_that_would_vanish_is_named():
    labels = np.repeat([0, 1, 2], [40, 4, 40])
    with pytest.raises(ValueError, match=r"1 classes without an image \('bee' has 4\): take at least 0\.125"):
        thinned(labels, lots(84, 0), 0.1, None, ["ant", "bee", "cow"])
    assert len(thinned(labels, lots(84, 0), 0.125, None, ["ant", "bee", "cow"])) == 11
    with pytest.raises(ValueError, match=r"'bee' has 4\): take at most 4"):
        thinned(labels, lots(84, 0), 1.0, 5, ["ant", "bee", "cow"])


@pytest.mark.parametrize("arguments", [(0, None, 0), (-1, None, 0), (1.5, None, 0), (float("nan"), None, 0),
    (1, 0, 0), (1, 1.5, 0), (1, True, 0), (0.5, 3, 0), (1, None, -1)])  # fmt: skip
def test_nonsense_is_refused(arguments):
    with pytest.raises(ValueError, match=r"ratio|shots|seed"):
        subsets.require_subset(*arguments)
