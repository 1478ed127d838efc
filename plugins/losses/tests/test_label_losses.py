"""Multi-similarity, circle, smooth recall, proxy-anchor, ArcFace and explicit negatives against independent numbers."""

from __future__ import annotations

import math
import sys
from pathlib import Path

import pytest
import torch
from forked_python import run_ranks
from loss_numbers import golden
from toolbox_losses import recall_at_k
from toolbox_losses.arcface import ArcFace, SubCenterArcFace
from toolbox_losses.circle import Circle
from toolbox_losses.infonce import InfoNCE, compute_direction
from toolbox_losses.multi_similarity import MultiSimilarity
from toolbox_losses.pairs import normalize_vectors
from toolbox_losses.proxy_anchor import ProxyAnchor
from toolbox_losses.recall_at_k import RecallAtK
from toolbox_losses.supcon import SupCon
from toolbox_losses.triplet import Triplet

HERE = Path(__file__).parent
DIM, CLASSES = 32, 12


def value_and_gradients(function, *tensors):
    leaves = [tensor.clone().requires_grad_() for tensor in tensors]
    value = function(*leaves)
    value.backward()
    return value.detach(), [leaf.grad for leaf in leaves]


def assert_equal(found, expected, tolerance=1e-9):
    torch.testing.assert_close(found[0], expected[0], rtol=tolerance, atol=tolerance)
    for a, b in zip(found[1], expected[1], strict=True):
        a, b = (torch.zeros(()) if g is None else g for g in (a, b))
        assert (a - b).abs().max() <= tolerance * max(1.0, b.abs().max().item())


def fixture(case: str, noise: float = 2.0):
    """16 rows of width 32, two views, labels 0 to 11; `case` changes the classes or makes rows equal."""
    generator = torch.Generator().manual_seed(0)
    labels = torch.arange(16) // (2 if case == "pairs" else 4)
    if case == "lone":
        labels[3], labels[12:14] = 9, torch.tensor([10, 11])
    if case == "one class":
        labels[:] = 5
    centers = torch.randn(CLASSES, DIM, generator=generator, dtype=torch.float64)[labels]
    first, second = (centers + noise * torch.randn(16, DIM, generator=generator).double() for _ in range(2))
    if case == "duplicates":
        first[1], first[7], second[0] = first[0], 3 * first[6], first[0]
    if case == "no positives":
        first, second, labels = first[:10], second[:10], torch.arange(10)
    return first, second, labels


CASES = ["pairs", "fours", "lone", "duplicates", "one class", "no positives"]
cases = pytest.mark.parametrize("case", CASES)
noises = pytest.mark.parametrize("noise", [1.0, pytest.param(2.0, marks=pytest.mark.slow)])

PAIRS = {
    "multi_similarity": MultiSimilarity(),
    "mined": MultiSimilarity(mine=True),
    "circle": Circle(),
    "recall": RecallAtK(),
}
pair_losses = pytest.mark.parametrize("loss", PAIRS.values(), ids=PAIRS)
CLASSIFICATION = {"proxy_anchor": ProxyAnchor, "arcface": ArcFace, "sub_centers": SubCenterArcFace}
classification = pytest.mark.parametrize("kind", CLASSIFICATION.values(), ids=CLASSIFICATION)


def connected(kind, dim: int = DIM, classes: int = CLASSES):
    torch.manual_seed(3)
    loss = kind()
    loss.connect(dim, classes)
    return loss.double()


# stored reference numbers


@pytest.mark.parametrize("suffix", ["", "_sparse", "_no_positives"])
def test_multi_similarity_equals_the_stored_numbers(suffix):
    data = golden("metric_learning_losses")
    prefix = {"": "in_", "_sparse": "in_sparse_", "_no_positives": "in_distinct_"}[suffix]
    found = value_and_gradients(lambda x: MultiSimilarity()(x, data[f"{prefix}labels"]), data[f"{prefix}embeddings"])
    key = f"multi_similarity{suffix}"
    assert_equal(found, (data[f"out_{key}"], [data[f"grad_{key}_embeddings"]]))
    assert found[0] > 0


def test_circle_equals_the_stored_numbers():
    data = golden("metric_learning_losses")
    found = value_and_gradients(lambda x: Circle()(x, data["in_labels"]), data["in_embeddings"])
    assert_equal(found, (data["out_circle"], [data["grad_circle_embeddings"]]))
    assert data["out_circle_no_positives"] == 0


