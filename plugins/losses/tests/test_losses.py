"""SupCon, InfoNCE and Triplet against stored reference numbers, pytorch-metric-learning, and themselves."""

from __future__ import annotations

import math
import sys
from pathlib import Path

import pytest
import torch
from forked_python import run_ranks
from loss_numbers import golden
from toolbox_losses.infonce import InfoNCE
from toolbox_losses.supcon import SupCon
from toolbox_losses.triplet import Triplet

HERE = Path(__file__).parent


def value_and_gradients(function, *tensors):
    leaves = [tensor.clone().requires_grad_() for tensor in tensors]
    value = function(*leaves)
    value.backward()
    return value.detach(), [leaf.grad for leaf in leaves]


def assert_equal(found, expected, tolerance=1e-9):
    torch.testing.assert_close(found[0], expected[0], rtol=tolerance, atol=tolerance)
    for a, b in zip(found[1], expected[1], strict=True):
        b = torch.zeros_like(a) if b is None else b
        assert (a - b).abs().max() <= tolerance * max(1.0, b.abs().max().item())


# stored reference numbers


@pytest.mark.parametrize(
    ("key", "loss"),
    [
        ("infonce", InfoNCE(0.05)),
        ("infonce_bidirectional", InfoNCE(0.05, symmetric=True)),
        ("supcon_crossview", SupCon(0.05)),
        ("triplet", Triplet(0.5, "hard", "cosine")),
    ],
)
def test_two_views_equal_the_stored_numbers(key, loss):
    data = golden("retrieval_losses")
    labels = data["in_labels"] if "supcon" in key else None

    def run(query, positive):
        return loss(query, labels, ref_embeddings=positive, ref_labels=labels)

    expected = data[f"out_{key}"], [data[f"grad_{key}_query"], data[f"grad_{key}_positive"]]
    assert_equal(value_and_gradients(run, data["in_query"], data["in_positive"]), expected)


@pytest.mark.parametrize(
    ("key", "loss"), [("supcon", SupCon()), ("ntxent", InfoNCE()), ("triplet_margin", Triplet()), ("sparse", SupCon())]
)
def test_one_view_equals_the_stored_numbers(key, loss):
    data = golden("metric_learning_losses")
    name, prefix = ("supcon_sparse", "in_sparse_") if key == "sparse" else (key, "in_")
    found = value_and_gradients(lambda x: loss(x, data[f"{prefix}labels"]), data[f"{prefix}embeddings"])
    assert_equal(found, (data[f"out_{name}"], [data[f"grad_{name}_embeddings"]]))


@pytest.mark.parametrize(("key", "loss"), [("supcon_crossview", SupCon()), ("infonce_crossview", InfoNCE())])
def test_library_cross_view_equals_the_stored_numbers(key, loss):
    data = golden("metric_learning_losses")
    # the stored InfoNCE takes the sample's index as its label
    labels = data["in_labels"] if key == "supcon_crossview" else None
    found = value_and_gradients(
        lambda x, ref: loss(x, labels, ref_embeddings=ref, ref_labels=labels),
        data["in_embeddings"],
        data["in_ref_embeddings"],
    )
    assert_equal(found, (data[f"out_{key}"], [data[f"grad_{key}_embeddings"], data[f"grad_{key}_ref"]]))


def test_two_stacked_views_equal_the_stored_ntxent():
    data = golden("metric_learning_losses")
    index = torch.arange(32).repeat(2)
    found = value_and_gradients(
        lambda x, ref: InfoNCE()(torch.cat([x, ref]), index), data["in_embeddings"], data["in_ref_embeddings"]
    )
    expected = [data["grad_ntxent_two_view_embeddings"], data["grad_ntxent_two_view_ref"]]
    assert_equal(found, (data["out_ntxent_two_view"], expected))


EVERY = {
    "supcon": SupCon(),
    "infonce": InfoNCE(),
    "symmetric": InfoNCE(symmetric=True),
    **{
        f"triplet-{miner}-{distance}": Triplet(0.2, miner, distance)
        for miner in ("all", "hard", "semi")
        for distance in ("euclidean", "cosine")
    },
}
every = pytest.mark.parametrize("loss", EVERY.values(), ids=EVERY)


@every
def test_without_positives_it_is_exactly_zero_and_trains_nothing(loss):
    data = golden("metric_learning_losses")
    value, (gradient,) = value_and_gradients(
        lambda x: loss(x, data["in_distinct_labels"]), data["in_distinct_embeddings"]
    )
    assert value.item() == 0
    assert gradient.abs().max() == 0


# pytorch-metric-learning as the oracle


def oracle(name: str):
    from pytorch_metric_learning import distances, losses, miners, reducers

    if name in ("supcon", "infonce"):
        return losses.SupConLoss() if name == "supcon" else losses.NTXentLoss(0.07)
    _, miner, kind = name.split("-")
    distance = distances.LpDistance() if kind == "euclidean" else distances.CosineSimilarity()
    mine = None
    if miner == "hard":
        mine = miners.BatchHardMiner(distance=distance)
    if miner == "semi":
        mine = miners.TripletMarginMiner(0.2, type_of_triplets="semihard", distance=distance)
    reducer = {"reducer": reducers.MeanReducer()} if miner == "hard" else {}
    loss = losses.TripletMarginLoss(0.2, distance=distance, **reducer)

    def run(x, labels, ref_emb=None, ref_labels=None):
        triplets = None if mine is None else mine(x, labels, ref_emb, ref_labels)
        return loss(x, labels, triplets, ref_emb, ref_labels)

    return run


