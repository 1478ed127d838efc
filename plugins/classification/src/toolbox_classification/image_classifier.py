"""The user class of models that classify images: the most probable classes of each image."""

from __future__ import annotations

from typing import Any

from toolbox.plugin import ToolboxError
from toolbox.utils.encoder import Encoder
from toolbox.utils.top_classes import list_top_classes


class ImageClassifier(Encoder):
    """A model that classifies images and, like any encoder, gives their embeddings."""

    def classify(
        self, images: Any, *, top: int = 5, batch_size: int = 64, progress: bool = False
    ) -> list[list[tuple[str, float]]]:
        """The most probable classes of each image, in order: `top` pairs (name, probability), best first.

        - `images`, `batch_size`, `progress`: as of `encode_image`.
        - `top`: how many classes; all of them where there are fewer.

        Probabilities are the softmax of the logits. Names are numbers where the checkpoint has no names. Raises OSError
        with the name of a file that cannot be read, and ToolboxError for a model that gives no logits, or logits that
        are not finite.
        """
        if top < 1:
            raise ToolboxError(f"classify takes a top from 1 up, not {top}.")
        rows: list[list[tuple[str, float]]] = []
        for outputs in self.run_over_images(images, batch_size=batch_size, progress=progress):
            ids = range(len(rows), len(rows) + len(next(iter(outputs.values()))))
            rows += list_top_classes(outputs, top, ids, self.classes)
        return rows
