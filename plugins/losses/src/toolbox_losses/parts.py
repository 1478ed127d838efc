"""What losses that are made of other losses share."""

from __future__ import annotations

import math
from collections.abc import Iterable

from torch import Tensor, nn

from toolbox.base import Loss


def take_over_needs(loss: Loss, parts: Iterable[Loss]) -> None:
    """Give `loss` the needs of its parts. Raises ValueError when only some of them read tokens, or logits."""
    parts = list(parts)
    loss.needs_labels = any(part.needs_labels for part in parts)
    loss.needs_teacher = any(part.needs_teacher for part in parts)
    loss.reads_tokens = any(part.reads_tokens for part in parts)
    loss.reads_logits = any(part.reads_logits for part in parts)
    # means over the same rows add up; those with weights of their own need not be over the same
    loss.gathers = any(part.gathers or type(part).weigh is not Loss.weigh for part in parts)
    read = {"sets of tokens": "reads_tokens", "logits": "reads_logits"}
    if not all(getattr(part, key) == getattr(loss, key) for part in parts for key in read.values()):
        what = [next((what for what, key in read.items() if getattr(part, key)), "one vector") for part in parts]
        kinds = [f"{type(part).__name__} {name}" for part, name in zip(parts, what, strict=True)]
        raise ValueError(f"the losses read different embeddings of an item: {', '.join(kinds)}")


def check_loss_object(value: Loss, name: str) -> None:
    """Raise ValueError unless it is a loss."""
    if not isinstance(value, Loss):
        raise ValueError(f"{name} must be a loss, e.g. dict(type='losses.SupCon'), not {value!r}")


def check_weights(weights: Iterable[float] | None, count: int, what: str) -> list[float]:
    """The weights, 1 each for None. Raises ValueError unless there are `count` of them, 0 or more and not all 0."""
    values = [1.0] * count if weights is None else [float(weight) for weight in weights]
    if len(values) != count:
        raise ValueError(f"weights must hold one number for each of the {count} {what}, not {len(values)}: {values}")
    if not all(weight >= 0 and math.isfinite(weight) for weight in values) or not any(values):
        raise ValueError(f"weights must be 0 or more, and not all 0, not {values}")
    return values


def compute_part(
    loss: Loss,
    embeddings: Tensor,
    labels: Tensor | None,
    ref_embeddings: Tensor | None,
    ref_labels: Tensor | None,
    teacher: Tensor | None,
    ref_teacher: Tensor | None,
) -> Tensor:
    """`compute` of a part: its arguments are gathered and promoted already."""
    extra = {"teacher": teacher, "ref_teacher": ref_teacher} if loss.needs_teacher else {}
    return loss.compute(embeddings, labels, ref_embeddings, ref_labels, **extra)


def list_losses(modules: Iterable[nn.Module]) -> list[Loss]:
    """The losses among modules."""
    return [module for module in modules if isinstance(module, Loss)]


def list_leaves(loss: nn.Module) -> list[Loss]:
    """The losses in `loss`, itself included, that are made of no other."""
    return [part for part in list_losses(loss.modules()) if len(list_losses(part.modules())) == 1]
