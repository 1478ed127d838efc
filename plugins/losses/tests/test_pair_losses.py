"""CoSENT, SigLIP, MaxSim and Distillation against stored numbers, sentence-transformers, and plain loops."""

from __future__ import annotations

import math

import pytest
import torch
from loss_numbers import assert_equal, cosines, golden, rows, value_and_gradients
from toolbox_losses import maxsim
from toolbox_losses.cosent import CoSENT
from toolbox_losses.distillation import Distillation
from toolbox_losses.infonce import InfoNCE
from toolbox_losses.maxsim import MaxSim
from toolbox_losses.siglip import SigLIP
from torch.nn.functional import cosine_similarity, kl_div, normalize, softplus

LABELS = torch.tensor([0, 0, 0, 1, 1, 2, 2, 2, 2, 7])  # 7 stands alone


# CoSENT


def test_cosent_within_anchor_equals_the_stored_numbers():
    data = golden("retrieval_losses")
    loss = CoSENT(20, within_anchor=True)
    found = value_and_gradients(lambda x, y: loss(x, ref_embeddings=y), data["in_query"], data["in_positive"])
    assert_equal(found, (data["out_cosent"], [data["grad_cosent_query"], data["grad_cosent_positive"]]))


def test_cosent_knows_labels_of_pairs():
    """Distinct labels say what no labels say, and equal ones change the loss."""
    data = golden("retrieval_losses")
    x, y, index = data["in_query"], data["in_positive"], torch.arange(16)
    for loss in (CoSENT(), CoSENT(within_anchor=True)):
        same = loss(x, index, ref_embeddings=y, ref_labels=index)
        torch.testing.assert_close(same, loss(x, ref_embeddings=y), rtol=1e-12, atol=0)
        other = loss(x, data["in_labels"], ref_embeddings=y, ref_labels=data["in_labels"])
        assert abs(other - same) > 1e-3


def sentence_transformers_cosent(scale: float):
    from sentence_transformers import SentenceTransformer
    from sentence_transformers.sentence_transformer.losses import CoSENTLoss

    return CoSENTLoss(SentenceTransformer(modules=[torch.nn.Identity()], device="cpu"), scale=scale)


def test_cosent_equals_sentence_transformers():
    reference = sentence_transformers_cosent(20.0)
    x, y = rows(10, 6), rows(10, 6, seed=1)
    x[1], x[4] = x[0], 2 * x[8]
    first, second = torch.triu_indices(10, 10, 1)
    equal = (LABELS[first] == LABELS[second]).long()
    found = value_and_gradients(lambda x: CoSENT()(x, LABELS), x)
    expected = value_and_gradients(lambda x: reference.compute_loss_from_embeddings([x[first], x[second]], equal), x)
    assert_equal(found, expected)
    assert found[0] > 1

    anchors, candidates = torch.cartesian_prod(torch.arange(10), torch.arange(10)).T
    equal = (LABELS[anchors] == LABELS[candidates]).long()
    found = value_and_gradients(lambda x, y: CoSENT()(x, LABELS, ref_embeddings=y, ref_labels=LABELS), x, y)
    expected = value_and_gradients(
        lambda x, y: reference.compute_loss_from_embeddings([x[anchors], y[candidates]], equal), x, y
    )
    assert_equal(found, expected)


@pytest.mark.parametrize("within", [False, True])
@pytest.mark.parametrize("mode", ["labels", "references", "negatives"])
def test_cosent_against_a_loop(mode, within):
    x, y = rows(10, 6), rows(14, 6, seed=1)
    if mode == "labels":
        pairs = [(a, b) for a in range(10) for b in range(10) if (a != b if within else a < b)]
        equal, scores = lambda a, b: LABELS[a] == LABELS[b], cosines(x, x)
        found = CoSENT(5, within)(x, LABELS)
    elif mode == "references":
        labels = torch.cat([LABELS, LABELS[:4]])
        pairs = [(a, b) for a in range(10) for b in range(14)]
        equal, scores = lambda a, b: LABELS[a] == labels[b], cosines(x, y)
        found = CoSENT(5, within)(x, LABELS, ref_embeddings=y, ref_labels=labels)
    else:
        pairs = [(a, b) for a in range(10) for b in range(14)]
        equal, scores = lambda a, b: a == b, cosines(x, y)
        found = CoSENT(5, within)(x, ref_embeddings=y)
    total = sum(
        (5 * (scores[n] - scores[p])).exp()
        for p in pairs
        for n in pairs
        if equal(*p) and not equal(*n) and (p[0] == n[0] or not within)
    )
    torch.testing.assert_close(found, (1 + total).log(), rtol=1e-10, atol=0)