@pytest.mark.parametrize("suffix", ["", "_sparse"])
def test_proxy_anchor_equals_the_stored_numbers(suffix):
    data = golden("metric_learning_losses")
    loss = connected(ProxyAnchor, 16, 8)
    loss.proxies.data = data["in_proxies"].clone()
    prefix, key = "in_sparse_" if suffix else "in_", f"proxy_anchor{suffix}"
    found = value_and_gradients(lambda x: loss(x, data[f"{prefix}labels"]), data[f"{prefix}embeddings"])
    found[1].append(loss.proxies.grad)
    assert_equal(found, (data[f"out_{key}"], [data[f"grad_{key}_embeddings"], data[f"grad_{key}_proxies"]]))


@pytest.mark.parametrize("key", ["arcface", "arcface_opposed"])
def test_arcface_equals_the_stored_numbers(key):
    data = golden("metric_learning_losses")
    loss = connected(ArcFace, 16, 8)
    loss.weight.data = data["in_arcface_weight"].T.clone()
    x = data["in_arcface_opposed_embeddings" if "opposed" in key else "in_embeddings"]
    found = value_and_gradients(lambda x: loss(x, data["in_labels"]), x)
    found[1].append(loss.weight.grad)
    assert_equal(found, (data[f"out_{key}"], [data[f"grad_{key}_embeddings"], data[f"grad_{key}_weight"].T]))


def test_the_hardest_negatives_equal_the_stored_numbers():
    data = golden("retrieval_losses")
    loss, key = InfoNCE(0.05, hardest=4), "in_batch_hard"
    found = value_and_gradients(lambda q, p: loss(q, ref_embeddings=p), data["in_query"], data["in_positive"])
    assert_equal(found, (data[f"out_{key}"], [data[f"grad_{key}_query"], data[f"grad_{key}_positive"]]))


@pytest.mark.parametrize(("key", "hardest"), [("in_batch_hard_labels", 4), ("in_batch_hard_k_clipped", 1000)])
def test_the_hardest_negatives_of_other_classes_equal_the_stored_numbers(key, hardest):
    # there the query's own document is the only positive, and others of its class are neither
    data = golden("retrieval_losses")
    labels, own = data["in_labels"], torch.eye(16, dtype=torch.bool)

    def run(query, document):
        scores = normalize_vectors(query) @ normalize_vectors(document).T / 0.05
        return compute_direction(scores, own, labels[:, None] != labels[None], hardest)

    found = value_and_gradients(run, data["in_query"], data["in_positive"])
    assert_equal(found, (data[f"out_{key}"], [data[f"grad_{key}_query"], data[f"grad_{key}_positive"]]))


# pytorch-metric-learning as the oracle


def pair_oracle(name: str, **arguments):
    from pytorch_metric_learning import losses, miners

    loss = losses.CircleLoss(**arguments) if name == "circle" else losses.MultiSimilarityLoss()
    mine = miners.MultiSimilarityMiner() if name == "mined" else None

    def run(x, labels, ref_emb=None, ref_labels=None):
        pairs = None if mine is None else mine(x, labels, ref_emb, ref_labels)
        return loss(x, labels, pairs, ref_emb, ref_labels)

    return run


@noises
@cases
@pytest.mark.parametrize("name", ["multi_similarity", "mined", "circle"])
def test_pair_losses_equal_pytorch_metric_learning(name, case, noise):
    first, second, labels = fixture(case, noise)
    loss, reference = PAIRS[name], pair_oracle(name)
    found = value_and_gradients(lambda x: loss(x, labels), first)
    assert_equal(found, value_and_gradients(lambda x: reference(x, labels), first))
    assert (found[0] == 0) == (name != "multi_similarity" and case in ("one class", "no positives"))

    found = value_and_gradients(lambda x, y: loss(x, labels, ref_embeddings=y, ref_labels=labels), first, second)
    # the library leaves the diagonal out when both labels are one object
    expected = value_and_gradients(lambda x, y: reference(x, labels, y, labels.clone()), first, second)
    assert_equal(found, expected)


def test_mining_changes_the_loss():
    first, _, labels = fixture("fours", 2.0)
    assert PAIRS["mined"](first, labels) < PAIRS["multi_similarity"](first, labels) - 1e-3
    everything = MultiSimilarity(mine=True, epsilon=2.5)
    assert_equal(
        value_and_gradients(lambda x: everything(x, labels), first),
        value_and_gradients(lambda x: PAIRS["multi_similarity"](x, labels), first),
    )


