"""What losses that are made of other losses share."""

from __future__ import annotations

import math
from collections.abc import Iterable

from torch import Tensor, nn

from toolbox.base import Loss


class CombinedLoss(Loss):
    """The base of weighted sums of losses: it needs what one of them needs, and they are given the same rows.

    - `losses`: the parts; `what`: what `weights` are of, for messages.

    Raises ValueError for weights that do not fit, and when only some of the parts read tokens, or logits.
    """

    def __init__(self, losses: Iterable[Loss], weights: list[float] | None, what: str):
        super().__init__()
        self.losses = nn.ModuleList(losses)
        parts = list_losses(self.losses)
        self.weights = check_weights(weights, len(parts), what)
        self.needs_labels = any(part.needs_labels for part in parts)
        self.needs_teacher = any(part.needs_teacher for part in parts)
        self.reads_tokens = any(part.reads_tokens for part in parts)
        self.reads_logits = any(part.reads_logits for part in parts)
        # means over the same rows add up; those with weights of their own need not be over the same
        self.gathers = any(part.gathers or type(part).weigh is not Loss.weigh for part in parts)
        kinds = ["sets of tokens" if p.reads_tokens else "logits" if p.reads_logits else "one vector" for p in parts]
        if len(set(kinds)) > 1:
            described = ", ".join(f"{type(part).__name__} {kind}" for part, kind in zip(parts, kinds, strict=True))
            raise ValueError(f"the losses read different embeddings of an item: {described}")

    def list_widths(self, dim: int) -> list[int]:
        """How many of the `dim` components of an embedding each part reads, the first ones."""
        return [dim] * len(self.losses)

    def connect(self, dim: int, classes: int | None = None) -> None:
        for loss, width in zip(list_losses(self.losses), self.list_widths(dim), strict=True):
            loss.connect(width, classes)

    def check_teacher(self, dim: int, teacher_dim: int) -> None:
        for loss, width in zip(list_losses(self.losses), self.list_widths(dim), strict=True):
            loss.check_teacher(width, teacher_dim)

    def chance_level(self, rows: int) -> float | None:
        levels = [part.chance_level(rows) for part in list_losses(self.losses)]
        known = [level for level in levels if level is not None]
        if len(known) < len(levels):
            return None
        return sum(weight * level for weight, level in zip(self.weights, known, strict=True))

    def compute(
        self,
        embeddings: Tensor,
        labels: Tensor | None,
        ref_embeddings: Tensor | None,
        ref_labels: Tensor | None,
        teacher: Tensor | None = None,
        ref_teacher: Tensor | None = None,
    ) -> Tensor:
        values = []
        widths = self.list_widths(embeddings.shape[-1])
        for loss, width, weight in zip(list_losses(self.losses), widths, self.weights, strict=True):
            refs = None if ref_embeddings is None else ref_embeddings[..., :width]
            extra = {"teacher": teacher, "ref_teacher": ref_teacher} if loss.needs_teacher else {}
            values.append(weight * loss.compute(embeddings[..., :width], labels, refs, ref_labels, **extra))
        return sum(values[1:], start=values[0])


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


def list_losses(modules: Iterable[nn.Module]) -> list[Loss]:
    """The losses among modules."""
    return [module for module in modules if isinstance(module, Loss)]


def list_leaves(loss: nn.Module) -> list[Loss]:
    """The losses in `loss`, itself included, that are made of no other."""
    return [part for part in list_losses(loss.modules()) if len(list_losses(part.modules())) == 1]
