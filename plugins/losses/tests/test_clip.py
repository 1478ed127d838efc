"""The losses of CLIP and SigLIP against stored numbers, open_clip, and plain loops."""

from __future__ import annotations

import math

import pytest
import torch
from loss_numbers import assert_equal, cosines, golden, rows, value_and_gradients
from toolbox_losses.clip import CLIP
from toolbox_losses.matryoshka import Matryoshka
from toolbox_losses.siglip import SigLIP
from toolbox_losses.sum import Sum
from torch.nn.functional import normalize

LABELS = torch.tensor([0, 0, 1, 2, 2, 2, 3, 4])


def make(kind: type, *, dtype=torch.float64, **start: float):
    loss = kind().to(dtype)
    for name, value in start.items():
        getattr(loss, name).data.fill_(value)
    return loss


@pytest.mark.parametrize("name", ["clip", "siglip"])
def test_value_and_every_gradient_are_the_stored_ones(name):
    data = golden("contrastive_clip_siglip")
    kind, start = CLIP, dict(log_scale=data["param_clip_log_scale"])
    if name == "siglip":
        kind, start = SigLIP, dict(log_scale=data["param_siglip_log_scale"], bias=data["param_siglip_bias"])
    loss = make(kind, **start)
    features = value_and_gradients(
        lambda x, y: loss(x, ref_embeddings=y), data["in_image_features"], data["in_text_features"]
    )
    stored = []
    for side in ("image", "text"):  # the loss makes rows of length 1 itself, so no gradient goes along them
        x, gradient = data[f"in_{side}_features"], data[f"grad_{name}_features_{side}"]
        stored.append(gradient - (gradient * x).sum(dim=1, keepdim=True) * x)
    expected = data[f"out_{name}_loss"], stored + [data[f"grad_{name}_{part}"] for part in start]
    features[1].extend(getattr(loss, part).grad for part in start)
    assert_equal(features, expected)
    weights = value_and_gradients(
        lambda a, b: make(kind, **start)(
            normalize(data["in_image_inputs"] @ a, dim=-1), ref_embeddings=normalize(data["in_text_inputs"] @ b, dim=-1)
        ),
        data["param_weight_image"],
        data["param_weight_text"],
    )
    assert_equal(weights, (expected[0], [data[f"grad_{name}_weight_{side}"] for side in ("image", "text")]))
    wrong = data["control_dist_clip_local1_gradgather0_mean_weight_image"]
    assert (weights[1][0] - wrong).abs().max() > 1e-3, "the usual mistake of several processes"


@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float64, 1e-9), (torch.float32, 1e-6)])
@pytest.mark.parametrize("name", ["clip", "siglip"])
def test_value_and_every_gradient_are_those_of_open_clip(name, dtype, tolerance):
    open_clip = pytest.importorskip("open_clip.loss")
    x, y = rows(9, 6).to(dtype), rows(9, 6, seed=1).to(dtype)
    kind, reference = (CLIP, open_clip.ClipLoss()) if name == "clip" else (SigLIP, open_clip.SigLipLoss())
    loss = kind().to(dtype)
    start = list(loss.parameters())
    ours = value_and_gradients(lambda a, b: loss(a, ref_embeddings=b), x, y)
    ours[1].extend(parameter.grad for parameter in start)

    def compute(a, b, log_scale, bias=None):
        a, b = normalize(a, dim=-1), normalize(b, dim=-1)
        return reference(a, b, log_scale.exp()) if bias is None else reference(a, b, log_scale.exp(), bias)

    theirs = value_and_gradients(compute, x, y, *(parameter.detach() for parameter in start))
    assert_equal(ours, theirs, tolerance)


def loop(x, y, labels, scale):
    """The loss with shared targets, pair by pair."""
    logits = scale * cosines(x, y)
    total = 0.0
    for z in (logits, logits.T):
        for i in range(len(z)):
            positives = [j for j in range(len(z)) if labels[j] == labels[i]]
            total += sum(-(z[i, j] - z[i].logsumexp(0)) for j in positives) / len(positives) / len(z)
    return total / 2