def test_a_circle_anchor_that_is_solved_counts_in_the_mean():
    # the library's mean over losses above 0 leaves out the four anchors whose loss rounds to 0
    x = torch.eye(4)[[0, 0, 1, 1, 2, 3]]
    labels = torch.tensor([0, 0, 1, 1, 2, 2])
    reference = pair_oracle("circle", gamma=1000)(x, labels)
    assert reference > 100
    torch.testing.assert_close(Circle(gamma=1000)(x, labels), reference * 2 / 6)


def class_oracle(kind, loss):
    """The library's loss with the same class vectors, and what gives their gradient in our shape."""
    from pytorch_metric_learning import losses

    classes, dim = len(next(loss.parameters())), next(loss.parameters()).shape[-1]
    if kind is ProxyAnchor:
        reference = losses.ProxyAnchorLoss(classes, dim)
        reference.proxies.data = loss.proxies.detach().clone()
        return reference, lambda: reference.proxies.grad
    if kind is ArcFace:
        reference = losses.ArcFaceLoss(classes, dim)
    else:
        reference = losses.SubCenterArcFaceLoss(num_classes=classes, embedding_size=dim)
    reference.W.data = loss.weight.detach().flatten(0, -2).T.clone()
    return reference, lambda: reference.W.grad.T.view_as(loss.weight)


@noises
@cases
@pytest.mark.parametrize("views", [1, 2])
@classification
def test_class_losses_equal_pytorch_metric_learning(kind, views, case, noise):
    first, second, labels = fixture(case, noise)
    loss = connected(kind)
    reference, vectors = class_oracle(kind, loss)
    if views == 1:
        found = value_and_gradients(lambda x, y: loss(x, labels) + 0 * y.sum(), first, second)
        expected = value_and_gradients(lambda x, y: reference(x, labels) + 0 * y.sum(), first, second)
    else:
        found = value_and_gradients(
            lambda x, y: loss(x, labels, ref_embeddings=y[:7], ref_labels=labels[:7]), first, second
        )
        expected = value_and_gradients(
            lambda x, y: reference(torch.cat([x, y[:7]]), torch.cat([labels, labels[:7]])), first, second
        )
    found[1].append(next(loss.parameters()).grad)
    expected[1].append(vectors())
    assert_equal(found, expected)
    assert found[0] > 0
    assert found[1][-1].abs().max() > 0


def test_arcface_keeps_falling_with_the_angle():
    from toolbox_losses.arcface import widen_angles

    angle = torch.linspace(0, math.pi, 1001, dtype=torch.float64)
    for margin in (0.0, 0.5, 2.0):
        assert (widen_angles(angle.cos(), margin).diff() < 0).all()


@pytest.mark.parametrize("sign", [1, -1])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("kind", [ArcFace, SubCenterArcFace])
def test_an_embedding_at_its_centre_has_a_finite_gradient(kind, dtype, sign):
    # the arc cosine that the paper and the library go through has none there
    loss = connected(kind, 8, 4).to(dtype)
    x = (sign * loss.weight.detach().flatten(0, -2)[:4] * 7).requires_grad_()
    value = loss(x, torch.arange(4) if kind is ArcFace else torch.tensor([0, 0, 0, 1]))
    value.backward()
    assert value.isfinite()
    assert x.grad.isfinite().all()
    assert loss.weight.grad.isfinite().all()


def test_proxies_of_absent_classes_are_pushed_only():
    loss = connected(ProxyAnchor)
    first, _, _ = fixture("fours")
    before = normalize_vectors(first[:1]) @ normalize_vectors(loss.proxies.detach()).T
    loss(first[:1], torch.tensor([2])).backward()
    moved = (
        normalize_vectors(first[:1]) @ normalize_vectors(loss.proxies.detach() - 1e-4 * loss.proxies.grad).T - before
    )
    assert moved[0, 2] > 0
    assert (moved[0, torch.arange(CLASSES) != 2] <= 0).all()