@pytest.mark.parametrize("within", [False, True])
def test_cosent_without_anything_to_compare_is_exactly_zero(within):
    for labels in (torch.arange(10), torch.zeros(10)):
        value, (gradient,) = value_and_gradients(lambda x, labels=labels: CoSENT(20, within)(x, labels), rows(10, 6))
        assert value == 0
        assert gradient.abs().max() == 0
    one = CoSENT(20, within)(rows(1, 6).requires_grad_(), ref_embeddings=rows(1, 6, seed=1))
    assert one == 0


def test_cosent_of_a_large_batch_never_makes_pairs_of_pairs():
    x, labels = rows(1024, 8).requires_grad_(), torch.arange(1024) // 2
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU], profile_memory=True) as profile:
        CoSENT()(x, labels).backward()
    assert max(event.self_cpu_memory_usage for event in profile.events()) <= 4 * 1024 * 1024 * 8


# SigLIP


@pytest.mark.parametrize(
    ("key", "start"),
    [("sigmoid", (2.6592, -10.0)), ("sigmoid_labels", (2.6592, -10.0)), ("sigmoid_other_init", (1.5, -2))],
)
def test_siglip_equals_the_stored_numbers(key, start):
    data = golden("retrieval_losses")
    labels = data["in_labels"] if key == "sigmoid_labels" else None
    loss = SigLIP(*start).double()
    loss.log_scale.data.fill_(start[0])  # not rounded to float32
    found = value_and_gradients(
        lambda x, y: loss(x, labels, ref_embeddings=y, ref_labels=labels), data["in_query"], data["in_positive"]
    )
    found[1].extend([loss.log_scale.grad, loss.bias.grad])
    names = ("query", "positive", "logit_scale", "logit_bias")
    assert_equal(found, (data[f"out_{key}"], [data[f"grad_{key}_{name}"] for name in names]))


def test_siglip_with_explicit_negatives_equals_the_stored_numbers():
    data = golden("retrieval_losses")
    loss = SigLIP(1.5, -2).double()
    found = value_and_gradients(
        lambda x, y, negatives: loss(x, ref_embeddings=torch.cat([y, negatives.flatten(0, 1)])),
        data["in_query"],
        data["in_positive"],
        data["in_negatives_per_query"],
    )
    found[1].extend([loss.log_scale.grad, loss.bias.grad])
    names = ("query", "positive", "negatives", "logit_scale", "logit_bias")
    expected = data["out_sigmoid_negatives"], [data[f"grad_sigmoid_negatives_{name}"] for name in names]
    assert_equal(found, expected)


def test_siglip_among_themselves_leaves_self_pairs_out():
    x = rows(10, 6)
    logits = math.exp(1.5) * cosines(x, x) - 2
    signs = torch.where(LABELS[:, None] == LABELS, 1, -1)
    expected = (softplus(-signs * logits, threshold=100) * ~torch.eye(10, dtype=torch.bool)).sum() / 10
    torch.testing.assert_close(SigLIP(1.5, -2).double()(x, LABELS), expected)


def test_siglip_is_the_same_in_both_directions():
    x, y = rows(10, 6), rows(10, 6, seed=1)
    loss = SigLIP()
    one = loss(x, LABELS, ref_embeddings=y, ref_labels=LABELS)
    torch.testing.assert_close(one, loss(y, LABELS, ref_embeddings=x, ref_labels=LABELS))


def test_siglip_holds_its_scale_after_a_step_without_stopping_the_gradient():
    loss = SigLIP(math.log(10), max_scale=10)
    value = loss(rows(4, 3).float(), ref_embeddings=rows(4, 3, seed=1).float())
    value.backward()
    assert loss.log_scale.grad != 0
    loss.log_scale.data.fill_(50)
    loss.after_step()
    torch.testing.assert_close(loss.log_scale.exp(), torch.tensor(10.0))
    free = SigLIP(max_scale=None)
    free.log_scale.data.fill_(50)
    free.after_step()
    assert free.log_scale == 50


# MaxSim


def colbert(case: str):
    data = golden("retrieval_colbert")
    labels = data["in_labels"] if "labels" in case else None
    parts = [data["in_positive_tokens"]] + ([data["in_negative_tokens"]] if "negatives" in case else [])
    ref_labels = None if labels is None else torch.cat([labels, torch.arange(-6, 0)])[: sum(map(len, parts))]
    names = ("query", "positive", "negatives")[: len(parts) + 1]
    expected = data[f"out_{case}"], [data[f"grad_{case}_{name}"] for name in names]
    return data["in_query_tokens"], parts, labels, ref_labels, expected


