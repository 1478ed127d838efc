"""What a ratio or shots take of each class, and what is said of it."""

from __future__ import annotations

import numpy as np
import pytest
from toolbox_datasets import subsets
from toolbox_datasets.subsets import choose_subset, describe_small_classes


def test_classes_with_fewer_images_than_shots_are_named():
    labels, keys = np.repeat([0, 1, 2], [40, 4, 40]), [str(n) for n in range(84)]
    with pytest.raises(ValueError, match=r"shots=5, and 1 classes have fewer images \('bee' has 4\): take at most 4"):
        choose_subset(labels, keys, 1.0, 5, 0, ["ant", "bee", "cow"])
    assert np.bincount(labels[choose_subset(labels, keys, 1.0, 4, 0, ["ant", "bee", "cow"])]).tolist() == [4, 4, 4]


def test_a_ratio_leaves_every_class_an_image():
    labels, keys = np.repeat([0, 1, 2], [400, 2, 400]), [str(n) for n in range(802)]
    counts = np.bincount(labels[choose_subset(labels, keys, 0.1, None, 3, ["ant", "bee", "cow"])])
    assert counts[1] == 1
    assert abs(counts[[0, 2]] - 40).max() < 4 * 6  # of binomial draws


def test_classes_that_are_too_small_to_divide_are_named():
    labels = np.repeat([0, 1, 2, 3, 4], [40, 2, 1, 2, 1])
    (note,) = describe_small_classes(labels, 3, list("abcde"))
    assert note == (
        "4 classes have fewer than 3 images, too few to divide: they are in 'train' alone ('b' has 2, 'c' has 1, 'd' "
        "has 2 ...)"
    )


@pytest.mark.parametrize(
    "arguments",
    [
        (0, None, 0),
        (-1, None, 0),
        (1.5, None, 0),
        (float("nan"), None, 0),
        (1, 0, 0),
        (1, 1.5, 0),
        (1, True, 0),
        (0.5, 3, 0),
        (1, None, -1),
    ],
)
def test_nonsense_is_refused(arguments):
    with pytest.raises(ValueError, match=r"ratio|shots|seed"):
        subsets.require_subset(*arguments)
