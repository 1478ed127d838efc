"""A model that is ready to encode or to be judged, from a checkpoint or as it comes."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

import torch
from PIL import Image, ImageOps
from torch import Tensor

from toolbox.base import Dataset, Finding, read_image
from toolbox.base.images import to_rgb
from toolbox.engine.assemble import build_model
from toolbox.engine.classes import other_classes
from toolbox.engine.console import Told
from toolbox.engine.device import choose_device, set_threads
from toolbox.engine.judging.classify import likeliest
from toolbox.engine.judging.each import check_reads_images
from toolbox.engine.judging.evaluate import EvalSet
from toolbox.engine.precision import Precision
from toolbox.engine.reading.batches import ready
from toolbox.engine.reading.fetch import inputs_of
from toolbox.engine.saving import checkpoint as checkpoints
from toolbox.engine.settings import Settings
from toolbox.engine.storing.choice import stored_towers
from toolbox.engine.storing.shelf import Shelf
from toolbox.errors import ToolboxError


class Encoder:
    """A trained model, ready to encode and, if it can, to classify.

    - `checkpoint`: what `checkpoint.read` returned.
    - `device`: "auto", "cpu", "cuda:1" ...
    - `recipe`: the recipe to build the model from; default: the one in the checkpoint.
    """

    def __init__(
        self, checkpoint: checkpoints.Checkpoint, recipe: dict[str, Any] | None = None, *, device: str = "auto"
    ) -> None:
        found = checkpoint
        self.recipe = recipe or found.manifest["recipe"]
        self.identity = {"step": found.step, "files": found.manifest["files"], "frozen": found.manifest["frozen"]}
        self.device = choose_device(device)
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
        return torch.cat([found["embeddings"].float().cpu() for found in self._outputs(images, batch_size)])

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
                with torch.inference_mode():
                    outputs = self.model(batch, "predict")
                yield outputs


@dataclass
class Evaluation:
    """What an evaluation came to.

    - `metrics`: the numbers; `better`: "greater" or "less" for each.
    - `split`: "test" or "val"; `dataset`: what was judged; `findings`: what the metrics show of it.
    - `checkpoint`, `step`: what was judged, None for the backbone as it comes.
    - `learned_from`: how many items of the training set metrics were shown first, None if they asked for none.
    """

    metrics: dict[str, float]
    better: dict[str, str]
    split: str
    dataset: Dataset
    findings: list[Finding]
    checkpoint: str | None
    step: int | None
    device: str
    learned_from: int | None
    seconds: float

    def as_json(self) -> dict[str, Any]:
        """What test_results.json holds."""
        left_out = ("dataset", "findings")
        return {item.name: getattr(self, item.name) for item in fields(self) if item.name not in left_out}


def split_of(recipe: dict[str, Any], split: str | None) -> str:
    """The set that is judged: the one asked for, else the test set, else the validation set.

    Raises ToolboxError where the recipe has none.
    """
    name = split or ("test" if recipe.get("test_dataloader") else "val")
    if not recipe.get(f"{name}_dataloader") or not recipe.get(f"{name}_evaluator"):
        raise ToolboxError(f"The recipe has no {name} set.", hint=f"Set {name}_dataloader and {name}_evaluator.")
    return name


def evaluate(
    recipe: dict[str, Any], checkpoint: str | Path | None, split: str | None,
    tell: Callable[[str], None] = lambda text: None,
) -> Evaluation:  # fmt: skip
    """Judge a checkpoint on the recipe's test (else validation) set; without one, the backbone as it comes.

    - `tell`: called with sentences that whoever reads the numbers should know.
    """
    settings, started = Settings(recipe), time.perf_counter()
    name = split_of(recipe, split)
    target = EvalSet.of(recipe, name)
    problems = target.problems()
    training = target.training_set() if target.learning else None
    if training is not None:
        problems += [problem.under("train_dataloader.dataset") for problem in training.check()]
    for metric in target.metrics:
        for note in metric.notes(None if training is None or problems else len(training)):
            tell(note)
    if problems:
        raise ToolboxError.of(problems)
    device = choose_device(settings("env_cfg.device"))
    set_threads(settings("env_cfg.threads"))
    # without a checkpoint, the weights from which the recipe would start, as train's "before"
    found = checkpoints.read(checkpoint) if checkpoint else checkpoints.start_of(recipe)
    # a new head is left out of the zero-shot numbers
    classes = (found.manifest["classes"] if found else None) or 2
    model = build_model(recipe, seed=settings("randomness.seed"), classes=classes, checkpoint=found, training=False)
    if checkpoint and model.closed_set:
        problems = other_classes(
            found.class_names(), target.dataset, f"{name}_dataloader.dataset", count=found.manifest["classes"]
        )
        if problems:
            raise ToolboxError.of(problems)
    model.to(torch.device(str(device)))
    precision = Precision(settings("optim_wrapper.precision"), device)
    mode = "predict" if checkpoint else "baseline"
    shelf = None
    if recipe.get("features") and stored_towers(model):
        shelf = Shelf(recipe, model, device, precision, console=Told(tell))
        shelf.add(name, target.dataset, target.loader)
        if training is not None:
            shelf.add("train", training, recipe["train_dataloader"])
    numbers = target.evaluate(model, inputs_of(model), device, precision, mode=mode, shelf=shelf)
    if not numbers:
        raise ToolboxError.of(target.left_out)
    for problem in target.left_out:
        tell(f"Left out: {problem}")
    return Evaluation(
        metrics=numbers, better=target.better, split=name, dataset=target.dataset,
        findings=[one for metric in target.judges for one in metric.findings(target.dataset)],
        checkpoint=str(found.path) if checkpoint else None, step=found.step if checkpoint else None,
        device=str(device), learned_from=None if training is None else len(training),
        seconds=round(time.perf_counter() - started, 3),
    )  # fmt: skip


def _picture(image: Any) -> Image.Image:
    return to_rgb(ImageOps.exif_transpose(image)) if isinstance(image, Image.Image) else read_image(image)
