"""The likeliest classes of items, by the logits that a model gives."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor

from toolbox.errors import ToolboxError, format_command
from toolbox.utils.model_io import require_finite


def list_top_classes(
    outputs: dict[str, Tensor], top: int, ids: Sequence[int | str], names: Sequence[str] | None
) -> list[list[tuple[str, float]]]:
    """(name, probability) of the `top` likeliest classes of each item, best first; arguments as of `rank_classes`.

    Names are numbers where there are none.
    """
    labels, scores = rank_classes(outputs, top, ids, names)
    return [
        [(str(label) if names is None else names[label], score) for label, score in zip(*row, strict=True)]
        for row in zip(labels.tolist(), scores.tolist(), strict=True)
    ]


def rank_classes(
    outputs: dict[str, Tensor], top: int, ids: Sequence[int | str], names: Sequence[str] | None = None
) -> tuple[Tensor, Tensor]:
    """The `top` likeliest classes of a batch, all where there are fewer; of equal ones the first.

    - `ids`: of the items, for messages; `names`: of the classes, to be held against the model's outputs.

    Returns (B, K) numbers of classes, best first, and their (B, K) softmax probabilities, float32, on the CPU. Raises
    ToolboxError for outputs without logits, logits that are not finite, and another number of names.
    """
    logits = outputs.get("logits")
    if logits is None or logits.ndim != 2:
        raise ToolboxError(
            f"This model gives no logits, but {', '.join(outputs) or 'nothing'}: it does not classify.",
            hint=f"Use a checkpoint of a classifier. {format_command('embed')} writes embeddings.",
        )
    if names is not None and len(names) != logits.shape[1]:
        raise ToolboxError(f"The checkpoint names {len(names)} classes, and its model tells {logits.shape[1]} apart.")
    scores = logits.float().softmax(dim=1)
    require_finite(scores, "Logits", ids)
    ranked = scores.sort(dim=1, descending=True, stable=True)
    return ranked.indices[:, :top].cpu(), ranked.values[:, :top].cpu()
