"""Batches out of few super-classes."""

from __future__ import annotations

from collections import Counter

import numpy as np
import pytest
from toolbox_retrieval.group_pk import GroupPK
from toolbox_retrieval.pk import PK


class Listed:
    """Classes of random sizes in super-classes of given numbers of classes."""

    def __init__(self, per_group=(20, 7, 11, 3), seed=0, groups=True):
        rng = np.random.default_rng(seed)
        of = [group for group, count in enumerate(per_group) for _ in range(count)]
        sizes = rng.integers(1, 12, len(of))
        order = rng.permutation(int(sizes.sum()))
        self.labels = np.repeat(np.arange(len(of)), sizes)[order].tolist()
        self.group_of = [f"g{group}" for group in of]
        self.groups = [self.group_of[label] for label in self.labels] if groups else None
        self.classes = [str(c) for c in range(len(of))]

    def __len__(self):
        return len(self.labels)


def made(dataset, seed=0, **arguments):
    sampler = GroupPK(**arguments)
    sampler.setup(dataset, seed)
    return sampler


@pytest.mark.parametrize("short", ["repeat", "drop"])
@pytest.mark.parametrize(("groups", "classes", "per_class"), [(1, 3, 4), (2, 6, 4), (3, 9, 2), (4, 8, 3)])
def test_every_batch_has_so_many_groups_classes_and_images(groups, classes, per_class, short):
    dataset = Listed(per_group=(20, 7, 11, 5))
    sampler = made(dataset, groups=groups, classes=classes, per_class=per_class, short_classes=short)
    for number in range(2 * len(sampler)):
        batch = sampler.batch(number)
        labels = Counter(dataset.labels[index] for index in batch)
        assert list(labels.values()) == [per_class] * classes
        inside = Counter(dataset.group_of[label] for label in labels)
        assert list(inside.values()) == [classes // groups] * groups
        if short == "drop":
            assert len(set(batch)) == len(batch), "dropping leaves no reason to repeat an image"


def test_every_image_is_seen_each_epoch_and_repeats_are_counted():
    dataset = Listed()
    sampler = made(dataset, groups=2, classes=6, per_class=4)
    seen = [index for number in range(len(sampler)) for index in sampler.batch(number)]
    assert set(seen) == set(range(len(dataset)))
    assert f"{len(seen) - len(dataset)} of {len(seen)} images of an epoch are repeats" in " ".join(sampler.notes())


def test_dropped_images_are_counted():
    dataset = Listed(per_group=(20, 7, 11, 5))
    sampler = made(dataset, groups=2, classes=6, per_class=4, short_classes="drop")
    seen = {index for number in range(len(sampler)) for index in sampler.batch(number)}
    assert f"{len(dataset) - len(seen)} of {len(dataset)} images are left out each epoch" in sampler.notes()


def test_a_super_class_may_be_dropped_whole():
    dataset = Listed(per_group=(2, 2, 2))
    dataset.labels = [0, 0, 1, 2, 2, 3, 3, 4, 4, 5, 5]
    dataset.groups = [f"g{label // 2}" for label in dataset.labels]
    dataset.labels[1] = 1  # blocks: one of each super-class, of which a batch takes two
    dataset.groups[1] = "g0"
    sampler = made(dataset, groups=2, classes=4, per_class=1, short_classes="drop")
    left_out = set()
    for number in range(60 * len(sampler)):
        batch = sampler.batch(number)
        assert len({dataset.groups[i] for i in batch}) == 2
        left_out |= {"g0", "g1", "g2"} - {dataset.groups[i] for i in batch}
    assert left_out == {"g0", "g1", "g2"}


def test_small_super_classes_stand_together():
    dataset = Listed(per_group=(12, 2, 1, 2))
    sampler = made(dataset, groups=2, classes=8, per_class=2)
    assert "3 super-classes with fewer than 4 classes stand together as one" in sampler.notes()
    for number in range(len(sampler)):
        large = {dataset.labels[i] for i in sampler.batch(number) if dataset.groups[i] == "g0"}
        assert len(large) == 4


def test_batches_are_a_pure_function_of_seed_and_number():
    dataset = Listed()
    first, second = (made(dataset, groups=2, classes=6, per_class=2) for _ in range(2))
    expected = [first.batch(number) for number in range(2 * len(first))]
    assert [second.batch(number) for number in reversed(range(2 * len(second)))] == expected[::-1]
    assert made(dataset, seed=1, groups=2, classes=6, per_class=2).batch(0) != expected[0]
    assert expected[: len(first)] != expected[len(first) :]


def test_one_super_class_is_pk():
    dataset = Listed(per_group=(15,))
    sampler = made(dataset, groups=1, classes=5, per_class=3)
    plain = PK(classes=5, per_class=3)
    plain.setup(dataset, 0)
    assert len(plain) == len(sampler)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (dict(groups=2, classes=5, per_class=2), "no multiple"),
        (dict(groups=0, classes=5, per_class=2), "1 or more"),
        (dict(groups=1, classes=1, per_class=1, short_classes="skip"), "'repeat' or 'drop'"),
        (dict(groups=5, classes=5, per_class=2), "5 super-classes"),
        (dict(groups=1, classes=12, per_class=2), "only 9 together"),
        (dict(groups=2, classes=100, per_class=2), "Try"),
    ],
)
def test_what_cannot_be_is_said(arguments, message):
    with pytest.raises(ValueError, match=message):
        made(Listed(per_group=(20, 7, 11, 3)) if arguments["classes"] != 12 else Listed((5, 4)), **arguments)


def test_no_super_classes_and_mixed_classes_are_refused():
    with pytest.raises(ValueError, match="has none"):
        made(Listed(groups=False), groups=1, classes=2, per_class=2)
    dataset = Listed()
    dataset.groups[0] = "g1" if dataset.groups[0] != "g1" else "g0"
    with pytest.raises(ValueError, match="several super-classes"):
        made(dataset, groups=1, classes=2, per_class=2)
