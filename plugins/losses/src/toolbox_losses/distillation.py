"""Learning a teacher's similarities, or its embeddings."""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor

from toolbox.base import Loss
from toolbox_losses.pairs import check_temperature, normalize_vectors, normalize_views


class Distillation(Loss):
    """The embeddings should be as similar to each other as a teacher's are; the teacher gets no gradient.

    S is the matrix of cosines of embeddings with the second view, or among themselves without the diagonal; S' is the
    same of the teacher, whose embeddings may have any width.

    - `kind`: "kl": T^2 times the mean over rows of KL(softmax(S'/T) || softmax(S/T)). "mse": the mean of
      (S' - S)^2. "embedding": the mean over all embeddings of 1 - cos(embedding, teacher's embedding), half the
      squared distance of the two unit vectors, for a teacher of the same width.
    - `temperature`: T of "kl"; below 1 the nearest neighbours count most, as cosines differ by little. 1 is the
      usual definition, 0.05 to 0.2 what similarity matrices ask for.

    Needs no labels; it is often added to a loss that does, by `losses.Sum`. Exactly 0 where there is nothing to
    compare. Sources: Hinton et al., "Distilling the Knowledge in a Neural Network", 2015 (T^2); Park et al.,
    "Relational Knowledge Distillation", 2019. Raises ValueError for an unknown kind, a temperature that is not
    positive, and when rows, or for "embedding" widths, of teacher and student differ.
    """

    needs_labels = False
    needs_teacher = True

    def __init__(self, kind: Literal["kl", "mse", "embedding"] = "kl", temperature: float = 1.0):
        super().__init__()
        if kind not in ("kl", "mse", "embedding"):
            raise ValueError(f"kind must be 'kl', 'mse' or 'embedding', not {kind!r}")
        self.kind, self.temperature = kind, check_temperature(temperature)
        self.gathers = kind != "embedding"  # which compares no row with another

    def check_teacher(self, dim: int, teacher_dim: int) -> None:
        if self.kind == "embedding" and dim != teacher_dim:
            raise ValueError(
                f"kind='embedding' compares embeddings of one width, but the student's have {dim} and the teacher's "
                f"{teacher_dim}: give the student a head of {teacher_dim}, or use kind='kl'"
            )

    def compute(
        self,
        embeddings: Tensor,
        labels: Tensor | None,
        ref_embeddings: Tensor | None,
        ref_labels: Tensor | None,
        teacher: Tensor | None = None,
        ref_teacher: Tensor | None = None,
    ) -> Tensor:
        teacher = _check_rows("embeddings", embeddings, teacher).detach().to(embeddings.dtype)
        if ref_embeddings is None:
            ref_teacher = None
        else:
            ref_teacher = _check_rows("rows of the second view", ref_embeddings, ref_teacher)
            ref_teacher = ref_teacher.detach().to(embeddings.dtype)
        self.check_teacher(embeddings.shape[1], teacher.shape[1])
        if self.kind == "embedding":
            student, target = _concat(embeddings, ref_embeddings), _concat(teacher, ref_teacher)
            return (1 - (normalize_vectors(student) * normalize_vectors(target)).sum(dim=1)).mean()
        anchors, candidates = normalize_views(embeddings, ref_embeddings)
        teacher_anchors, teacher_candidates = normalize_views(teacher, ref_teacher)
        scores, targets = anchors @ candidates.T, teacher_anchors @ teacher_candidates.T
        kept = torch.ones_like(scores, dtype=torch.bool)
        if ref_embeddings is None:
            kept.fill_diagonal_(False)
        if self.kind == "mse":
            return torch.where(kept, scores - targets, 0).square().sum() / kept.sum().clamp(min=1)
        lowest = torch.finfo(scores.dtype).min
        student, target = ((x / self.temperature).masked_fill(~kept, lowest).log_softmax(1) for x in (scores, targets))
        divergence = torch.where(kept, target.exp() * (target - student), 0).sum()
        return self.temperature**2 * divergence / len(embeddings)


def _check_rows(what: str, student: Tensor, teacher: Tensor | None) -> Tensor:
    """The teacher's rows. Raises ValueError unless there is one for each of the student's."""
    if teacher is not None and teacher.ndim != 2:
        raise ValueError(f"a teacher gives one embedding an item (B, D), not {tuple(teacher.shape)}: pool its tokens")
    if teacher is None or len(teacher) != len(student):
        rows = "none" if teacher is None else str(len(teacher))
        raise ValueError(f"a teacher's embedding belongs to each of the {len(student)} {what}, but there are {rows}")
    return teacher


def _concat(rows: Tensor, more: Tensor | None) -> Tensor:
    return rows if more is None else torch.cat([rows, more])
