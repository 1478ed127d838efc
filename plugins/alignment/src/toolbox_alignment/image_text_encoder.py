"""What users get of a dual encoder: embeddings of images and texts in one space, and classes by their names."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from toolbox.plugin import ToolboxError
from toolbox.utils.encoder import Encoder
from toolbox_alignment.dual_encoder import list_scales
from toolbox_alignment.prompts import DEFAULT_PROMPTS, average_prompts, check_prompts, make_prompts


class ImageTextEncoder(Encoder):
    """A dual encoder: `encode_image` and `encode_text` give vectors whose cosines say what belongs together."""

    def classify(
        self,
        images: Any,
        names: Sequence[str],
        *,
        prompts: Sequence[str] = DEFAULT_PROMPTS,
        top: int = 5,
        batch_size: int = 64,
        progress: bool = False,
    ) -> list[list[tuple[str, float]]]:
        """The most probable of named classes for each image, in order: `top` pairs (name, probability), best first.

        - `images`, `batch_size`, `progress`: as of `encode_image`.
        - `names`: of two classes or more, which training need not have known.
        - `prompts`: texts with a `{}` for the name; several are averaged.
        - `top`: how many classes; all of them where there are fewer.

        Probabilities are the softmax of the cosines times the scale that the loss has learned (its mean over pairs of
        towers). Raises ToolboxError for fewer than two names, empty or equal ones, prompts without `{}`, a `top` below
        1, and a model whose loss has no scale, of which cosines of the embeddings tell all there is.
        """
        names = list(names) if not isinstance(names, str) else []
        if len(names) < 2 or not all(isinstance(name, str) and name.strip() for name in names):
            raise ToolboxError("classify takes the names of two classes or more, each a text.")
        if len(set(names)) < len(names):
            raise ToolboxError("classify takes names that differ.", hint="Remove the repeated ones.")
        if top < 1:
            raise ToolboxError(f"classify takes a top from 1 up, not {top}.")
        try:
            prompts = check_prompts(prompts)
        except ValueError as error:
            raise ToolboxError(str(error)) from error
        scale = self._read_scale()
        texts = self.encode_text(make_prompts(names, prompts), batch_size=batch_size)
        prototypes = average_prompts(texts, len(prompts))
        rows = self.encode_image(images, batch_size=batch_size, progress=progress)
        ranked = (scale * rows @ prototypes.T).softmax(dim=1).sort(dim=1, descending=True, stable=True)
        return [
            [(names[place], probability) for place, probability in zip(places[:top], values[:top], strict=True)]
            for places, values in zip(ranked.indices.tolist(), ranked.values.tolist(), strict=True)
        ]

    def _read_scale(self) -> Tensor:
        """What cosines are multiplied by: the learned scale of the loss."""
        scales = list_scales(self.model)
        if self.mode != "predict" or not scales:
            raise ToolboxError(
                "This model has no learned scale that would make probabilities of cosines.",
                hint="Compare encode_image(...) with encode_text(...) by their product.",
            )
        return torch.stack([scale.float().cpu().reshape(()) for scale in scales]).mean()
