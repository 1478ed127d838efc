"""Samplers: what an epoch holds, and that a batch depends on its number alone."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from timing import is_quick
from toolbox_datasets.records import Records
from toolbox_losses.infonce import InfoNCE
from toolbox_retrieval.embedder import Embedder
from toolbox_retrieval.group_pk import GroupPK
from toolbox_retrieval.pairs import Pairs
from toolbox_retrieval.pk import PK, add_groups, count_fewest_batches, count_most_batches, seat_batches
from torch import nn

from toolbox.base import Backbone, Features, Preprocess, l2_normalize
from toolbox.builtins.samplers import Sequential, Shuffled
from toolbox.engine.data.batch_builder import BatchBuilder, input_specs


class Labels:
    """A dataset as samplers see it."""

    def __init__(self, labels=None, count=None, records=None):
        self.labels, self.count = labels, len(labels) if count is None else count
        self.records = records

    def __len__(self):
        return self.count


def ready(sampler, labels=None, *, count=None, seed=0, records=None):
    sampler.setup(Labels(labels, count, records), seed)
    return sampler


def epoch(sampler, number=0):
    return [sampler.batch(number * len(sampler) + i) for i in range(len(sampler))]


def uneven(seed, classes=40, largest=15):
    sizes = np.random.default_rng(seed).integers(1, largest, classes)
    labels = np.repeat(np.arange(classes) * 3 + 7, sizes)
    return np.random.default_rng(seed).permutation(labels).tolist()


SAMPLERS = {
    "pk": lambda: PK(classes=5, per_class=3),
    "pk drop": lambda: PK(classes=5, per_class=3, short_classes="drop"),
    "pairs": lambda: Pairs(batch_size=7),
    "shuffled": lambda: Shuffled(batch_size=7),
    "sequential": lambda: Sequential(batch_size=7),
}


@pytest.mark.parametrize("make", SAMPLERS.values(), ids=SAMPLERS)
def test_starting_at_any_batch_equals_going_there(make):
    walked = ready(make(), uneven(1))
    count = 2 * len(walked) + 3
    batches = [walked.batch(number) for number in range(count)]
    for number in (count - 1, len(walked), 0, len(walked) - 1):
        assert ready(make(), uneven(1)).batch(number) == batches[number]
        assert walked.batch(number) == batches[number], "going back gives another batch"
    assert all(type(index) is int for batch in batches for index in batch)
    assert max(map(len, batches)) == walked.batch_size


@pytest.mark.parametrize("name", ["pk", "pk drop", "pairs", "shuffled"])
def test_epochs_and_seeds_differ(name):
    make = SAMPLERS[name]
    sampler, other = ready(make(), uneven(1)), ready(make(), uneven(1), seed=1)
    assert epoch(sampler) != epoch(sampler, 1)
    assert epoch(sampler) != epoch(other)


def test_draws_are_positions_in_the_whole_run():
    sampler = ready(Pairs(batch_size=7), uneven(1))
    draws = [draw for number in range(3) for draw, _ in sampler.draws(number)]
    assert draws == list(range(3 * 14))


@pytest.mark.parametrize("mode", ["repeat", "drop"])
@pytest.mark.parametrize(("classes", "per_class"), [(5, 3), (12, 1), (2, 4), (20, 2)])
@pytest.mark.parametrize("seed", range(4))
def test_pk_batches_hold_different_classes(mode, classes, per_class, seed):
    labels = uneven(seed)
    sampler = ready(PK(classes=classes, per_class=per_class, short_classes=mode), labels, seed=seed)
    for number in range(2):
        for batch in epoch(sampler, number):
            counts = Counter(labels[index] for index in batch)
            assert len(counts) == classes
            assert set(counts.values()) == {per_class}


@pytest.mark.parametrize(("classes", "per_class"), [(5, 3), (12, 1), (2, 4), (40, 2)])
def test_pk_repeat_sees_every_image_and_counts_repeats(classes, per_class):
    labels = uneven(2)
    sampler = ready(PK(classes=classes, per_class=per_class), labels)
    for number in range(2):
        seen = [index for batch in epoch(sampler, number) for index in batch]
        assert set(seen) == set(range(len(labels)))
    repeats = len(seen) - len(labels)
    assert repeats > 0
    assert any(note.startswith(f"{repeats} of {len(seen)} images") for note in sampler.notes())


def test_pk_sees_every_image_exactly_once_where_classes_are_even():
    labels = np.repeat(np.arange(12), 6).tolist()
    sampler = ready(PK(classes=4, per_class=3), labels)
    assert sorted(index for batch in epoch(sampler) for index in batch) == list(range(72))
    assert sampler.notes() == []


def test_pk_repeats_no_image_in_a_group_that_can_do_without():
    labels = uneven(3)
    sizes = Counter(labels)
    sampler = ready(PK(classes=6, per_class=4), labels)
    for batch in epoch(sampler):
        for group in np.asarray(batch).reshape(4, 6).T:
            assert len(set(group)) == min(4, sizes[labels[group[0]]])


def test_pk_drop_leaves_out_what_fills_no_group_and_repeats_nothing():
    labels = uneven(4)
    sizes = Counter(labels)
    sampler = ready(PK(classes=5, per_class=4, short_classes="drop"), labels)
    seen = [index for batch in epoch(sampler) for index in batch]
    assert len(seen) == len(set(seen))
    assert min(sizes[labels[index]] for index in seen) >= 4
    groups = sum(size // 4 for size in sizes.values())
    assert len(sampler) == groups // 5, "a full batch was left out"
    short = sum(size < 4 for size in sizes.values())
    assert sampler.notes() == [
        f"{short} of 40 classes have fewer than 4 images and are left out",
        f"{len(labels) - len(seen)} of {len(labels)} images are left out each epoch",
    ]


def test_pk_of_all_classes_with_one_dominant():
    labels = [0] * 50 + [1, 1, 2, 3]
    sampler = ready(PK(classes=3, per_class=2), labels)
    batches = epoch(sampler)
    assert len(batches) == 25, "each of the 25 groups of class 0 needs a batch of its own"
    assert {index for batch in batches for index in batch} == set(range(54))
    assert all(len({labels[index] for index in batch}) == 3 for batch in batches)


def test_pk_mixes_classes():
    labels = np.repeat(np.arange(12), 40).tolist()
    sampler = ready(PK(classes=4, per_class=4), labels)
    met = [
        {tuple(sorted({labels[a], labels[b]})) for batch in epoch(sampler, n) for a in batch for b in batch}
        for n in range(4)
    ]
    assert min(map(len, met)) > 0.8 * 78, "classes keep meeting the same few others"
    assert len(set.union(*met)) == 78, "some classes never meet, whatever the epoch"


@pytest.mark.parametrize("seed", range(20))
def test_seats_of_a_class_lie_in_different_batches_however_tight(seed):
    rng = np.random.default_rng(seed)
    batches, classes = int(rng.integers(1, 9)), int(rng.integers(1, 6))
    groups = add_groups(np.zeros(classes + int(rng.integers(0, 4)), dtype=int), batches * classes, batches, rng)
    seats = seat_batches(groups, batches, classes, rng)
    owners = np.repeat(np.arange(len(groups)), groups)
    assert len(set(zip(seats, owners, strict=True))) == batches * classes
    assert set(Counter(seats.tolist()).values()) == {classes}


def test_numbers_of_batches():
    assert count_fewest_batches(np.array([3, 1, 1, 1]), classes=2) == 3
    assert count_fewest_batches(np.array([5, 1, 1]), classes=2) == 5
    assert count_most_batches(np.array([5, 1, 1]), classes=2) == 2
    assert count_most_batches(np.array([3, 3, 1]), classes=2) == 3


def test_pk_refuses_what_it_cannot_fill():
    with pytest.raises(ValueError, match="needs labels"):
        ready(PK(classes=2, per_class=2), count=10)
    with pytest.raises(ValueError, match=r"takes 3 different classes, and Labels has 2\. Try classes=2 or less"):
        ready(PK(classes=3, per_class=2), [0, 0, 1, 1])
    with pytest.raises(ValueError, match=r"has 1 with at least 2 images.*short_classes='repeat'"):
        ready(PK(classes=2, per_class=2, short_classes="drop"), [0, 0, 1, 2])
    with pytest.raises(ValueError, match=r"2 of 3 classes have fewer than per_class=2 images\. Try per_class=1"):
        ready(PK(classes=2, per_class=2, short_classes="error"), [0, 0, 1, 2])
    with pytest.raises(ValueError, match="Try one of repeat, drop, error"):
        PK(classes=2, per_class=2, short_classes="skip")
    with pytest.raises(ValueError, match="at least 1 image"):
        PK(classes=0, per_class=2)
    assert len(ready(PK(classes=2, per_class=2, short_classes="error"), [0, 0, 1, 1])) == 1


@pytest.mark.parametrize(
    "labels",
    [np.repeat(np.arange(11_318), 6)[:60_000], np.repeat(np.arange(1000), 300)],
    ids=["11k classes", "300k images"],
)
def test_pk_plans_an_epoch_quickly(labels):
    sampler = PK(classes=32, per_class=4)
    assert is_quick(lambda: ready(sampler, labels).batch(0), 2.0), "the plan takes some hundredths of a second"
    assert is_quick(lambda: [sampler.batch(number) for number in range(1, 200)], 0.5), "an epoch is planned repeatedly"


def test_pairs_stand_beside_another_image_of_their_class():
    labels = uneven(5)
    sizes = Counter(labels)
    sampler = ready(Pairs(batch_size=10), labels)
    assert (sampler.blocks, sampler.pairs, sampler.batch_size) == (2, 10, 20)
    queries = []
    for batch in epoch(sampler):
        first, second = batch[:10], batch[10:]
        assert [labels[index] for index in first] == [labels[index] for index in second]
        assert all((a == b) == (sizes[labels[a]] == 1) for a, b in zip(first, second, strict=True))
        queries += first
    assert len(queries) == len(set(queries)) == len(labels) // 10 * 10
    alone = sum(size == 1 for size in sizes.values())
    assert (
        sampler.notes()[0] == f"{alone} of {len(labels)} items are alone in their class and stand as their own partner"
    )


def test_pairs_draw_every_other_image_equally_often():
    sampler = ready(Pairs(batch_size=5), [0] * 5)
    partners = Counter()
    for number in range(400):
        batch = sampler.batch(number)
        partners.update(zip(batch[:5], batch[5:], strict=True))
    assert len(partners) == 20
    assert min(partners.values()) > 60, "100 are expected of each"


def records(count=30, least=2, seed=0):
    """Records over 100 items: 1 to 3 positives, `least` or more negatives, all different."""
    rng = np.random.default_rng(seed)
    found = []
    for query in range(count):
        others = rng.permutation(np.delete(np.arange(100), query))[:12].tolist()
        positives = 1 + query % 3
        found.append((query, others[:positives], others[positives : positives + least + query % 4]))
    return found


def test_pairs_of_records():
    named = records()
    sampler = ready(Pairs(batch_size=7, negatives=2), count=100, records=named)
    assert (sampler.blocks, sampler.pairs, sampler.batch_size, len(sampler)) == (4, 7, 28, 4)
    drawn = []
    for batch in epoch(sampler) + epoch(sampler, 1):
        query, positive, *negatives = np.asarray(batch).reshape(4, 7)
        for row, item in enumerate(query):
            _, right, wrong = named[item]
            assert positive[row] in right
            chosen = [int(block[row]) for block in negatives]
            assert len(set(chosen)) == 2
            assert set(chosen) <= set(wrong)
        drawn += query.tolist()
    assert len(set(drawn[:28])) == len(set(drawn[28:])) == 28, "each record once an epoch"
    assert sampler.notes() == ["2 of 30 records are left out each epoch, others every time"]
    again = [
        batch for number in (1, 0) for batch in reversed(epoch(ready(Pairs(7, 2), count=100, records=named), number))
    ]
    assert again[::-1] == epoch(sampler) + epoch(sampler, 1), "a batch depends on its number alone"
    assert epoch(sampler) != epoch(sampler, 1)
    assert epoch(sampler) != epoch(ready(Pairs(7, 2), count=100, records=named, seed=1))


def test_positives_and_negatives_of_a_record_are_drawn_equally_often():
    named = [(0, [1, 2, 3], [4, 5, 6, 7, 7, 4])]
    sampler = ready(Pairs(batch_size=1, negatives=3), count=8, records=named)
    counts = Counter()
    for number in range(1200):
        _, positive, *negatives = sampler.batch(number)
        counts.update([(1, positive), (3, tuple(negatives))])
    assert min(counts[1, positive] for positive in (1, 2, 3)) > 320, "400 are expected of each"
    ordered = [key[1] for key in counts if key[0] == 3]
    assert len(ordered) == 24, "every choice of three different ones, in every order"
    assert min(counts[3, chosen] for chosen in ordered) > 25, "50 are expected of each"
    everything = ready(Pairs(batch_size=1, negatives=4), count=8, records=named)
    assert all(sorted(everything.batch(number)[2:]) == [4, 5, 6, 7] for number in range(20))


def test_records_that_cannot_fill_a_batch_are_refused():
    named = records(least=2)
    with pytest.raises(ValueError, match=r"8 of 30 records name fewer than negatives=3.*number is negatives=2"):
        ready(Pairs(batch_size=2, negatives=3), count=100, records=named)
    with pytest.raises(ValueError, match=r"larger than the data, which have 30 records\. Try batch_size=30"):
        ready(Pairs(batch_size=31), count=100, records=named)
    assert len(ready(Pairs(batch_size=30), count=100, records=named)) == 1
    with pytest.raises(ValueError, match="1 of 2 records name no positive"):
        ready(Pairs(batch_size=2), count=3, records=[(0, [1], []), (1, [], [2])])
    with pytest.raises(ValueError, match="negatives=1 takes records that name them, and Labels has none"):
        ready(Pairs(batch_size=2, negatives=1), [0, 0, 1, 1])
    with pytest.raises(ValueError, match="0 of them or more"):
        Pairs(batch_size=2, negatives=-1)


def test_negatives_that_nothing_uses_are_told():
    told = ready(Pairs(batch_size=3), count=100, records=records()).notes()
    assert told == [
        "30 of 30 records name negatives, and none is used: set negatives=1 of retrieval.Pairs, up to negatives=2"
    ]
    some = [(query, right, wrong if query else []) for query, right, wrong in records()]
    (told,) = ready(Pairs(batch_size=3), count=100, records=some).notes()
    assert told.startswith("29 of 30 records name negatives, and none is used")
    assert told.endswith("once every record has some")
    none = [(query, right, []) for query, right, _ in records()]
    assert ready(Pairs(batch_size=3), count=100, records=none).notes() == []


def test_records_by_the_hundred_thousand_are_planned_quickly():
    named = [(i, [i + 1], [(i + 7) % 99_000, (i + 9) % 99_000]) for i in range(100_000)]
    sampler = Pairs(batch_size=128, negatives=2)
    assert is_quick(lambda: ready(sampler, count=100_001, records=named).batch(0), 3.0), "a fifth of a second is usual"


class Colour(Backbone):
    """An image -> three tokens, one of each channel's mean times its weights."""

    modality, dim = "image", 3

    def __init__(self):
        super().__init__()
        self.weight = nn.Parameter(torch.eye(3, dtype=torch.float64) + 0.1)

    def forward(self, inputs, *, layers=1, mask=None):
        return Features((inputs @ self.weight)[:, None], prefix=1)

    def layers(self):
        return []

    def preprocess(self):
        return Mean()