@classification
def test_class_losses_learn_to_tell_classes_apart(kind):
    torch.manual_seed(0)
    classes = torch.randn(40, 16)
    mix, distract = torch.randn(16, 64) / 4, torch.randn(48, 64) / 5
    net = torch.nn.Sequential(torch.nn.Linear(64, 64), torch.nn.GELU(), torch.nn.Linear(64, 16))
    loss = kind()
    loss.connect(16, 40)

    def batch(chosen):
        labels = chosen.repeat_interleave(4)
        return classes[labels] @ mix + torch.randn(len(labels), 48) @ distract, labels

    def recall():
        rows, labels = batch(torch.arange(40))
        with torch.no_grad():
            x = normalize_vectors(net(rows))
        return (labels[(x @ x.T).fill_diagonal_(-2).argmax(dim=1)] == labels).float().mean()

    before = recall()
    optimizer = torch.optim.AdamW([{"params": net.parameters()}, {"params": loss.parameters(), "lr": 1e-2}], lr=2e-3)
    for _ in range(300):
        optimizer.zero_grad()
        rows, labels = batch(torch.randperm(40)[:16])
        loss(net(rows), labels).backward()
        optimizer.step()
    assert before < 0.3
    assert recall() > 0.9


# smooth recall


def naive_recall(x, ks, tau, k_tau, positives, candidates):
    """The formula, one number at a time: `x` (anchors, candidates) cosines, index lists for each anchor."""
    losses = []
    for i, (own, others) in enumerate(zip(positives, candidates, strict=True)):
        if not own or len(own) == len(others):
            continue
        recall = 0
        for k in ks:
            hits = 0
            for p in own:
                rank = 1
                for c in others:
                    if c != p:
                        rank = rank + 1 / (1 + torch.exp(-(x[i, c] - x[i, p]) / tau))
                hits = hits + 1 / (1 + torch.exp(-(k - rank) / k_tau))
            hits = hits if hits < k else hits * 0 + k
            recall = recall + hits / min(k, len(own)) / len(ks)
        losses.append(1 - recall)
    return sum(losses) / len(losses) if losses else 0 * x.sum()


def index_lists(labels, ref_labels, same: bool):
    rows, columns = range(len(labels)), range(len(ref_labels))
    candidates = [[c for c in columns if not (same and c == i)] for i in rows]
    return [[c for c in candidates[i] if ref_labels[c] == labels[i]] for i in rows], candidates


@noises
@cases
@pytest.mark.parametrize("ks", [[1, 2, 4, 8, 16], [3]])
def test_smooth_recall_equals_the_formula(ks, case, noise):
    first, second, labels = fixture(case, noise)
    loss = RecallAtK(ks, rank_temperature=0.05)
    found = value_and_gradients(lambda x: loss(x, labels), first)
    expected = value_and_gradients(
        lambda x: naive_recall(
            normalize_vectors(x) @ normalize_vectors(x).T, ks, 0.05, 1.0, *index_lists(labels, labels, same=True)
        ),
        first,
    )
    assert_equal(found, expected)
    assert (found[0] == 0) == (case in ("one class", "no positives"))

    found = value_and_gradients(lambda x, y: loss(x, labels, ref_embeddings=y, ref_labels=labels), first, second)
    expected = value_and_gradients(
        lambda x, y: naive_recall(
            normalize_vectors(x) @ normalize_vectors(y).T, ks, 0.05, 1.0, *index_lists(labels, labels, same=False)
        ),
        first,
        second,
    )
    assert_equal(found, expected)


def test_smooth_recall_at_the_default_temperatures_equals_the_formula():
    first, second, _ = fixture("fours", 2.0)
    index = torch.arange(16)
    found = value_and_gradients(lambda x, y: RecallAtK()(x, ref_embeddings=y), first, second)
    expected = value_and_gradients(
        lambda x, y: naive_recall(
            normalize_vectors(x) @ normalize_vectors(y).T,
            [1, 2, 4, 8, 16],
            0.01,
            1.0,
            *index_lists(index, index, same=False),
        ),
        first,
        second,
    )
    assert_equal(found, expected)


def test_smooth_recall_approaches_recall():
    generator = torch.Generator().manual_seed(0)
    x, labels = torch.randn(60, 4, generator=generator, dtype=torch.float64), torch.arange(60) % 30
    scores = (normalize_vectors(x) @ normalize_vectors(x).T).fill_diagonal_(-2)
    nearest = scores.argsort(dim=1, descending=True)
    for k in (1, 3, 10):
        recall = (labels[nearest[:, :k]] == labels[:, None]).any(dim=1).double().mean()
        # a positive at rank k counts one half: between k and k + 1 it is a step
        smooth = RecallAtK([k], rank_temperature=1e-7, k_temperature=1e-3)
        half = (labels[nearest[:, k - 1]] == labels).double().mean() / 2
        torch.testing.assert_close(1 - smooth(x, labels), recall - half)


