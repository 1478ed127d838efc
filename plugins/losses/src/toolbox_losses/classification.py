"""What losses with learned class vectors share: checks of classes and labels, and the rows to classify."""

from __future__ import annotations

import torch
from torch import Tensor, nn


def check_classes(name: str, classes: int | None) -> int:
    """The number of classes to learn vectors for. Raises ValueError when it is unknown, or below 2."""
    if classes is None:
        raise ValueError(
            f"{name} learns vectors for the training classes, and this dataset has no labels: use a labelled dataset, "
            "or a loss that compares pairs, such as losses.InfoNCE"
        )
    if classes < 2:
        raise ValueError(f"{name} tells classes apart, and this dataset has {classes}: use one with 2 or more")
    return classes


def require_class_vectors(name: str, weight: nn.Parameter | None) -> nn.Parameter:
    """`weight` itself. Raises ValueError where `connect` has not created it."""
    if weight is None:
        raise ValueError(f"{name} has no class vectors yet: call connect(dim, classes) before the first batch")
    return weight


def select_labelled_rows(
    name: str,
    weight: Tensor,
    embeddings: Tensor,
    labels: Tensor,
    ref_embeddings: Tensor | None,
    ref_labels: Tensor | None,
) -> tuple[Tensor, Tensor]:
    """All rows to classify, (B + R, D), and the index of the class of each, (B + R,) int64.

    - `weight`: the class vectors, (classes, ..., D).

    Raises ValueError when these are of another width, or when labels are not indices of classes.
    The range of labels is checked on the CPU only, where that waits for nothing; on an accelerator the indexing of
    the caller fails with the device's own message.
    """
    if ref_embeddings is not None and ref_labels is not None:
        embeddings, labels = torch.cat([embeddings, ref_embeddings]), torch.cat([labels, ref_labels])
    if embeddings.shape[1] != weight.shape[-1]:
        raise ValueError(
            f"{name} was connected to embeddings of width {weight.shape[-1]}, and these have {embeddings.shape[1]}"
        )
    return embeddings, check_labels(name, labels, embeddings, len(weight))


def check_labels(name: str, labels: Tensor, rows: Tensor, classes: int) -> Tensor:
    """The labels of `rows` in int64. Raises ValueError as `select_labelled_rows` does."""
    if labels.shape != rows.shape[:1]:
        raise ValueError(
            f"{name} takes one label for each of the {len(rows)} embeddings, not labels of shape {tuple(labels.shape)}"
        )
    if labels.is_floating_point() or labels.dtype == torch.bool:
        raise ValueError(f"{name} needs labels that are integers, not {labels.dtype}")
    if labels.device.type == "cpu" and len(labels):
        low, high = int(labels.min()), int(labels.max())
        if low < 0 or high >= classes:
            raise ValueError(
                f"{name} has {classes} classes, so labels are 0 to {classes - 1}, and this batch has the label "
                f"{low if low < 0 else high}: labels must be indices into the classes of the training dataset"
            )
    return labels.long()


def mark_classes(labels: Tensor, classes: int) -> Tensor:
    """(N,) -> (N, classes): True at the class of each row. A label that is no class fails on every device."""
    mask = torch.zeros(len(labels), classes, dtype=torch.bool, device=labels.device)
    return mask.scatter_(1, labels[:, None], True)
