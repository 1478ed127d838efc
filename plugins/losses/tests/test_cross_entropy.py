"""Cross-entropy over logits: torch's own numbers, soft labels, several processes, and what it refuses."""

from __future__ import annotations

import pytest
import torch
from toolbox_losses.circle import Circle
from toolbox_losses.cross_entropy import CrossEntropy
from toolbox_losses.matryoshka import Matryoshka
from toolbox_losses.sum import Sum
from toolbox_losses.supcon import SupCon
from torch.nn import functional

ROWS, CLASSES = 9, 5


def connected(**arguments) -> CrossEntropy:
    loss = CrossEntropy(**arguments)
    loss.connect(CLASSES, CLASSES)
    return loss


def logits(scale: float = 3.0) -> torch.Tensor:
    generator = torch.Generator().manual_seed(0)
    return (scale * torch.randn(ROWS, CLASSES, dtype=torch.float64, generator=generator)).requires_grad_()


def targets(kind: str) -> torch.Tensor:
    generator = torch.Generator().manual_seed(1)
    if kind == "hard":
        return torch.randint(CLASSES, (ROWS,), generator=generator)
    return torch.rand(ROWS, CLASSES, dtype=torch.float64, generator=generator).softmax(1)


@pytest.mark.parametrize("scale", [3.0, 1000.0])
@pytest.mark.parametrize("smoothing", [0.0, 0.1, 0.7])
@pytest.mark.parametrize("kind", ["hard", "soft"])
def test_value_and_gradient_are_those_of_torch(kind, smoothing, scale):
    ours, theirs = logits(scale), logits(scale)
    value = connected(label_smoothing=smoothing)(ours, targets(kind))
    expected = functional.cross_entropy(theirs, targets(kind), label_smoothing=smoothing)
    value.backward()
    expected.backward()
    torch.testing.assert_close(value, expected, rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(ours.grad, theirs.grad, rtol=1e-12, atol=1e-12)


def test_smoothing_and_soft_labels_matter():
    """Negative control of the comparison above."""
    found = [connected(label_smoothing=s)(logits(), targets(kind)) for s in (0, 0.1) for kind in ("hard", "soft")]
    assert len({round(value.item(), 6) for value in found}) == 4


def test_soft_labels_of_one_class_each_are_the_hard_ones():
    hard = targets("hard")
    one_hot = functional.one_hot(hard, CLASSES).double()
    for smoothing in (0.0, 0.2):
        loss = connected(label_smoothing=smoothing)
        torch.testing.assert_close(loss(logits(), one_hot), loss(logits(), hard), rtol=1e-14, atol=1e-14)


def test_a_second_view_is_further_rows():
    x, y = logits().detach(), targets("hard")
    both = connected()(torch.cat([x, 2 * x]), torch.cat([y, y]))
    torch.testing.assert_close(connected()(x, y, ref_embeddings=2 * x, ref_labels=y), both)


def test_half_precision_is_promoted():
    x, y = logits().detach(), targets("hard")
    value = connected()(x.bfloat16(), y)
    assert value.dtype == torch.float32
    torch.testing.assert_close(value, connected()(x.bfloat16().float(), y), rtol=0, atol=0)


@pytest.mark.parametrize(
    ("labels", "said"),
    [
        (torch.arange(ROWS) % CLASSES - 1, "has the label -1"),
        (torch.full((ROWS,), CLASSES), "has the label 5"),
        (torch.full((ROWS,), -100), "has the label -100"),  # torch's own would leave such rows out
        (torch.arange(ROWS - 1) % CLASSES, "one label for each of the 9"),
        (torch.zeros(ROWS), "integers, not torch.float32"),
        (torch.zeros(ROWS, dtype=torch.bool), "integers, not torch.bool"),
        (torch.ones(ROWS, CLASSES), "add up to 1"),
        (torch.tensor([1.5, -0.5, 0, 0, 0]).expand(ROWS, -1), "at least 0"),
        (torch.full((ROWS, CLASSES), torch.nan), "add up to 1"),
        (torch.full((ROWS, CLASSES + 1), 1 / 6), r"not \(9, 6\)"),
        (torch.ones(ROWS, CLASSES, dtype=torch.long), "floating point"),
        (None, "needs labels"),
    ],
)
def test_labels_that_are_none_are_refused(labels, said):
    with pytest.raises(ValueError, match=said):
        connected()(logits(), labels)


@pytest.mark.parametrize("smoothing", [-0.1, 1.0, float("nan")])
def test_smoothing_outside_its_range_is_refused(smoothing):
    with pytest.raises(ValueError, match="label_smoothing"):
        CrossEntropy(smoothing)


def test_what_gives_no_logit_a_class_is_refused():
    with pytest.raises(ValueError, match="16 numbers for 5 classes"):
        CrossEntropy().connect(16, 5)
    with pytest.raises(ValueError, match="no labels"):
        CrossEntropy().connect(5, None)
    with pytest.raises(ValueError, match="2 or more"):
        CrossEntropy().connect(1, 1)
    with pytest.raises(ValueError, match="call connect"):
        CrossEntropy()(logits(), targets("hard"))
    with pytest.raises(ValueError, match="have 4"):
        connected()(logits()[:, :4], targets("hard"))


def test_losses_of_losses_read_logits_or_embeddings_not_both():
    assert Sum([CrossEntropy(), CrossEntropy(0.5)]).reads_logits
    assert not Sum([SupCon(), Circle()]).reads_logits
    with pytest.raises(ValueError, match="CrossEntropy logits, SupCon one vector"):
        Sum([CrossEntropy(), SupCon()])
    with pytest.raises(ValueError, match="2 numbers for 5 classes"):
        Matryoshka(CrossEntropy(), dims=[2, 5]).connect(5, 5)