class Mean(Preprocess):
    size = (4, 4)

    def __call__(self, value):
        return torch.from_numpy(np.asarray(value, dtype=np.float64).mean((0, 1)) / 255)


@pytest.fixture
def coloured(tmp_path):
    """A function: {name: negatives} of four pairs -> the loss of their one batch, and the same by hand."""
    rng = np.random.default_rng(0)
    colours = {name: rng.integers(20, 235, 3).tolist() for name in "abcdefghuvwxyz"}
    for name, colour in colours.items():
        Image.new("RGB", (4, 4), tuple(colour)).save(tmp_path / f"{name}.png")
    pairs = ["ab", "cd", "ef", "gh"]

    def run(negatives, count, labelled=True):
        lines = [
            {"query_image": f"{q}.png", "positive": f"{p}.png", "negatives": [f"{n}.png" for n in negatives[q]]}
            | ({"label": q} if labelled else {})
            for q, p in pairs
        ]
        (tmp_path / "train.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
        dataset = Records(str(tmp_path / "train.jsonl"))
        sampler = Pairs(batch_size=4, negatives=count)
        sampler.setup(dataset, seed=0)
        model = Embedder(backbone=Colour(), loss=InfoNCE(temperature=0.1), cross_view=True)
        fetch = BatchBuilder(dataset, input_specs(model), blocks=sampler.blocks)
        batch = fetch[sampler.draws(0)]
        loss = model(batch, "loss")["loss"]
        loss.backward()
        weight = model.backbone.weight.detach().clone().requires_grad_()
        seen = [dict(pairs)[Path(name).stem] for name in batch.ids[:4]]
        assert [Path(name).stem for name in batch.ids[4:8]] == seen

        def rows(names):
            return l2_normalize(torch.tensor([colours[n] for n in names], dtype=torch.float64) / 255 @ weight)

        first = [Path(name).stem for name in batch.ids[:4]]
        others = seen + [Path(name).stem for name in batch.ids[8:]]
        logits = rows(first) @ rows(others).T / 0.1
        by_hand = torch.nn.functional.cross_entropy(logits, torch.arange(4))
        by_hand.backward()
        torch.testing.assert_close(model.backbone.weight.grad, weight.grad, rtol=1e-10, atol=1e-12)
        assert len(others) == 4 + 4 * count
        return loss.item(), by_hand.item()

    return run


@pytest.mark.parametrize("labelled", [True, False])
def test_explicit_negatives_add_to_those_in_the_batch(coloured, labelled):
    hard = {"a": "uv", "c": "vw", "e": "wx", "g": "yz"}
    swapped = {**hard, "a": "zy"}
    found = {}
    for name, negatives, count in (("none", hard, 0), ("hard", hard, 2), ("swapped", swapped, 2)):
        loss, by_hand = coloured(negatives, count, labelled)
        assert abs(loss - by_hand) < 1e-10
        found[name] = loss
    assert found["hard"] > found["none"], "the sum of the denominator grows"
    assert abs(found["hard"] - found["swapped"]) > 1e-4, "the negatives are not looked at"


def test_shuffled_sees_every_item_once():
    sampler = ready(Shuffled(batch_size=4, drop_last=False), count=10)
    assert [len(batch) for batch in epoch(sampler)] == [4, 4, 2]
    assert sorted(index for batch in epoch(sampler) for index in batch) == list(range(10))
    assert sampler.notes() == []
    dropping = ready(Shuffled(batch_size=4), count=10)
    assert [len(batch) for batch in epoch(dropping)] == [4, 4]
    assert dropping.notes() == ["2 of 10 items are left out each epoch, others every time"]


def test_sequential_keeps_the_order():
    assert epoch(ready(Sequential(batch_size=4), count=10)) == [[0, 1, 2, 3], [4, 5, 6, 7], [8, 9]]


@pytest.mark.parametrize("kind", [Shuffled, Sequential, Pairs])
def test_a_batch_larger_than_the_dataset_is_refused(kind):
    with pytest.raises(ValueError, match="batch_size=11 is larger than the dataset, which has 10 items"):
        ready(kind(batch_size=11), [0] * 10)
    assert len(ready(kind(batch_size=10), [0] * 10)) == 1
    with pytest.raises(ValueError, match="at least 1 item"):
        kind(batch_size=0)


@pytest.mark.parametrize(("classes", "per_class"), [(4, 4), (5, 3), (2, 1), (3, 2), (6, 8)])
def test_neighbours_of_balanced_batches_are_of_two_classes(classes, per_class):
    labels = uneven(5)
    one = ready(PK(classes=classes, per_class=per_class), labels)
    dataset = Labels(labels)
    dataset.groups = [f"group {place % 3}" for place in np.unique(labels, return_inverse=True)[1]]
    other = GroupPK(groups=1 if classes % 2 else 2, classes=classes, per_class=per_class)
    other.setup(dataset, seed=0)
    for sampler in (one, other):
        for batch in epoch(sampler):
            found = np.asarray(labels)[batch]
            assert (found[:-1] != found[1:]).all()
            assert Counter(found.tolist()).most_common()[-1][1] == per_class