def fixture(noise: float, case: str, seed: int = 0):
    """16 rows of width 32, two views, labels; `case` changes the classes or makes rows equal."""
    generator = torch.Generator().manual_seed(seed)
    labels = torch.arange(16) // (2 if case == "pairs" else 4)
    if case == "lone":
        labels[3], labels[12:14] = 90, torch.tensor([91, 92])
    centers = torch.randn(100, 32, generator=generator, dtype=torch.float64)[labels]
    first, second = (centers + noise * torch.randn(16, 32, generator=generator, dtype=torch.float64) for _ in range(2))
    if case == "duplicates":
        first[1], first[7], second[0] = first[0], 3 * first[6], first[0]
    return first, second, labels


@pytest.mark.parametrize("noise", [0.7, 2.0])
@pytest.mark.parametrize("case", ["pairs", "fours", "lone", "duplicates"])
@pytest.mark.parametrize("name", [name for name in EVERY if name != "symmetric"])
def test_equals_pytorch_metric_learning(name, case, noise):
    first, second, labels = fixture(noise, case)
    loss, reference = EVERY[name], oracle(name)
    # of two equal rows either may be the hardest, so there only the values must agree
    ties = case == "duplicates" and "hard" in name
    compare = (lambda a, b: assert_equal((a[0], []), (b[0], []))) if ties else assert_equal
    found = value_and_gradients(lambda x: loss(x, labels), first)
    compare(found, value_and_gradients(lambda x: reference(x, labels), first))
    assert case == "duplicates" or name.startswith("triplet-") or found[0] > 0

    found = value_and_gradients(lambda x, y: loss(x, labels, ref_embeddings=y, ref_labels=labels), first, second)
    expected = value_and_gradients(
        # the library leaves the diagonal out when both labels are one object
        lambda x, y: reference(x, labels, ref_emb=y, ref_labels=labels.clone()),
        first,
        second,
    )
    compare(found, expected)


def test_the_triplet_fixtures_are_not_trivially_zero():
    for noise in (0.7, 2.0):
        first, _, labels = fixture(noise, "fours")
        for name, loss in EVERY.items():
            if name.startswith("triplet") and noise == 2.0:
                assert loss(first, labels) > 0.01, name


def test_without_labels_infonce_is_cross_entropy_with_the_diagonal():
    first, second, _ = fixture(0.7, "pairs")
    scores = torch.nn.functional.normalize(first) @ torch.nn.functional.normalize(second).T / 0.07
    rows, target = torch.nn.functional.cross_entropy, torch.arange(16)
    torch.testing.assert_close(InfoNCE()(first, ref_embeddings=second), rows(scores, target))
    both = (rows(scores, target) + rows(scores.T, target)) / 2
    torch.testing.assert_close(InfoNCE(symmetric=True)(first, ref_embeddings=second), both)
    torch.testing.assert_close(SupCon(0.07)(first, ref_embeddings=second), rows(scores, target))


def test_symmetric_changes_cross_view_and_nothing_else():
    first, second, labels = fixture(2.0, "fours")
    one, both = InfoNCE(), InfoNCE(symmetric=True)
    assert one(first, labels) == both(first, labels)
    forth = one(first, labels, ref_embeddings=second, ref_labels=labels)
    back = one(second, labels, ref_embeddings=first, ref_labels=labels)
    assert abs(forth - back) > 1e-3
    torch.testing.assert_close(both(first, labels, ref_embeddings=second, ref_labels=labels), (forth + back) / 2)


def test_supcon_lets_anchors_without_positive_serve_as_negatives_only():
    first, _, labels = fixture(0.7, "lone")
    x = first.clone().requires_grad_()
    SupCon()(x, labels).backward()
    assert x.grad[3].abs().max() > 0
    without = labels != 90
    assert SupCon()(first[without], labels[without]) < SupCon()(first, labels)


def test_one_class_only_has_nothing_to_contrast():
    first, _, _ = fixture(0.7, "fours")
    for name, loss in EVERY.items():
        value, (gradient,) = value_and_gradients(lambda x, loss=loss: loss(x, torch.zeros(16)), first)
        assert value == 0, name
        assert gradient.abs().max() == 0, name


# numerical safety


@every
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
def test_zero_rows_and_equal_rows_give_finite_gradients(loss, dtype):
    first, second, labels = fixture(0.7, "duplicates")
    first[2], second[5], first[15] = 0, 0, -first[14]
    for view in (None, second.to(dtype)):
        value, (gradient,) = value_and_gradients(
            lambda x, view=view: loss(x, labels, ref_embeddings=view, ref_labels=None if view is None else labels),
            first.to(dtype),
        )
        assert value.isfinite()
        assert gradient.isfinite().all()
        assert gradient[2].abs().max() == 0
        assert value.dtype == (torch.float64 if dtype == torch.float64 else torch.float32)


