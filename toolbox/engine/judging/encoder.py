"""A model that encodes pictures and, where it is a classifier, tells their classes."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from toolbox.base import Model, read_image
from toolbox.base.images import to_rgb, upright
from toolbox.engine.judging.classify import likeliest
from toolbox.engine.judging.each import check_reads_images
from toolbox.engine.judging.embed import unit_rows
from toolbox.engine.parts import backbones
from toolbox.engine.precision import Precision
from toolbox.engine.reading.batches import ready
from toolbox.engine.reading.fetch import inputs_of
from toolbox.errors import ToolboxError
from toolbox.plugin import Device

_GIVE = "Give paths, PIL images, NumPy arrays (H, W, 3) or tensors (3, H, W) of uint8, or a list of them."


class Encoder:
    """A model that encodes pictures: what `toolbox.load` returns.

    - `model`: its weights in place, on its device; `recipe`: what it was built from.
    - `device`, `precision`: where and how it computes.
    - `told`: what it is, for people.
    - `mode`: "predict", or "baseline" for its backbone alone, without a head.
    - `classes`: the names of the classes that it was trained on, None where it has none, or nobody wrote them.
    - `step`: of its checkpoint, None for a backbone as it comes.
    - `identity`: step, files and frozen weights of its checkpoint, with their checksums; empty without one.
    """

    def __init__(
        self, model: Model, recipe: dict[str, Any], device: Device, precision: Precision, *, told: str,
        mode: str = "predict", classes: list[str] | None = None, step: int | None = None,
        identity: dict[str, Any] | None = None,
    ) -> None:  # fmt: skip
        self.model, self.recipe, self.device, self.precision = model.eval(), recipe, device, precision
        self.told, self.mode, self.step, self.identity = told, mode, step, identity or {}
        self.classes = classes
        self.inputs = inputs_of(model)

    def __repr__(self) -> str:
        encoders = {path: part for path, part in backbones(self.model).items() if part.modality == "image"}
        described = ", ".join(f"{type(part).__name__} {part.weights_id or ''}".strip() for part in encoders.values())
        facts = {
            "encoder": described or type(self.model).__name__, "dim": self.dim, "step": self.step,
            "classes": None if self.classes is None else len(self.classes), "device": str(self.device),
            "precision": self.precision.name,
        }  # fmt: skip
        shown = ", ".join(f"{name}={value}" for name, value in facts.items() if value is not None)
        return f"<Encoder {self.told}: {shown}>"

    @cached_property
    def dim(self) -> int | None:
        """The width of an embedding; None for a model that gives none, or reads more than images."""
        if len(self.inputs) != 1 or any(source.field != "image" for source in self.inputs.values()):
            return None
        outputs = next(self._outputs(Image.new("RGB", (32, 32)), 1))
        return outputs["embeddings"].shape[-1] if "embeddings" in outputs else None

    def encode_image(self, images: Any, *, batch_size: int = 64, progress: bool = False) -> Tensor:
        """Embeddings (N, D), of length 1, float32, on the CPU, in the order given.

        - `images`: paths, PIL images, NumPy arrays (H, W, 3) or (H, W), or tensors (3, H, W), of uint8, from 0 to 255;
          a list of them, which may be mixed, or one of them (N = 1); an array or tensor with an axis more is N images.
        - `batch_size`: images at a time. The last bits of an embedding depend on it.
        - `progress`: show a bar.

        Raises OSError naming a file that cannot be read, ToolboxError for other values and for an empty list.
        """
        found: list[Tensor] = []
        for outputs in self._outputs(images, batch_size, progress):
            start = sum(map(len, found))
            found.append(unit_rows(outputs, range(start, start + len(next(iter(outputs.values()))))))
        return torch.cat(found)

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
        found = []
        for outputs in self._outputs(images, batch_size, progress):
            names = range(len(found), len(found) + len(next(iter(outputs.values()))))
            likely = likeliest(outputs, top, names, self.classes)
            found += [[(self.name_of(label), score) for label, score in row] for row in likely.rows()]
        return found

    def name_of(self, label: int) -> str:
        """The name of a class, its number where the checkpoint holds none."""
        return self.classes[label] if self.classes is not None else str(label)

    def _outputs(self, images: Any, batch_size: int, progress: bool = False) -> Iterator[dict[str, Tensor]]:
        """What the model gives of each batch of images."""
        listed = _listed(images)
        if batch_size < 1:
            raise ToolboxError(f"batch_size is 1 or more, not {batch_size}.")
        check_reads_images(self.inputs)
        device = torch.device(str(self.device))
        with ExitStack() as ends:
            pool = ends.enter_context(ThreadPoolExecutor())
            bar = ends.enter_context(_bar(len(listed))) if progress else None
            for start in range(0, len(listed), batch_size):
                chunk = listed[start : start + batch_size]
                pictures = list(pool.map(_picture, chunk, range(start, start + len(chunk))))
                inputs = {
                    name: source.preprocess.collate([source.preprocess(picture) for picture in pictures])
                    for name, source in self.inputs.items()
                }
                views = dict.fromkeys(inputs, 1)
                batch = ready({"inputs": inputs, "labels": None, "views": views, "blocks": 1}, self.inputs, device)
                with torch.inference_mode(), self.precision.autocast():
                    outputs = self.model(batch, self.mode)
                yield outputs
                if bar is not None:
                    bar.update(len(chunk))


def _bar(total: int) -> Any:
    from tqdm.auto import tqdm  # which knows notebooks

    return tqdm(total=total, unit="image")


def _listed(images: Any) -> list[Any]:
    """Each image of what the user gave. Raises ToolboxError for nothing."""
    if isinstance(images, str | Path | Image.Image):
        return [images]
    if isinstance(images, np.ndarray | Tensor) and images.dtype in (np.uint8, torch.uint8):
        images = [images] if images.ndim <= 3 else images
    elif isinstance(images, dict) or not hasattr(images, "__iter__"):
        raise ToolboxError(f"A {type(images).__name__} is no image, and no list of images.", hint=_GIVE)
    listed = list(images)
    if not listed:
        raise ToolboxError("There are no images to encode: the list is empty.")
    return listed


def _picture(image: Any, place: int) -> Image.Image:
    """An image in RGB, as the user means it; `place`: in the list, for messages."""
    if isinstance(image, str | Path):
        path = Path(image).expanduser()
        if path.is_dir():
            raise ToolboxError(f"{path} is a folder, and an encoder takes images.", hint="List those in it: "
                               f"sorted(pathlib.Path({str(path)!r}).rglob('*.jpg'))")  # fmt: skip
        return read_image(path)
    if isinstance(image, Image.Image):
        return to_rgb(upright(image))
    if isinstance(image, Tensor):
        last = image.shape[-3] if image.ndim == 3 else 0
        array = image.detach().cpu().permute(1, 2, 0).numpy() if last in (1, 3, 4) else None
        shape = "a tensor is (3, H, W)"
    elif isinstance(image, np.ndarray):
        array = image if image.ndim == 2 or (image.ndim == 3 and image.shape[2] in (1, 3, 4)) else None
        shape = "an array is (H, W, 3)"
    else:
        raise ToolboxError(f"Image {place} is a {type(image).__name__}.", hint=_GIVE)
    if array is None or array.dtype != np.uint8 or 0 in array.shape:
        what = f"shape {tuple(image.shape)} and {str(image.dtype).removeprefix('torch.')}"
        raise ToolboxError(f"Image {place} has {what}: {shape}, of uint8 from 0 to 255.", hint=_GIVE)
    return to_rgb(Image.fromarray(np.ascontiguousarray(array[..., 0] if array.shape[2:] == (1,) else array)))