@pytest.mark.parametrize("limit", [1, 100, 700])
def test_smooth_recall_in_parts_is_the_same(limit, monkeypatch):
    for case in ("fours", "lone", "no positives"):
        first, second, labels = fixture(case, 2.0)

        def run(x, y, labels=labels):
            return RecallAtK()(x, labels) + RecallAtK()(x, labels, ref_embeddings=y, ref_labels=labels)

        whole = value_and_gradients(run, first, second)
        with monkeypatch.context() as patch:
            patch.setattr(recall_at_k, "COMPARISONS", limit)
            assert_equal(value_and_gradients(run, first, second), whole, 1e-13)


def test_smooth_recall_of_few_classes_keeps_little_for_the_gradient(monkeypatch):
    # 256 x 127 x 256 comparisons are 33 MB in float32; what is kept are a few matrices of 256 x 256
    monkeypatch.setattr(recall_at_k, "COMPARISONS", 2**18)
    x = torch.randn(256, 8, generator=torch.Generator().manual_seed(0), requires_grad=True)
    kept = {}

    def pack(tensor):
        kept[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage().nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        value = RecallAtK()(x, torch.arange(256) % 2)
    assert sum(kept.values()) < 8e6
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU], profile_memory=True) as profile:
        value.backward()
    assert max(event.self_cpu_memory_usage for event in profile.events()) <= 4 * 2**18 * 4
    assert x.grad.abs().max() > 0


