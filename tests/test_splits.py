"""Splits by hash: complete, disjoint, about as large as asked, the same everywhere, and unmoved by additions."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import pytest

from toolbox.base.splits import hash_keys, rank_in_class, split_by_hash, take_by_hash

SHARES = [(0.1, 0.2), (0.1, 0.0), (0.4, 0.5), (0.01, 0.01), (0.9, 0.0)]


def some(seed: int, most: int = 60) -> tuple[list[str], np.ndarray]:
    """Keys and labels of classes of very different sizes."""
    rng = np.random.default_rng(seed)
    counts = rng.integers(0, most, rng.integers(2, 20))
    labels = rng.permutation(np.repeat(np.arange(len(counts)), counts))
    return [f"{label}/{number}-{seed}.jpg" for number, label in enumerate(labels)], labels


@pytest.mark.parametrize(("val", "test"), SHARES)
@pytest.mark.parametrize("least", [1, 2])
def test_splits_are_complete_disjoint_and_never_empty(val, test, least):
    for case in range(20):
        keys, labels = some(case)
        found = split_by_hash(keys, val_share=val, test_share=test, seed=case, labels=labels, least=least)
        assert sorted(np.concatenate(list(found.values()))) == list(range(len(keys)))
        assert all((np.diff(indices) > 0).all() for indices in found.values())
        wanted = [name for name, share in (("train", 1), ("val", val), ("test", test)) if share]
        for label, count in enumerate(np.bincount(labels)):
            taken = {name: int((labels[indices] == label).sum()) for name, indices in found.items()}
            if count < least * len(wanted):
                assert taken["train"] == count
            else:
                assert all(taken[name] >= least for name in wanted)
                assert sum(taken[name] for name in wanted) == count


def test_shares_are_about_as_large_as_asked():
    keys, labels = [f"{n % 10}/{n}" for n in range(20_000)], np.arange(20_000) % 10
    found = split_by_hash(keys, val_share=0.1, test_share=0.2, labels=labels)
    assert abs(len(found["test"]) - 4_000) < 4 * 57  # of binomial draws: 4 standard deviations
    assert abs(len(found["val"]) - 2_000) < 4 * 43


@pytest.mark.parametrize(("val", "test"), SHARES)
@pytest.mark.parametrize("least", [1, 2])
def test_no_addition_moves_a_trained_item_and_only_promoted_items_move(val, test, least):
    """Data grow one item at a time, in any order. `settled`: classes in which nothing is kept back for "train"."""
    moved = promoted = 0
    for case in range(8):
        keys, labels = some(case, 25)
        natural = hash_keys(keys, case) / 2.0**64
        own = np.where(natural < test, "test", np.where(natural < test + val, "val", "train"))
        order, before = np.random.default_rng(case).permutation(len(keys)), {}
        for count in range(1, len(keys) + 1, 1 + case % 3):
            here = order[:count]
            sizes = np.bincount(labels[here], minlength=labels.max() + 1)
            in_test = np.bincount(labels[here[own[here] == "test"]], minlength=len(sizes))
            in_train = np.bincount(labels[here[own[here] == "train"]], minlength=len(sizes))
            wanted = np.maximum(in_test, least) * (test > 0) + least
            settled = sizes - np.maximum(sizes - in_train, wanted) >= least
            found = split_by_hash(
                [keys[i] for i in here], val_share=val, test_share=test, seed=case, labels=labels[here], least=least
            )
            now = {int(here[i]): name for name, indices in found.items() for i in indices if settled[labels[here[i]]]}
            assert before.keys() <= now.keys()  # what is settled stays so
            for item, name in now.items():
                promoted += own[item] != name
                if (then := before.get(item, name)) != name:
                    moved += 1
                    assert then != "train", f"{keys[item]} was trained on and is in {name} now"
                    assert then != own[item], f"{keys[item]} was where its hash says and is in {name} now"
            before = now
    assert (promoted and moved) or val + test > 0.5, "the cases are too easy"


def test_a_class_added_moves_no_other():
    names = [f"class {n}" for n in range(40)]
    before = split_by_hash(names, val_share=0.1, test_share=0.2, least=2)
    for extra in range(50):
        after = split_by_hash([*names, f"new {extra}"], val_share=0.1, test_share=0.2, least=2)
        assert all(set(before[name]) <= set(after[name]) for name in ("train", "val", "test"))


def test_a_class_that_hashes_out_of_train_keeps_an_item_to_train_on():
    for seed in range(300):
        found = split_by_hash(["a", "b", "c"], val_share=0.45, test_share=0.5, seed=seed)
        assert [len(found[name]) for name in ("train", "val", "test")] == [1, 1, 1]
        assert hash_keys("abc", seed).argmax() == found["train"][0]


def test_what_is_divided_is_the_same_on_every_machine():
    """Numbers that another version of NumPy, another platform or another hash seed of Python must give too."""
    keys = [str(n) for n in range(40)]
    assert hash_keys(["a", "ü", "c\udcff"], 42).tolist() == [
        11974267251005207846,
        14663577071930552184,
        13134752826045474711,
    ]
    assert split_by_hash(keys, val_share=0.1, test_share=0.2)["val"].tolist() == [12, 27]
    assert take_by_hash(keys, shots=3, labels=np.arange(40) % 2).tolist() == [0, 11, 13, 14, 24, 31]


def test_seeds_and_purposes_divide_independently():
    keys = [str(n) for n in range(2000)]
    chosen = [set(split_by_hash(keys, val_share=0.1, seed=seed)["val"].tolist()) for seed in range(50)]
    overlaps = [len(one & other) for one, other in pairwise(chosen)]
    assert 15 < np.mean(overlaps) < 25  # a tenth of a tenth
    subset = set(take_by_hash(keys, ratio=0.1, seed=0, labels=np.zeros(2000, int)).tolist())
    assert 5 < len(subset & chosen[0]) < 40


@pytest.mark.parametrize("case", range(5))
def test_a_smaller_subset_is_part_of_a_larger_one_and_growth_moves_nobody(case):
    keys, labels = some(case)
    before: set[int] = set()
    for ratio in (0.05, 0.1, 0.35, 0.8, 1.0):
        found = set(take_by_hash(keys, ratio=ratio, seed=case, labels=labels).tolist())
        assert before <= found
        assert set(labels[list(found)]) == set(labels)  # no class vanishes
        before = found
    assert len(before) == len(keys)
    one, two = (set(take_by_hash(keys, shots=n, seed=case, labels=labels).tolist()) for n in (2, 5))
    assert one <= two
    grown, more = some(case + 100)
    some_taken = take_by_hash(keys, ratio=0.3, seed=case, labels=labels)
    after = take_by_hash([*keys, *grown], ratio=0.3, seed=case, labels=np.concatenate([labels, more]))
    gone = set(some_taken.tolist()) - set(after.tolist())
    hashes = hash_keys(keys, case, "subset")
    assert all(hashes[i] >= 0.3 * 2**64 for i in gone)  # those that stood for their class alone


def test_places_count_within_a_class():
    labels, values = np.array([1, 0, 1, 0, 1]), np.array([5, 9, 1, 2, 7], dtype=np.uint64)
    assert rank_in_class(labels, values).tolist() == [1, 1, 0, 0, 2]
