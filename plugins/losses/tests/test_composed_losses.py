"""Sum, Matryoshka and CrossBatchMemory against stored numbers, pytorch-metric-learning, and their parts."""

from __future__ import annotations

import copy
import math
import sys
from pathlib import Path

import pytest
import torch
from forked_python import run_ranks
from loss_numbers import assert_equal, golden, rows, value_and_gradients
from toolbox_losses.arcface import ArcFace
from toolbox_losses.circle import Circle
from toolbox_losses.cosent import CoSENT
from toolbox_losses.distillation import Distillation
from toolbox_losses.infonce import InfoNCE
from toolbox_losses.matryoshka import Matryoshka
from toolbox_losses.maxsim import MaxSim
from toolbox_losses.memory import CrossBatchMemory
from toolbox_losses.multi_similarity import MultiSimilarity
from toolbox_losses.proxy_anchor import ProxyAnchor
from toolbox_losses.recall_at_k import RecallAtK
from toolbox_losses.siglip import SigLIP
from toolbox_losses.sum import Sum
from toolbox_losses.supcon import SupCon
from toolbox_losses.triplet import Triplet
from torch import nn

from toolbox.base import Loss

HERE = Path(__file__).parent
LABELS = torch.tensor([0, 0, 0, 1, 1, 2, 2, 2, 2, 7])  # 7 stands alone


# Sum


def test_a_sum_is_the_weighted_sum_and_gives_each_what_it_needs():
    x, y, teacher = rows(10, 8), rows(10, 8, seed=1), rows(10, 5, seed=2)
    parts = [SupCon(), Distillation(temperature=0.2), Triplet()]
    both = Sum(parts, [1, 0.5, 2])
    assert (both.needs_labels, both.needs_teacher, both.reads_tokens) == (False, True, False)
    assert Sum([SupCon(), ProxyAnchor()]).needs_labels
    assert not Sum([SupCon()]).needs_teacher

    def apart(x, y):
        given = {"ref_embeddings": y, "ref_labels": LABELS}
        taught = parts[1](x, LABELS, **given, teacher=teacher, ref_teacher=teacher.flip(0))
        return parts[0](x, LABELS, **given) + 0.5 * taught + 2 * parts[2](x, LABELS, **given)

    found = value_and_gradients(
        lambda x, y: both(x, LABELS, ref_embeddings=y, ref_labels=LABELS, teacher=teacher, ref_teacher=teacher.flip(0)),
        x,
        y,
    )
    assert_equal(found, value_and_gradients(apart, x, y))
    with pytest.raises(ValueError, match="Sum needs a teacher's embeddings"):
        both(x, LABELS)


def test_a_sum_of_token_losses_reads_tokens():
    both, x = Sum([MaxSim(), MaxSim(0.5, "sum")]), rows(10, 3, 8)
    torch.testing.assert_close(both(x, LABELS), MaxSim()(x, LABELS) + MaxSim(0.5, "sum")(x, LABELS))


def test_a_sum_connects_its_parts_and_holds_their_parameters():
    both = Sum([SigLIP(), ProxyAnchor()])
    both.connect(8, 5)
    assert {name: tuple(p.shape) for name, p in both.named_parameters()} == {
        "losses.0.log_scale": (),
        "losses.0.bias": (),
        "losses.1.proxies": (5, 8),
    }


# Matryoshka


@pytest.mark.parametrize("order", [[0, 1, 2], [2, 0, 1]])
@pytest.mark.parametrize(
    ("key", "loss"),
    [("infonce", InfoNCE(0.05)), ("supcon", SupCon(0.05)), ("triplet", Triplet(0.5, "hard", "cosine"))],
)
def test_matryoshka_equals_the_stored_numbers(key, loss, order):
    data = golden("retrieval_losses")
    nested = Matryoshka(loss, [data["param_mrl_dims"].tolist()[i] for i in order])
    labels = data["in_labels"] if key == "supcon" else None
    found = value_and_gradients(
        lambda x, y: nested(x, labels, ref_embeddings=y, ref_labels=labels), data["in_query"], data["in_positive"]
    )
    gradients = [data[f"grad_mrl_{key}_{name}"] for name in ("query", "positive")]
    assert_equal(found, (data[f"out_mrl_{key}"], gradients))


def test_the_weighted_sum_over_cuts():
    x = rows(10, 8)
    parts = [weight * SupCon()(x[:, :dim], LABELS) for dim, weight in ((4, 0.3), (8, 2.0), (2, 1.0))]
    torch.testing.assert_close(Matryoshka(SupCon(), [4, 8, 2], [0.3, 2, 1])(x, LABELS), sum(parts))