@every
def test_collapsed_embeddings_give_finite_gradients(loss):
    x = torch.ones(8, 4, requires_grad=True)
    loss(x, torch.arange(8) // 2).backward()
    assert x.grad.isfinite().all()


@every
def test_only_the_direction_of_an_embedding_counts(loss):
    first, _, labels = fixture(2.0, "fours")
    scaled = first * torch.linspace(0.1, 50, 16, dtype=first.dtype)[:, None]
    torch.testing.assert_close(loss(scaled, labels), loss(first, labels))


@every
@pytest.mark.parametrize("rows", [1, 2])
def test_tiny_batches(loss, rows):
    x = torch.randn(rows, 4, generator=torch.Generator().manual_seed(0), requires_grad=True)
    loss(x, torch.arange(rows)).backward()
    loss(x, ref_embeddings=x.detach() + 1).backward()
    assert x.grad.isfinite().all()


@pytest.mark.parametrize("miner", ["all", "semi", "hard"])
def test_triplets_of_a_large_batch_of_two_classes_fit_in_memory(miner):
    # 67 million triplets: one number for each would take half a gigabyte, the whole test stays far below that
    labels = torch.arange(512) % 2
    x = torch.randn(512, 16, dtype=torch.float64, generator=torch.Generator().manual_seed(0), requires_grad=True)
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU], profile_memory=True) as profile:
        Triplet(miner=miner)(x, labels).backward()
    largest = max(event.self_cpu_memory_usage for event in profile.events())
    assert largest <= 4 * 512 * 512 * 8
    assert x.grad.abs().max() > 0


def test_triplet_reducers_against_a_loop():
    first, _, labels = fixture(2.0, "fours")
    d = torch.cdist(torch.nn.functional.normalize(first), torch.nn.functional.normalize(first))
    triples = [
        (d[a, p] - d[a, n] + 0.05, d[a, n] > d[a, p])
        for a in range(16)
        for p in range(16)
        for n in range(16)
        if a != p and labels[a] == labels[p] != labels[n]
    ]
    everything = torch.stack([excess for excess, _ in triples])
    semi = torch.stack([excess for excess, harder in triples if harder and excess >= 0])
    losing = everything[everything > 0]
    torch.testing.assert_close(Triplet(reducer="mean")(first, labels), everything.relu().mean())
    torch.testing.assert_close(Triplet()(first, labels), losing.mean())
    torch.testing.assert_close(Triplet(miner="semi", reducer="mean")(first, labels), semi.mean())


# what a user may get wrong


@every
def test_neither_labels_nor_a_second_view_says_what_to_do(loss):
    with pytest.raises(ValueError, match=r"labelled dataset.*retrieval\.Pairs"):
        loss(torch.randn(4, 8))


@every
def test_fewer_second_views_than_embeddings_without_labels_are_refused(loss):
    with pytest.raises(ValueError, match="4 embeddings and 3 second views"):
        loss(torch.randn(4, 8), ref_embeddings=torch.randn(3, 8))


@every
def test_uneven_views_with_labels_work(loss):
    first, second, labels = fixture(2.0, "fours")
    value = loss(first[:6], labels[:6], ref_embeddings=second, ref_labels=labels)
    assert value.isfinite()


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: SupCon(0), "temperature must be a positive number"),
        (lambda: InfoNCE(math.nan), "temperature must be a positive number"),
        (lambda: Triplet(-1), "margin must be 0 or more"),
        (lambda: Triplet(0, "semi"), "semi-hard"),
        (lambda: Triplet(0.1, "best"), "miner must be"),
        (lambda: Triplet(0.1, distance="l1"), "distance must be"),
        (lambda: Triplet(0.1, reducer="sum"), "reducer must be"),
    ],
)
def test_nonsense_is_refused(make, message):
    with pytest.raises(ValueError, match=message):
        make()


# processes


def test_two_processes_with_uneven_rows_have_one_process_s_gradients(tmp_path):
    sys.path.insert(0, str(HERE))
    try:
        import gather_worker
    finally:
        sys.path.remove(str(HERE))

    first, second, labels = fixture(2.0, "fours")
    shuffled = torch.randperm(16, generator=torch.Generator().manual_seed(1))
    inputs = {"x": first[shuffled], "second": second[shuffled], "labels": labels[shuffled]}
    torch.save(inputs, tmp_path / "inputs.pt")
    run_ranks(HERE / "gather_worker.py", folder=tmp_path)

    expected = gather_worker.gradients(inputs["x"], inputs["second"], inputs["labels"], slice(None))
    assert len(expected) == 17
    for rank in range(2):
        found = torch.load(tmp_path / f"{rank}.pt")
        for name, gradient in expected.items():
            assert gradient.abs().max() > 1e-3, name
            assert (found[f"right_{name}"] - gradient).abs().max() < 1e-10, name
            assert (found[f"detached_{name}"] - gradient).abs().max() > 1e-4, name