def test_smooth_recall_of_a_large_batch():
    x = torch.randn(1024, 16, generator=torch.Generator().manual_seed(0), requires_grad=True)
    value = RecallAtK()(x, torch.arange(1024) // 4)
    value.backward()
    assert 0.5 < value < 1
    assert x.grad.isfinite().all()
    assert x.grad.abs().max() > 0


# the hardest negatives


def test_more_hardest_negatives_than_there_are_is_all_of_them():
    for case in ("fours", "lone", "no positives", "one class"):
        first, second, labels = fixture(case, 2.0)
        for symmetric in (False, True):

            def run(x, y, hardest, labels=labels, symmetric=symmetric):
                loss = InfoNCE(symmetric=symmetric, hardest=hardest)
                return loss(x, labels) + loss(x, labels, ref_embeddings=y, ref_labels=labels)

            whole = value_and_gradients(lambda x, y, run=run: run(x, y, None), first, second)
            for hardest in (15, 16, 1000):
                found = value_and_gradients(lambda x, y, run=run, k=hardest: run(x, y, k), first, second)
                assert_equal(found, whole, 1e-12)
    assert InfoNCE(hardest=2)(first, ref_embeddings=second) < InfoNCE()(first, ref_embeddings=second)


def test_the_hardest_negatives_with_labels_against_a_loop():
    first, _, labels = fixture("lone", 2.0)
    scores = normalize_vectors(first) @ normalize_vectors(first).T / 0.07
    losses = []
    for a in range(16):
        against = torch.stack([scores[a, n] for n in range(16) if labels[n] != labels[a]])
        against = against.sort(descending=True).values[:3].exp().sum()
        for p in range(16):
            if p != a and labels[p] == labels[a]:
                losses.append(-(scores[a, p].exp() / (scores[a, p].exp() + against)).log())
    torch.testing.assert_close(InfoNCE(hardest=3)(first, labels), torch.stack(losses).mean())


# explicit negatives


EXPLICIT = {
    **PAIRS,
    "supcon": SupCon(),
    "infonce": InfoNCE(),
    "hardest": InfoNCE(hardest=5),
    "triplet": Triplet(0.3),
    "triplet-hard": Triplet(0.3, "hard"),
    "triplet-semi": Triplet(0.3, "semi", "cosine"),
}


@pytest.mark.parametrize("loss", EXPLICIT.values(), ids=EXPLICIT)
def test_explicit_negatives_are_rows_of_other_classes(loss):
    first, second, _ = fixture("fours", 2.0)
    negatives = torch.cat([first[:3] + 0.1, second.flip(1)[:4]])
    index, others = torch.arange(16), torch.arange(16 + 7)
    found = value_and_gradients(lambda x, y, n: loss(x, ref_embeddings=torch.cat([y, n])), first, second, negatives)
    expected = value_and_gradients(
        lambda x, y, n: loss(x, index, ref_embeddings=torch.cat([y, n]), ref_labels=others), first, second, negatives
    )
    assert_equal(found, expected, 1e-12)
    assert found[1][2][:3].abs().max() > 0, "near negatives are pushed"
    assert abs(found[0] - loss(first, ref_embeddings=second)) > 1e-3, "they add to the negatives of the batch"


def test_symmetric_infonce_sees_explicit_negatives_in_one_direction():
    first, second, _ = fixture("fours", 2.0)
    negatives = first[:5] + 0.3
    together, target = torch.cat([second, negatives]), torch.arange(16)
    forth = torch.nn.functional.cross_entropy(normalize_vectors(first) @ normalize_vectors(together).T / 0.07, target)
    back = torch.nn.functional.cross_entropy(normalize_vectors(second) @ normalize_vectors(first).T / 0.07, target)
    assert abs(forth - back) > 1e-3
    torch.testing.assert_close(InfoNCE(symmetric=True)(first, ref_embeddings=together), (forth + back) / 2)


# numerical safety


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
@pytest.mark.parametrize("name", [*PAIRS, *CLASSIFICATION])
def test_zero_rows_and_equal_rows_give_finite_gradients(name, dtype):
    loss = PAIRS[name] if name in PAIRS else connected(CLASSIFICATION[name]).float()
    first, second, labels = fixture("duplicates")
    first[2], second[5], first[15] = 0, 0, -first[14]
    for view in (None, second.to(dtype)):
        value, (gradient,) = value_and_gradients(
            lambda x, view=view: loss(x, labels, ref_embeddings=view, ref_labels=None if view is None else labels),
            first.to(dtype),
        )
        assert value.isfinite()
        assert gradient.isfinite().all()
        assert gradient[2].abs().max() == 0
        assert gradient.abs().max() > 0
        assert value.dtype == (torch.float64 if dtype == torch.float64 else torch.float32)


@pytest.mark.parametrize("name", [*PAIRS, *CLASSIFICATION])
def test_only_the_direction_of_an_embedding_counts(name):
    loss = PAIRS[name] if name in PAIRS else connected(CLASSIFICATION[name])
    first, _, labels = fixture("fours", 2.0)
    scaled = first * torch.linspace(0.1, 50, 16, dtype=first.dtype)[:, None]
    torch.testing.assert_close(loss(scaled, labels), loss(first, labels))


@pair_losses
@pytest.mark.parametrize("rows", [1, 2])
def test_tiny_batches(loss, rows):
    x = torch.randn(rows, 4, generator=torch.Generator().manual_seed(0), requires_grad=True)
    loss(x, torch.arange(rows)).backward()
    loss(x, ref_embeddings=x.detach() + 1).backward()
    assert x.grad.isfinite().all()


@pytest.mark.parametrize("name", ["mined", "circle", "recall"])
@pytest.mark.parametrize("case", ["one class", "no positives"])
def test_without_a_contrast_it_is_exactly_zero_and_trains_nothing(name, case):
    first, _, labels = fixture(case)
    value, (gradient,) = value_and_gradients(lambda x: PAIRS[name](x, labels), first)
    assert value == 0
    assert gradient.abs().max() == 0


# what a user may get wrong


@pair_losses
def test_pair_losses_without_labels_or_second_view_say_what_to_do(loss):
    with pytest.raises(ValueError, match=r"labelled dataset.*retrieval\.Pairs"):
        loss(torch.randn(4, 8))
    with pytest.raises(ValueError, match="4 embeddings and 3 second views"):
        loss(torch.randn(4, 8), ref_embeddings=torch.randn(3, 8))


@classification
def test_class_losses_say_what_they_lack(kind):
    name = kind.__name__
    with pytest.raises(ValueError, match=rf"{name} learns vectors for the training classes.*labelled dataset"):
        kind().connect(8, None)
    with pytest.raises(ValueError, match=f"{name} tells classes apart, and this dataset has 1"):
        kind().connect(8, 1)
    with pytest.raises(ValueError, match=f"{name} needs labels, and this batch has none"):
        connected(kind)(torch.randn(4, DIM), ref_embeddings=torch.randn(4, DIM))
    with pytest.raises(ValueError, match=f"{name} has no class vectors yet"):
        kind()(torch.randn(4, 8), torch.arange(4))


@classification
@pytest.mark.parametrize("where", ["labels", "ref_labels"])
@pytest.mark.parametrize("bad", [-100, -1, CLASSES, 2**40])
def test_a_label_that_is_no_class_is_refused(kind, bad, where):
    labels = {"labels": torch.arange(4), "ref_labels": torch.arange(4)}
    labels[where] = torch.tensor([0, 1, bad, 2])
    with pytest.raises(ValueError, match=rf"{kind.__name__} has 12 classes, so labels are 0 to 11.*label {bad}:"):
        connected(kind)(
            torch.randn(4, DIM), labels["labels"], ref_embeddings=torch.randn(4, DIM), ref_labels=labels["ref_labels"]
        )


@classification
def test_odd_labels_and_widths_of_class_losses(kind):
    loss = connected(kind)
    first, _, labels = fixture("fours")
    for dtype in (torch.int32, torch.uint8):
        assert loss(first, labels.to(dtype)) == loss(first, labels)
    with pytest.raises(ValueError, match=r"labels that are integers, not torch\.float32"):
        loss(first, labels.float())
    with pytest.raises(ValueError, match="one label for each of the 16 embeddings"):
        loss(first, labels[:5])
    with pytest.raises(ValueError, match="embeddings of width 32, and these have 20"):
        loss(first[:, :20], labels)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: InfoNCE(hardest=0), "hardest must be a number of negatives"),
        (lambda: InfoNCE(hardest=True), "hardest must be a number of negatives"),
        (lambda: InfoNCE(hardest=0.5), "hardest must be a number of negatives"),
        (lambda: MultiSimilarity(alpha=0), "alpha must be a positive number"),
        (lambda: MultiSimilarity(beta=math.inf), "beta must be a positive number"),
        (lambda: MultiSimilarity(base=50), "base is a cosine"),
        (lambda: MultiSimilarity(epsilon=-0.1), "epsilon must be 0 or more"),
        (lambda: Circle(m=1), "m must be at least 0 and below 1"),
        (lambda: Circle(gamma=math.nan), "gamma must be a positive number"),
        (lambda: RecallAtK([]), "ks must be different numbers"),
        (lambda: RecallAtK([0, 1]), "ks must be different numbers"),
        (lambda: RecallAtK([1, 1]), "ks must be different numbers"),
        (lambda: RecallAtK(rank_temperature=0), "rank_temperature must be a positive number"),
        (lambda: RecallAtK(k_temperature=-1), "k_temperature must be a positive number"),
        (lambda: ProxyAnchor(margin=-1), "margin must be 0 or more"),
        (lambda: ProxyAnchor(alpha=0), "alpha must be a positive number"),
        (lambda: ArcFace(margin=0.5), r"in degrees: for 0\.5 radians give 28\.6"),
        (lambda: ArcFace(margin=180), "below 180"),
        (lambda: ArcFace(scale=0), "scale must be a positive number"),
        (lambda: SubCenterArcFace(sub_centers=0), "sub_centers must be 1 or more"),
    ],
)
def test_nonsense_is_refused(make, message):
    with pytest.raises(ValueError, match=message):
        make()


# processes


def test_two_processes_with_uneven_rows_have_one_process_s_gradients(tmp_path):
    sys.path.insert(0, str(HERE))
    try:
        import label_gather_worker
    finally:
        sys.path.remove(str(HERE))

    first, second, labels = fixture("fours", 2.0)
    shuffled = torch.randperm(16, generator=torch.Generator().manual_seed(1))
    inputs = {"x": first[shuffled], "second": second[shuffled], "labels": labels[shuffled]}
    torch.save(inputs, tmp_path / "inputs.pt")
    run_ranks(HERE / "label_gather_worker.py", folder=tmp_path)

    expected = label_gather_worker.gradients(inputs["x"], inputs["second"], inputs["labels"], slice(None))
    assert len(expected) == 6 + 12 + 6
    for rank in range(2):
        found = torch.load(tmp_path / f"{rank}.pt")
        for name, gradient in expected.items():
            assert gradient.abs().max() > 1e-4, name
            assert (found[f"right_{name}"] - gradient).abs().max() < 1e-10, name
            if not name.endswith("_vectors") and not name.startswith(("arcface", "sub_centers")):  # they gather nothing
                assert (found[f"detached_{name}"] - gradient).abs().max() > 1e-5, name