def test_weights_belong_to_dims_as_given():
    x = rows(10, 8)
    one, other = Matryoshka(SupCon(), [2, 8], [1, 0]), Matryoshka(SupCon(), [8, 2], [1, 0])
    torch.testing.assert_close(one(x, LABELS), SupCon()(x[:, :2], LABELS))
    torch.testing.assert_close(other(x, LABELS), SupCon()(x, LABELS))


def test_every_width_has_parameters_of_its_own():
    loss = Matryoshka(ProxyAnchor(), [2, 8])
    loss.connect(8, 5)
    assert [tuple(p.shape) for p in loss.parameters()] == [(5, 2), (5, 8)]
    loss(rows(10, 8).float(), LABELS.clamp(max=4)).backward()
    assert all(p.grad.abs().max() > 0 for p in loss.parameters())
    scales = Matryoshka(SigLIP(max_scale=20), [2, 8])
    assert scales.losses[0].log_scale is not scales.losses[1].log_scale


def test_the_teacher_is_never_cut_and_tokens_are_cut_one_by_one():
    x, teacher = rows(10, 8), rows(10, 6, seed=1)
    found = Matryoshka(Distillation(), [2, 8])(x, teacher=teacher)
    torch.testing.assert_close(found, sum(Distillation()(x[:, :d], teacher=teacher) for d in (2, 8)))
    with pytest.raises(ValueError, match="the student's have 2 and the teacher's 6"):
        Matryoshka(Distillation("embedding"), [2, 6])(x, teacher=teacher)
    tokens = rows(10, 3, 8)
    found = Matryoshka(MaxSim(), [2, 8])(tokens, LABELS)
    torch.testing.assert_close(found, MaxSim()(tokens[..., :2], LABELS) + MaxSim()(tokens, LABELS))


# CrossBatchMemory


def connected(loss, dim=8, **options) -> CrossBatchMemory:
    built = CrossBatchMemory(loss, **options)
    built.connect(dim, 10)
    return built.double()


def batches(count: int, size: int = 10) -> list[tuple[torch.Tensor, torch.Tensor]]:
    generator = torch.Generator().manual_seed(5)
    found = [(rows(size, 8, seed=seed), torch.randint(6, (size,), generator=generator)) for seed in range(count)]
    found[2][0][0], found[2][1][0] = found[1][0][3], found[1][1][3]  # an embedding that comes again
    return found


def library_memory(name: str, rows: int):
    from pytorch_metric_learning import losses

    made = {
        "supcon": lambda: losses.SupConLoss(),
        "infonce": lambda: losses.NTXentLoss(0.07),
        "triplet": lambda: losses.TripletMarginLoss(),
        "multi": lambda: losses.MultiSimilarityLoss(),
        "circle": lambda: losses.CircleLoss(),
    }
    return losses.CrossBatchMemory(made[name](), 8, memory_size=rows)


MEMORIES = {
    "supcon": SupCon(),
    "infonce": InfoNCE(),
    "triplet": Triplet(),
    "multi": MultiSimilarity(),
    "circle": Circle(),
}


@pytest.mark.parametrize("size", [7, 20, 100])
@pytest.mark.parametrize("name", MEMORIES)
def test_memory_equals_pytorch_metric_learning(name, size):
    """The library's memory holds the batch itself too. Steps go from empty to overwritten several times."""
    ours, reference = connected(MEMORIES[name], size=size), library_memory(name, size + 10)
    for step, (x, labels) in enumerate(batches(12)):
        found = value_and_gradients(lambda x, labels=labels: ours(x, labels), x)
        assert_equal(found, value_and_gradients(lambda x, labels=labels: reference(x, labels), x))
        assert found[0] > 0.01, step


PAIR_LOSSES = {
    **MEMORIES,
    "cosent": CoSENT(within_anchor=True),
    "siglip": SigLIP(),
    "recall": RecallAtK([1, 2], 0.1),
    "sum": Sum([SupCon(), Triplet()]),
    "nested": Matryoshka(SupCon(), [3, 8]),
}


@pytest.mark.parametrize("name", PAIR_LOSSES)
def test_with_an_empty_memory_it_is_the_loss_itself(name):
    """The self pair is left out: it would be the nearest positive of all."""
    loss, (x, labels) = copy.deepcopy(PAIR_LOSSES[name]).double(), batches(3)[0]
    torch.testing.assert_close(connected(copy.deepcopy(loss))(x, labels), loss(x, labels))


