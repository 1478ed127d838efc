"""What users get of a model that classifies images: its classes, by probability."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from torch import Tensor

from toolbox.plugin import ToolboxError, command_line
from toolbox.utils.encoder import Encoder
from toolbox.utils.model_io import require_finite


class ImageClassifier(Encoder):
    """A model that classifies images and, like any encoder, gives their embeddings."""

    def classify(
        self, images: Any, *, top: int = 5, batch_size: int = 64, progress: bool = False
    ) -> list[list[tuple[str, float]]]:
        """The likeliest classes of each image, in the order given: `top` pairs (name, probability), best first.

        - `images`, `batch_size`, `progress`: as of `encode_image`.
        - `top`: how many classes, all of them where there are fewer.

        Probabilities are the softmax of the logits. Names are numbers where the checkpoint holds none. Raises OSError
        naming a file that cannot be read, ToolboxError for a model that gives no logits, or logits that are not finite.
        """
        if top < 1:
            raise ToolboxError(f"classify takes a top from 1 up, not {top}.")
        rows: list[list[tuple[str, float]]] = []
        for outputs in self.run_over_images(images, batch_size=batch_size, progress=progress):
            ids = range(len(rows), len(rows) + len(next(iter(outputs.values()))))
            rows += top_classes(outputs, top, ids, self.classes)
        return rows


def top_classes(
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
            hint=f"Use a checkpoint of a classifier. {command_line('embed')} writes embeddings.",
        )
    if names is not None and len(names) != logits.shape[1]:
        raise ToolboxError(f"The checkpoint names {len(names)} classes, and its model tells {logits.shape[1]} apart.")
    scores = logits.float().softmax(dim=1)
    require_finite(scores, "Logits", ids)
    ranked = scores.sort(dim=1, descending=True, stable=True)
    return ranked.indices[:, :top].cpu(), ranked.values[:, :top].cpu()
