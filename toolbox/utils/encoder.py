"""What users get of a model that gives embeddings of images or texts; the default of `Model.user_class`."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import cached_property
from typing import Any

import torch
from PIL import Image
from torch import Tensor

from toolbox.base import Dataset, LoadedModel
from toolbox.utils.image_list import ImageList
from toolbox.utils.model_io import check_reads_alone, get_unit_embeddings, list_input_modalities
from toolbox.utils.text_list import TextList


class Encoder(LoadedModel):
    """A model that encodes images, texts, or both."""

    def describe(self) -> dict[str, Any]:
        backbones = {id(part): part for part in self.model.inputs.values()}.values()
        listed = ", ".join(f"{type(part).__name__} {part.weights_id or ''}".strip() for part in backbones)
        facts = super().describe()
        return {"encoder": listed or facts.pop("model"), "dim": self.dim} | facts

    @cached_property
    def dim(self) -> int | None:
        """The width of an embedding; None for a model that gives none, or cannot be given images or texts alone."""
        modalities = set(list_input_modalities(self.model).values())
        if len(modalities) != 1 and not self.model.reads_modalities_alone:
            return None
        is_image = "image" in modalities
        example: Dataset = ImageList(Image.new("RGB", (32, 32))) if is_image else TextList("a")
        outputs = next(self.run(example, batch_size=1, modality="image" if is_image else "text"))
        return outputs["embeddings"].shape[-1] if "embeddings" in outputs else None

    def encode_image(self, images: Any, *, batch_size: int = 64, progress: bool = False) -> Tensor:
        """Embeddings (N, D), of length 1, float32, on the CPU, in the order given.

        - `images`: paths, PIL images, NumPy arrays (H, W, 3) or (H, W), or tensors (3, H, W), of uint8, from 0 to 255;
          a list of them, which may be mixed, or one of them (N = 1); an array or tensor with an axis more is N images.
        - `batch_size`: images at a time. The last bits of an embedding depend on it.
        - `progress`: show a bar.

        Raises OSError naming a file that cannot be read, ToolboxError for other values and for an empty list.
        """
        rows: list[Tensor] = []
        for outputs in self.run_over_images(images, batch_size=batch_size, progress=progress):
            start = sum(map(len, rows))
            rows.append(get_unit_embeddings(outputs, range(start, start + len(next(iter(outputs.values()))))))
        return torch.cat(rows)

    def run_over_images(
        self, images: Any, *, batch_size: int = 64, progress: bool = False
    ) -> Iterator[dict[str, Tensor]]:
        """`run` over images as `encode_image` takes them; ToolboxError for a model that reads no images alone."""
        dataset = ImageList(images)
        check_reads_alone(self.model, "image")
        return self.run(dataset, batch_size=batch_size, progress=progress, modality="image")

    def encode_text(self, texts: str | Sequence[str], *, batch_size: int = 64, progress: bool = False) -> Tensor:
        """Embeddings (N, D) of texts, of length 1, float32, on the CPU, in the order given.

        - `texts`: a list of them, or one (N = 1); `batch_size`, `progress`: as of `encode_image`.

        Raises ToolboxError for what is no text, an empty text or list, and a model that reads no texts.
        """
        dataset = TextList(texts)
        rows: list[Tensor] = []
        check_reads_alone(self.model, "text")
        for outputs in self.run(dataset, batch_size=batch_size, progress=progress, modality="text"):
            start = sum(map(len, rows))
            rows.append(get_unit_embeddings(outputs, range(start, len(dataset)), modality="text"))
        return torch.cat(rows)
