"""Which classes are held out of training."""

from __future__ import annotations

from collections.abc import Sequence

from toolbox.base import split_by_hash

LEAST = 2
"""Classes of a split: with one alone every neighbour is right, and there is nothing to tell apart."""


def require_share(name: str, share: float) -> None:
    """Raise ValueError unless 0 < `share` < 1."""
    if not 0 < share < 1:
        raise ValueError(f"{name} must lie between 0 and 1 (0.1 holds out a tenth of the classes), not {share}")


def carve_classes(classes: Sequence[object], share: float, split: str, source: object) -> list[int]:
    """Indices of the classes of the split "train" or "val"; "val" gets about `share` of them, as of `split_by_hash`.

    - `classes`: their names or numbers; `source`: what they were read from, for the message.

    Raises ValueError if there are fewer than two classes for each.
    """
    if len(classes) < 2 * LEAST:
        raise ValueError(
            f"{source}: 'train' and 'val' share no class and take {LEAST} each, and there are {len(classes)}: use "
            "another split, or more data"
        )
    return split_by_hash([str(name) for name in classes], val_share=share, least=LEAST)[split].tolist()