@pytest.mark.parametrize("name", PAIR_LOSSES)
def test_the_past_is_compared_with_as_further_rows(name):
    """Against the loss with the past as a second view, for anchors that are not in it."""
    loss = copy.deepcopy(PAIR_LOSSES[name]).double()
    memory = connected(copy.deepcopy(loss), size=25)
    (first, labels), (second, more), (x, own) = batches(3)
    memory(first, labels)
    memory(second, more)
    past, past_labels = torch.cat([second, first])[:20], torch.cat([more, labels])[:20]
    memory.eval()
    one = memory(x[:1], own[:1])  # a single anchor has no candidate in the batch
    expected = loss(x[:1], own[:1], ref_embeddings=past, ref_labels=past_labels)
    torch.testing.assert_close(one, expected)


def test_only_the_newest_rows_are_kept_whatever_the_batch_size():
    memory, seen, seen_labels = connected(SupCon(), size=7), [], []
    for size in (3, 2, 5, 9, 1, 7, 8):
        x, labels = rows(size, 8, seed=size), torch.arange(size)
        memory(x, labels)
        seen, seen_labels = [*seen, *x], [*seen_labels, *labels.tolist()]
        kept = min(7, len(seen))
        order = torch.arange(len(seen) - kept, len(seen)) % 7
        assert torch.equal(memory.memory[order], torch.stack(seen[-kept:]))
        assert memory.memory_labels[order].tolist() == seen_labels[-kept:]


def test_only_training_fills_the_memory():
    memory, (x, labels) = connected(SupCon()), batches(3)[0]
    memory.eval()
    memory(x, labels)
    assert memory.remembered == 0
    memory.train()
    memory(x, labels)
    assert memory.remembered == 10
    memory(x.clone().requires_grad_(), labels).backward()
    assert memory.remembered == 20
    assert not memory.memory.requires_grad


def test_warmup_fills_the_memory_without_looking_at_it():
    memory, plain = connected(SupCon(), warmup=2), SupCon()
    values = [(memory(x, labels), plain(x, labels)) for x, labels in batches(3)]
    for found, expected in values[:2]:
        torch.testing.assert_close(found, expected)
    assert abs(values[2][0] - values[2][1]) > 1e-2
    other = connected(SupCon())
    assert [other(x, labels) for x, labels in batches(3)][2] == values[2][0]


def test_a_memory_goes_on_from_its_state_dict():
    memory = connected(SupCon(), size=15)
    for x, labels in batches(4):
        memory(x, labels)
    other = connected(SupCon(), size=15)
    other.load_state_dict(memory.state_dict())
    for x, labels in batches(4):
        assert memory(x, labels) == other(x, labels)
    assert torch.equal(memory.memory, other.memory)
    assert set(memory.state_dict()) == {"memory", "memory_labels", "remembered", "batches"}


def test_odd_batches_of_a_memory():
    memory = connected(SupCon())
    for x, labels in (
        (rows(1, 8), torch.zeros(1)),
        (torch.zeros(4, 8).double(), torch.zeros(4)),
        (rows(3, 8), LABELS[:3]),
    ):
        value, (gradient,) = value_and_gradients(lambda x, labels=labels: memory(x, labels), x)
        assert value.isfinite()
        assert gradient.isfinite().all()


class Raw(Loss):
    """A loss that looks at labels itself, as a third party's may."""

    def compute(self, embeddings, labels, ref_embeddings, ref_labels):
        ref_embeddings, ref_labels = (embeddings, labels) if ref_embeddings is None else (ref_embeddings, ref_labels)
        return -(embeddings @ ref_embeddings.T)[labels[:, None] == ref_labels].mean()


class Changed(SupCon):
    """One of ours whose comparison a third party has changed."""

    compute = Raw.compute


@pytest.mark.parametrize(
    "loss",
    [Raw(), Changed(), ProxyAnchor(), Sum([SupCon(), ArcFace()])],
    ids=["raw", "changed", "proxies", "sum"],
)
def test_a_loss_that_would_see_self_pairs_is_refused_before_training(loss):
    with pytest.raises(ValueError, match="does not compare pairs one by one"):
        connected(loss)


def test_connecting_a_memory_draws_nothing_and_works_without_values():
    state = torch.get_rng_state()
    memory = connected(SigLIP())
    assert torch.equal(torch.get_rng_state(), state)
    assert memory.remembered == memory.batches == 0
    with torch.device("meta"):  # as when a recipe is checked
        for loss in (RecallAtK(), Triplet(), SigLIP()):
            CrossBatchMemory(loss).connect(8, 10)