def test_equal_labels_share_the_target():
    x, y = rows(8, 6), rows(8, 6, seed=1)
    loss = make(CLIP, log_scale=1.0)
    torch.testing.assert_close(loss(x, LABELS, ref_embeddings=y, ref_labels=LABELS), loop(x, y, LABELS, math.e))
    different = torch.arange(8)
    alone = loss(x, ref_embeddings=y)
    torch.testing.assert_close(loss(x, different, ref_embeddings=y, ref_labels=different), alone)
    assert abs(alone - loop(x, y, LABELS, math.e)) > 1e-2


def test_explicit_negatives_stand_in_the_first_direction_alone():
    x, y, more = rows(5, 6), rows(5, 6, seed=1), rows(3, 6, seed=2)
    loss = make(CLIP, log_scale=1.0)
    logits, target = math.e * cosines(x, torch.cat([y, more])), torch.arange(5)
    ways = [torch.nn.functional.cross_entropy(z, target) for z in (logits, logits[:, :5].T)]
    torch.testing.assert_close(loss(x, ref_embeddings=torch.cat([y, more])), sum(ways) / 2)


def test_the_scale_stays_within_its_bounds():
    loss = CLIP()
    assert loss.log_scale.exp().item() == pytest.approx(1 / 0.07, rel=1e-4)
    for value, bound in ((9.0, 100.0), (-1.0, 1.0)):
        loss.log_scale.data.fill_(value)
        loss.after_step()
        assert loss.log_scale.exp().item() == pytest.approx(bound)
    free = CLIP(max_scale=None)
    free.log_scale.data.fill_(9.0)
    free.after_step()
    assert free.log_scale.item() == 9.0


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (dict(log_scale=5.0), "scale above max_scale=100"),
        (dict(log_scale=-0.5), "scale below 1.0"),
        (dict(log_scale=float("nan")), "finite"),
        (dict(max_scale=0.0), "positive"),
    ],
)
def test_starts_out_of_bounds_are_refused(options, message):
    with pytest.raises(ValueError, match=message):
        CLIP(**options)


def test_a_single_pair_is_refused():
    with pytest.raises(ValueError, match="this batch has one pair"):
        CLIP()(rows(1, 4), ref_embeddings=rows(1, 4, seed=1))


def test_it_works_in_sums_and_cuts():
    x, y = rows(6, 8), rows(6, 8, seed=1)
    plain = {dim: make(CLIP)(x[:, :dim], ref_embeddings=y[:, :dim]) for dim in (4, 8)}
    cuts = Matryoshka(CLIP(), dims=[4, 8], weights=[0.5, 1]).double()
    torch.testing.assert_close(cuts(x, ref_embeddings=y), 0.5 * plain[4] + plain[8])
    both = Sum([CLIP(), SigLIP()], weights=[1, 2]).double()
    torch.testing.assert_close(both(x, ref_embeddings=y), plain[8] + 2 * make(SigLIP)(x, ref_embeddings=y))
    assert both.chance_level(6) == pytest.approx(CLIP().chance_level(6) + 2 * SigLIP().chance_level(6))
    assert Sum([CLIP(), Unknown()]).chance_level(6) is None


class Unknown(SigLIP):
    def chance_level(self, rows):
        return None


@pytest.mark.parametrize("labels", [None, torch.arange(8), LABELS])
def test_chance_is_the_loss_of_rows_that_are_all_alike(labels):
    x = torch.ones(8, 4).double()
    value = CLIP().double()(x, labels, ref_embeddings=x, ref_labels=labels)
    assert value.item() == pytest.approx(math.log(8))
    assert CLIP().chance_level(8) == pytest.approx(math.log(8))


def test_chance_of_siglip_is_the_best_that_one_logit_can_do():
    x = torch.ones(8, 4).double()
    biases = torch.linspace(-9, 5, 1401)
    losses = [make(SigLIP, log_scale=0.0, bias=bias)(x, ref_embeddings=x).item() for bias in biases]
    assert min(losses) == pytest.approx(SigLIP().chance_level(8), abs=1e-4)
