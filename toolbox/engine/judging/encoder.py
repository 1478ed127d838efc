"""A trained model from a checkpoint, ready to encode and to classify."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import torch
from PIL import Image
from torch import Tensor

from toolbox.base import read_image
from toolbox.base.images import to_rgb, upright
from toolbox.engine.assemble import build_model
from toolbox.engine.device import choose_device, limit_images
from toolbox.engine.judging.classify import likeliest
from toolbox.engine.judging.each import check_reads_images
from toolbox.engine.judging.embed import unit_rows
from toolbox.engine.precision import eval_precision
from toolbox.engine.reading.batches import ready
from toolbox.engine.reading.fetch import inputs_of
from toolbox.engine.saving import checkpoint as checkpoints
from toolbox.errors import ToolboxError


class Encoder:
    """A trained model, ready to encode and, if it can, to classify.

    - `checkpoint`: what `checkpoint.read` returned.
    - `device`: "auto", "cpu", "cuda:1" ...
    - `recipe`: the recipe to build the model from; default: the one in the checkpoint.
    - `precision`: "fp32", "bf16" or "fp16"; default: that in which the run was evaluated.
    """

    def __init__(
        self, checkpoint: checkpoints.Checkpoint, recipe: dict[str, Any] | None = None, *, device: str = "auto",
        precision: str | None = None,
    ) -> None:  # fmt: skip
        found = checkpoint
        self.recipe = recipe or found.manifest["recipe"]
        self.identity = {"step": found.step, "files": found.manifest["files"], "frozen": found.manifest["frozen"]}
        self.device = choose_device(device)
        self.precision = eval_precision(self.recipe, self.device, precision)
        limit_images(self.recipe)
        self.class_names = found.class_names()
        classes = found.manifest["classes"]
        self.model = build_model(self.recipe, seed=0, classes=classes, checkpoint=found, training=False)
        self.model.to(torch.device(str(self.device))).eval()
        self.inputs = inputs_of(self.model)

    def encode_image(self, images: Any, *, batch_size: int = 64) -> Tensor:
        """Embeddings (N, D), of length 1, float32, on the CPU, in the order given.

        - `images`: PIL images or paths, or one of them (N = 1).
        - `batch_size`: images at a time.

        Raises OSError naming a file that cannot be read.
        """
        found: list[Tensor] = []
        for outputs in self._outputs(images, batch_size):
            start = sum(map(len, found))
            found.append(unit_rows(outputs, range(start, start + len(next(iter(outputs.values()))))))
        return torch.cat(found)

    def classify(self, images: Any, *, top: int = 5, batch_size: int = 64) -> list[list[tuple[str, float]]]:
        """The likeliest classes of each image, in the order given: `top` pairs (name, probability), best first.

        - `images`, `batch_size`: as of `encode_image`.
        - `top`: how many classes, all of them where there are fewer.

        Probabilities are the softmax of the logits. Names are numbers where the checkpoint holds none. Raises OSError
        naming a file that cannot be read, ToolboxError for a model that gives no logits, or logits that are not finite.
        """
        if top < 1:
            raise ToolboxError(f"classify takes a top from 1 up, not {top}.")
        found = []
        for outputs in self._outputs(images, batch_size):
            names = range(len(found), len(found) + len(next(iter(outputs.values()))))
            likely = likeliest(outputs, top, names, self.class_names)
            found += [[(self.name_of(label), score) for label, score in row] for row in likely.rows()]
        return found

    def name_of(self, label: int) -> str:
        """The name of a class, its number where the checkpoint holds none."""
        return self.class_names[label] if self.class_names is not None else str(label)

    def _outputs(self, images: Any, batch_size: int) -> Iterator[dict[str, Tensor]]:
        """What the model gives of each batch of images."""
        listed = [images] if isinstance(images, str | Path | Image.Image) else list(images)
        wrong = [image for image in listed if not isinstance(image, str | Path | Image.Image)]
        if wrong or not listed or batch_size < 1:
            what = f"a {type(wrong[0]).__name__}" if wrong else "nothing" if not listed else f"batch_size={batch_size}"
            raise ToolboxError(f"An encoder takes paths or PIL images, and a batch_size from 1 up, not {what}.")
        check_reads_images(self.inputs)
        with ThreadPoolExecutor() as pool:
            for start in range(0, len(listed), batch_size):
                pictures = list(pool.map(_picture, listed[start : start + batch_size]))
                inputs = {
                    name: source.preprocess.collate([source.preprocess(picture) for picture in pictures])
                    for name, source in self.inputs.items()
                }
                views = dict.fromkeys(inputs, 1)
                device = torch.device(str(self.device))
                batch = ready({"inputs": inputs, "labels": None, "views": views, "blocks": 1}, self.inputs, device)
                with torch.inference_mode(), self.precision.autocast():
                    outputs = self.model(batch, "predict")
                yield outputs


def _picture(image: Any) -> Image.Image:
    return to_rgb(upright(image)) if isinstance(image, Image.Image) else read_image(image)
