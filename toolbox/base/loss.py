"""The extension point for losses over embeddings: of the whole batch, or row by row."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Any, final

from torch import Tensor, nn

from toolbox.base.functional import without_autocast
from toolbox.base.loss_rows import average_local_rows, gather_all, gather_refs


class Loss(nn.Module, ABC):
    """A loss over the whole batch of all processes. Write `compute`; `forward` prepares its arguments.

        class Pull(Loss):
            def compute(self, embeddings, labels, ref_embeddings, ref_labels):
                same = labels[:, None] == ref_labels[None]
                return -(embeddings @ ref_embeddings.T)[same].mean()

    Parameters of a loss are trained, saved and resumed like any other part.

    - `needs_labels`: whether `compute` must be given labels; checked before it is called.
    - `needs_teacher`: whether it compares with a teacher's embeddings: `compute` then takes the two arguments
      `teacher` (B, T) and `ref_teacher` (R, T) more, rows aligned with those of the embeddings.
    - `reads_tokens`: whether an embedding is a set of N token vectors, (B, N, D), instead of one vector. A token of
      zeros is padding.
    - `gathers`: whether it compares rows, so that `compute` must see those of all processes. False for a mean over rows
      that each have a term of their own, such as a classifier's: `compute` then sees this process's rows, and value and
      averaged gradients are still those of the whole batch. Terms of unequal weight: `weigh`.
    - `reads_logits`: whether an embedding is the logits of a classifier, (B, classes): `connect` is given as many for
      `dim`, and `labels` may also be soft targets, (B, classes) shares of at least 0 that add up to 1.
    """

    needs_labels: bool = True
    needs_teacher: bool = False
    reads_tokens: bool = False
    reads_logits: bool = False
    gathers: bool = True

    def connect(self, dim: int, classes: int | None = None) -> None:
        """Create parameters that depend on the embedding width `dim` or on the number of `classes`.

        Raises ValueError for settings that do not fit them.
        """

    def check_teacher(self, dim: int, teacher_dim: int) -> None:
        """Raise ValueError where a teacher's embeddings of width `teacher_dim` cannot teach ones of width `dim`.

        Called before a run starts, for losses that need a teacher.
        """

    def weigh(
        self, embeddings: Tensor, labels: Any, ref_embeddings: Tensor | None, ref_labels: Tensor | None
    ) -> Tensor | int:
        """By what `compute` divides the sum of its terms: the number of rows, those of a second view included.

        Asked where `gathers` is False. Override it where rows are left out (a scalar tensor of how many remain, without
        reading it) or have weights (their sum); `compute` must be finite where it is 0.
        """
        return len(embeddings) + (0 if ref_embeddings is None else len(ref_embeddings))

    def chance_level(self, rows: int) -> float | None:
        """Its value where nothing tells the rows of a batch of `rows` apart, for logs; None where nobody knows it."""
        return None

    def after_step(self) -> None:
        """Called after every update: the place to clamp a learned scale."""

    @abstractmethod
    def compute(
        self, embeddings: Tensor, labels: Any, ref_embeddings: Tensor | None, ref_labels: Tensor | None
    ) -> Tensor:
        """The scalar loss, in float32 or float64, without autocast.

        - `embeddings`: (B, D), not necessarily normalised.
        - `labels`: (B,) integers, or soft targets of a loss that `reads_logits`: annotate `Tensor`. A loss that sets
          `needs_labels = False` may also get None: `Tensor | None`.
        - `ref_embeddings`: (R, D) to compare with; None to compare the embeddings among themselves, self pairs left
          out. Without labels, row i below B is a second view of embedding i, and rows from B on are explicit
          negatives of every embedding.
        - `ref_labels`: (R,) integers or None.
        """

    @final  # type: ignore[misc]  # torch declares `forward` as an attribute
    def forward(
        self,
        embeddings: Tensor,
        labels: Tensor | None = None,
        *,
        ref_embeddings: Tensor | None = None,
        ref_labels: Tensor | None = None,
        teacher: Tensor | None = None,
        ref_teacher: Tensor | None = None,
    ) -> Tensor:
        """Promote to at least float32, gather over processes with gradient, compute. Returns a scalar.

        It is the same in all processes; its gradients, averaged over them, are those of the whole batch.
        """
        name = type(self).__name__
        if self.needs_labels and labels is None:
            raise ValueError(f"{name} needs labels, and this batch has none")
        if self.needs_teacher and teacher is None:
            raise ValueError(f"{name} needs a teacher's embeddings, and there is no teacher")
        if embeddings.ndim != (3 if self.reads_tokens else 2):
            what = "token embeddings (B, N, D)" if self.reads_tokens else "one embedding an item (B, D)"
            raise ValueError(f"{name} reads {what}, not {tuple(embeddings.shape)}")
        if ref_embeddings is not None and (labels is None) != (ref_labels is None):
            raise ValueError("labels and ref_labels go together: give both or neither")
        if not self.gathers:
            return average_local_rows(self, embeddings, labels, ref_embeddings, ref_labels, teacher, ref_teacher)
        extra = {"teacher": gather_all(teacher), "ref_teacher": gather_refs(ref_teacher, len(embeddings))}
        with without_autocast(embeddings.device):
            return self.compute(
                gather_all(embeddings),
                gather_all(labels),
                gather_refs(ref_embeddings, len(embeddings)),
                gather_refs(ref_labels, len(embeddings)),
                **(extra if self.needs_teacher else {}),
            )