# what a user may get wrong


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Sum([]), "losses must be a list with one loss or more"),
        (lambda: Sum(SupCon()), "losses must be a list"),
        (lambda: Sum([SupCon(), "SupCon"]), r"losses\[1\] must be a loss.*'SupCon'"),
        (lambda: Sum([SupCon()] * 2), "stands twice"),
        (lambda: Sum([SupCon(), Triplet()], [1]), "one number for each of the 2 losses, not 1"),
        (lambda: Sum([SupCon(), Triplet()], [1, -1]), "weights must be 0 or more"),
        (lambda: Sum([SupCon(), Triplet()], [1, math.nan]), "weights must be 0 or more"),
        (lambda: Sum([SupCon(), Triplet()], [0, 0]), "not all 0"),
        (lambda: Sum([SupCon(), MaxSim()]), "SupCon one vector, MaxSim sets of tokens"),
        (lambda: Matryoshka(None), "loss must be a loss"),
        (lambda: Matryoshka(SupCon(), []), "dims must be different numbers from 1 up"),
        (lambda: Matryoshka(SupCon(), [8, 8]), "dims must be different numbers from 1 up"),
        (lambda: Matryoshka(SupCon(), [8, 0]), "dims must be different numbers from 1 up"),
        (lambda: Matryoshka(SupCon(), [8, 4], [1]), "one number for each of the 2 dims, not 1"),
        (lambda: Matryoshka(SupCon()).connect(300), r"asks for 512 components.* have 300: try dims=\[256, 128\]"),
        (lambda: Matryoshka(SupCon(), [9])(rows(4, 8), LABELS[:4]), "asks for 9 components, and the embeddings have 8"),
        (lambda: CrossBatchMemory(SupCon(), 0), "size is a number of embeddings, 1 or more, not 0"),
        (lambda: CrossBatchMemory(SupCon(), warmup=-1), "warmup is a number of batches"),
        (lambda: CrossBatchMemory(Distillation()), "Distillation needs a teacher's embeddings"),
        (lambda: CrossBatchMemory(MaxSim()), "MaxSim needs sets of tokens"),
        (lambda: CrossBatchMemory(CrossBatchMemory(SupCon())), "a memory inside a memory"),
        (lambda: CrossBatchMemory(SupCon())(rows(4, 8), LABELS[:4]), r"call connect\(dim\)"),
        (lambda: connected(SupCon())(rows(4, 9), LABELS[:4]), "width 8, and these have 9"),
        (lambda: connected(SupCon())(rows(4, 8)), "needs labels"),
        (
            lambda: connected(SupCon())(rows(4, 8), LABELS[:4], ref_embeddings=rows(4, 8), ref_labels=LABELS[:4]),
            r"model\.cross_view=False",
        ),
    ],
)
def test_nonsense_is_refused(make, message):
    with pytest.raises(ValueError, match=message):
        make()


# processes


def test_two_processes_with_uneven_rows_have_one_process_s_gradients(tmp_path):
    sys.path.insert(0, str(HERE))
    try:
        import composed_gather_worker
    finally:
        sys.path.remove(str(HERE))

    inputs = {"x": rows(16, 32), "second": rows(16, 32, seed=1), "labels": torch.arange(16) * 7 % 16 // 4}
    torch.save(inputs, tmp_path / "inputs.pt")
    run_ranks(HERE / "composed_gather_worker.py", folder=tmp_path)

    expected = composed_gather_worker.gradients(inputs["x"], inputs["second"], inputs["labels"], slice(None))
    assert len(expected) == 6 + 1 + 3 + 1
    for rank in range(2):
        found = torch.load(tmp_path / f"{rank}.pt")
        for name, gradient in expected.items():
            assert gradient.abs().max() > 1e-4, name
            assert (found[f"right_{name}"] - gradient).abs().max() < 1e-10, name
            if name not in ("scale", "remembered"):  # a gather without gradient changes what reaches the embeddings
                assert (found[f"detached_{name}"] - gradient).abs().max() > 1e-5, name


def test_modules_are_found_by_the_model_that_clamps_after_a_step():
    both = Sum([SigLIP(max_scale=20), Matryoshka(SigLIP(max_scale=20), [4])])
    for module in both.modules():
        if isinstance(module, SigLIP):
            module.log_scale.data.fill_(9)
    for module in nn.ModuleList([both]).modules():
        if isinstance(module, Loss):
            module.after_step()
    assert all(p <= math.log(20) for name, p in both.named_parameters() if name.endswith("log_scale"))