@pytest.mark.parametrize("comparisons", [1, 100, 2**24])
@pytest.mark.parametrize("case", ["colbert", "colbert_labels", "colbert_negatives", "colbert_negatives_labels"])
def test_maxsim_equals_the_stored_numbers_in_any_number_of_parts(case, comparisons, monkeypatch):
    monkeypatch.setattr(maxsim, "COMPARISONS", comparisons)
    query, parts, labels, ref_labels, expected = colbert(case)
    found = value_and_gradients(
        lambda x, *refs: MaxSim(0.05)(x, labels, ref_embeddings=torch.cat(refs), ref_labels=ref_labels), query, *parts
    )
    assert_equal(found, expected)


def padded(tokens: torch.Tensor, lengths: list[int]) -> torch.Tensor:
    """Zeros from `lengths` on."""
    return tokens * (torch.arange(tokens.shape[1]) < torch.tensor(lengths)[:, None])[..., None]


def test_scores_equal_sentence_transformers_with_padding():
    from sentence_transformers.multi_vector_encoder.scoring.colbert import colbert_scores

    lengths = ([5, 3, 1, 5], [7, 2, 6, 7, 1])
    queries, documents = padded(rows(4, 5, 6), lengths[0]), padded(rows(5, 7, 6, seed=1), lengths[1])
    masks = [(torch.arange(n) < torch.tensor(own)[:, None]) for n, own in zip((5, 7), lengths, strict=True)]
    expected = colbert_scores(
        normalize(queries, dim=-1),
        normalize(documents, dim=-1)[:, None],
        queries_mask=masks[0],
        documents_mask=masks[1][:, None],
    )
    torch.testing.assert_close(maxsim.compute_maxsim(queries, documents).float(), expected, rtol=1e-5, atol=1e-5)


def test_padding_changes_neither_value_nor_gradient():
    x, y = padded(rows(10, 4, 6), [4, 4, 2, 1, 4, 3, 4, 4, 1, 4]), rows(10, 3, 6, seed=1)
    loss = MaxSim()

    def run(x, y):
        return loss(x, LABELS, ref_embeddings=y, ref_labels=LABELS)

    def longer(x, y):
        return run(torch.nn.functional.pad(x, (0, 0, 2, 1)), torch.nn.functional.pad(y, (0, 0, 0, 4)))

    assert_equal(value_and_gradients(longer, x, y), value_and_gradients(run, x, y))
    # without masks the padding would win wherever all cosines are negative
    assert (maxsim.compute_maxsim(x, y) < 0).any()


@pytest.mark.parametrize("reduce", ["mean", "sum"])
def test_maxsim_against_a_loop(reduce):
    x = padded(rows(10, 4, 6), [4, 4, 2, 1, 4, 3, 4, 4, 1, 4])

    def score(a, b):
        tokens = [max(cosine_similarity(q, t, dim=0) for t in b if t.any()) for q in a if q.any()]
        return sum(tokens) / (len(tokens) if reduce == "mean" else 1)

    scores = torch.stack([torch.stack([score(a, b) for b in x]) for a in x]) / 0.3
    same = (LABELS[:, None] == LABELS).fill_diagonal_(False)
    losses = [
        -torch.cat([scores[a, p][None], scores[a][LABELS[a] != LABELS]]).log_softmax(0)[0] for a, p in same.nonzero()
    ]
    torch.testing.assert_close(MaxSim(0.3, reduce)(x, LABELS), torch.stack(losses).mean())


def test_maxsim_of_one_token_is_infonce():
    x, y = rows(10, 6), rows(13, 6, seed=1)
    torch.testing.assert_close(MaxSim()(x[:, None], LABELS), InfoNCE(0.05)(x, LABELS))
    found = MaxSim()(x[:, None], ref_embeddings=y[:, None])
    torch.testing.assert_close(found, InfoNCE(0.05)(x, ref_embeddings=y))


def test_where_row_i_is_of_another_label_all_of_the_label_are_positives():
    x, y = rows(10, 2, 6), rows(10, 2, 6, seed=1)
    shifted = torch.cat([LABELS[5:], LABELS[:5]])
    found = MaxSim()(x[:5], LABELS[:5], ref_embeddings=y, ref_labels=shifted)
    scores = maxsim.compute_maxsim(x[:5], y) / 2 / 0.05
    same = LABELS[:5, None] == shifted
    losses = [-torch.cat([scores[a, p][None], scores[a][~same[a]]]).log_softmax(0)[0] for a, p in same.nonzero()]
    torch.testing.assert_close(found, torch.stack(losses).mean())
    assert MaxSim()(x, LABELS, ref_embeddings=y[:3], ref_labels=LABELS[:3]).isfinite()


def test_items_of_nothing_but_padding_have_no_similarity_and_no_gradient():
    x = padded(rows(10, 3, 6), [3, 0, 3, 3, 3, 3, 0, 3, 3, 3])
    value, (gradient,) = value_and_gradients(lambda x: MaxSim()(x, LABELS), x)
    assert value.isfinite()
    assert gradient.isfinite().all()
    assert gradient[[1, 6]].abs().max() == 0
    assert (maxsim.compute_maxsim(x, x)[:, [1, 6]] == 0).all()


def test_late_interaction_of_a_large_batch_fits_in_memory(monkeypatch):
    monkeypatch.setattr(maxsim, "COMPARISONS", 2**20)
    x = torch.randn(48, 64, 8, generator=torch.Generator().manual_seed(0), requires_grad=True)
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU], profile_memory=True) as profile:
        MaxSim()(x, torch.arange(48) // 4).backward()
    largest = max(event.self_cpu_memory_usage for event in profile.events())
    assert largest < 48 * 64 * 48 * 64 * 4 / 4  # all at once would take 38 MB
    assert x.grad.abs().max() > 0


# Distillation


@pytest.mark.parametrize(
    ("key", "loss"),
    [
        ("distill_kl_t1", Distillation()),
        ("distill_kl_t", Distillation(temperature=0.2)),
        ("distill_mse", Distillation("mse")),
    ],
)
def test_distillation_equals_the_stored_numbers(key, loss):
    data = golden("retrieval_losses")
    taught = {"teacher": data["in_teacher_query"], "ref_teacher": data["in_teacher_positive"]}
    for labels in (None, data["in_labels"]):
        found = value_and_gradients(
            lambda x, y, labels=labels: loss(x, labels, ref_embeddings=y, ref_labels=labels, **taught),
            data["in_query"],
            data["in_positive"],
        )
        assert_equal(found, (data[f"out_{key}"], [data[f"grad_{key}_query"], data[f"grad_{key}_positive"]]))


def test_distillation_among_themselves_leaves_the_diagonal_out():
    x, teacher = rows(10, 6), rows(10, 9, seed=1)
    off = ~torch.eye(10, dtype=torch.bool)

    def matrices(x):
        return (cosines(rows, rows)[off].view(10, 9) for rows in (x, teacher))

    def kl(x):
        student, target = (scores / 0.3 for scores in matrices(x))
        return 0.09 * kl_div(student.log_softmax(1), target.softmax(1), reduction="batchmean")

    def mse(x):
        student, target = matrices(x)
        return (student - target).square().mean()

    for loss, reference in ((Distillation(temperature=0.3), kl), (Distillation("mse"), mse)):
        found = value_and_gradients(lambda x, loss=loss: loss(x, teacher=teacher), x)
        assert_equal(found, value_and_gradients(reference, x))
        assert found[0] > 1e-3


def test_distillation_of_embeddings_takes_both_views():
    x, y, teacher, other = (rows(10, 6, seed=seed) for seed in range(4))
    expected = 1 - (cosine_similarity(x, teacher).sum() + cosine_similarity(y, other).sum()) / 20
    found = Distillation("embedding")(x, ref_embeddings=y, teacher=teacher, ref_teacher=other)
    torch.testing.assert_close(found, expected)
    alone = Distillation("embedding")(x, LABELS, teacher=teacher)
    torch.testing.assert_close(alone, (normalize(x) - normalize(teacher)).square().sum(1).mean() / 2)


@pytest.mark.parametrize("kind", ["kl", "mse", "embedding"])
def test_a_student_like_its_teacher_has_nothing_to_learn(kind):
    x = rows(10, 6)
    value, (gradient,) = value_and_gradients(lambda x: Distillation(kind)(x, teacher=5 * x.detach()), x)
    assert abs(value) < 1e-12
    assert gradient.abs().max() < 1e-12
    teacher = x.clone().requires_grad_()
    Distillation(kind)(rows(10, 6, seed=1).requires_grad_(), teacher=teacher).backward()
    assert teacher.grad is None


def test_distillation_with_explicit_negatives_and_a_lone_item():
    x, y, teacher, other = rows(4, 6), rows(9, 6, seed=1), rows(4, 3, seed=2), rows(9, 3, seed=3)
    found = Distillation("mse")(x, ref_embeddings=y, teacher=teacher, ref_teacher=other)
    torch.testing.assert_close(found, (cosines(x, y) - cosines(teacher, other)).square().mean())
    for kind in ("kl", "mse"):
        value, (gradient,) = value_and_gradients(lambda x, kind=kind: Distillation(kind)(x, teacher=teacher[:1]), x[:1])
        assert value == gradient.abs().max() == 0


# all of them

EVERY = {
    "cosent": CoSENT(),
    "within": CoSENT(within_anchor=True),
    "siglip": SigLIP(),
    "maxsim": MaxSim(),
    "kl": Distillation(temperature=0.1),
    "mse": Distillation("mse"),
    "embedding": Distillation("embedding"),
}
every = pytest.mark.parametrize("loss", EVERY.values(), ids=EVERY)


def arguments(loss, x, teacher=None):
    x = x[:, None] if loss.reads_tokens else x
    if not loss.needs_teacher:
        return x, {}
    taught = rows(len(x), x.shape[-1], seed=9).to(x.dtype) if teacher is None else teacher
    return x, {"teacher": taught}


@every
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
def test_zero_rows_equal_rows_and_opposite_rows_give_finite_gradients(loss, dtype):
    x, second = rows(10, 6), rows(10, 6, seed=1)
    x[2], x[4], x[5], second[5], second[0] = 0, x[3], -x[6], 0, x[0]
    x, second = x.to(dtype), second.to(dtype)
    for refs in (None, second):
        leaf = x.clone().requires_grad_()
        given, more = arguments(loss, leaf)
        if refs is not None:
            reference, taught = arguments(loss, refs)
            more |= {"ref_embeddings": reference, "ref_labels": LABELS}
            more |= {"ref_teacher": taught["teacher"]} if taught else {}
        value = loss(given, LABELS, **more)
        value.backward()
        assert value.isfinite()
        assert value.dtype == (torch.float64 if dtype == torch.float64 else torch.float32)
        assert leaf.grad.isfinite().all()
        assert leaf.grad[2].abs().max() == 0


@every
def test_only_the_direction_of_an_embedding_counts(loss):
    x = rows(10, 6)
    given, more = arguments(loss, x)
    scaled = given * torch.linspace(0.1, 50, 10, dtype=x.dtype).view(-1, *[1] * (given.ndim - 1))
    torch.testing.assert_close(loss(scaled, LABELS, **more), loss(given, LABELS, **more))


@every
@pytest.mark.parametrize("count", [1, 2])
def test_tiny_batches(loss, count):
    x = rows(count, 6).requires_grad_()
    given, more = arguments(loss, x)
    loss(given, torch.arange(count), **more).backward()
    more |= {"ref_teacher": more["teacher"]} if more else {}
    loss(given, ref_embeddings=given.detach() + 1, **more).backward()
    assert x.grad.isfinite().all()


@pytest.mark.parametrize("name", ["cosent", "siglip", "maxsim"])
def test_neither_labels_nor_a_second_view_says_what_to_do(name):
    given, more = arguments(EVERY[name], rows(4, 6))
    with pytest.raises(ValueError, match=r"labelled dataset.*retrieval\.Pairs"):
        EVERY[name](given, **more)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: CoSENT(0), "scale must be a positive number, not 0: 20 is usual"),
        (lambda: SigLIP(max_scale=-1), "max_scale must be a positive number"),
        (lambda: SigLIP(5), "above max_scale=100.0: start at most at 4.6052"),
        (lambda: SigLIP(bias=math.inf), "bias must be a finite number"),
        (lambda: MaxSim(-1), "temperature must be a positive number"),
        (lambda: MaxSim(reduce="max"), "reduce must be 'mean' or 'sum', not 'max'"),
        (lambda: MaxSim()(rows(4, 6), LABELS[:4]), r"token embeddings \(B, N, D\), not \(4, 6\)"),
        (lambda: Distillation("cosine"), "kind must be 'kl', 'mse' or 'embedding', not 'cosine'"),
        (lambda: Distillation(temperature=0), "temperature must be a positive number"),
        (lambda: Distillation()(rows(4, 6)), "needs a teacher's embeddings"),
        (lambda: Distillation()(rows(4, 6), teacher=rows(5, 6)), "each of the 4 embeddings, but there are 5"),
        (
            lambda: Distillation()(rows(4, 6), ref_embeddings=rows(4, 6), teacher=rows(4, 6)),
            "each of the 4 rows of the second view, but there are none",
        ),
        (
            lambda: Distillation("embedding")(rows(4, 6), teacher=rows(4, 9)),
            "the student's have 6 and the teacher's 9: give the student a head of 9",
        ),
    ],
)
def test_nonsense_is_refused(make, message):
    with pytest.raises(ValueError, match=message):
        make()
