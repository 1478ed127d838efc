"""Run a model over a dataset and let metrics judge."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from toolbox.base import Batch, Dataset, Metric, Sampler, l2_normalize
from toolbox.engine.data import Draws, Fetch, Inputs, batches, ready
from toolbox.engine.precision import Precision
from toolbox.errors import Problem, ToolboxError
from toolbox.plugin import Device
from toolbox.registry import build


class Pixels(nn.Module):
    """A model that takes an image's pixels, as the backbone would see them, for its embedding: the floor to beat."""

    def forward(self, batch: Batch, mode: str) -> dict[str, Tensor]:
        images = [x for x in batch["inputs"].values() if isinstance(x, Tensor) and x.is_floating_point()]
        return {"embeddings": l2_normalize(images[0].flatten(1).float())}


class EvalSet:
    """A dataset with its metrics, ready to be evaluated.

    - `loader`: the recipe's `val_dataloader` or `test_dataloader`; `evaluator`: its metrics.
    - `name`: "val" or "test", for messages.
    """

    def __init__(self, loader: dict[str, Any], evaluator: list[dict] | dict, *, name: str) -> None:
        self.name, self.loader = name, loader
        self.better: dict[str, str] = {}
        self.dataset: Dataset = build(loader["dataset"], "dataset", where=f"{name}_dataloader.dataset")
        evaluator = evaluator if isinstance(evaluator, list) else [evaluator]
        self.metrics: list[Metric] = [
            build(metric, "metric", where=f"{name}_evaluator.{index}") for index, metric in enumerate(evaluator)
        ]

    def sampler(self) -> Sampler:
        """Every item once, in order."""
        size = min(self.loader.get("batch_size") or 64, len(self.dataset))
        sampler = build({"type": "core.Sequential", "batch_size": size}, "sampler")
        sampler.setup(self.dataset, seed=0)
        return sampler

    def evaluate(
        self, model: nn.Module, inputs: dict[str, Inputs], device: Device, precision: Precision, *,
        mode: str = "predict", stop: Callable[[], bool] = lambda: False,
    ) -> dict[str, float] | None:  # fmt: skip
        """The metrics' numbers; None if `stop` said so between two batches.

        - `mode`: "predict", or "baseline" for the backbone alone.
        Unreadable items under 'skip' are counted as "unreadable_items" in the result.
        """
        sampler = self.sampler()
        skip = self.loader.get("on_bad_item", "raise") == "skip"
        fetch = Fetch(self.dataset, inputs, skip_bad=skip)
        for metric in self.metrics:
            metric.reset()
        was_training, bad = model.training, 0
        model.eval()
        try:
            with torch.inference_mode():
                for batch in batches(
                    fetch, Draws(sampler, 0, len(sampler)), workers=self.loader.get("num_workers", 2),
                    prefetch=self.loader.get("prefetch_factor", 2), pin_memory=device.type != "cpu",
                ):  # fmt: skip
                    if stop():
                        return None
                    bad += len(batch["bad"])
                    self.check_bad(bad)
                    if not batch["items"]:
                        continue
                    with precision.autocast():
                        outputs = model(ready(batch, inputs, torch.device(str(device))), mode)
                    for metric in self.metrics:
                        metric.update(outputs, batch)
        finally:
            model.train(was_training)
        numbers: dict[str, float] = {}
        for metric in self.metrics:
            try:
                found = metric.compute()
            except ValueError as error:
                raise ToolboxError(str(error), where=f"{self.name}_evaluator") from error
            if twice := sorted(found.keys() & numbers.keys()):
                raise ToolboxError(
                    f"Two metrics give the same numbers: {', '.join(twice)}.", where=f"{self.name}_evaluator",
                    hint="Remove one of them.",
                )  # fmt: skip
            numbers |= found
            self.better |= dict.fromkeys(found, metric.better)
        return numbers | ({"unreadable_items": bad} if bad else {})

    def check_bad(self, bad: int) -> None:
        """Raise ToolboxError when more items were unreadable than the recipe allows."""
        allowed = self.loader.get("max_bad_share", 0.01)
        if bad > allowed * len(self.dataset):
            raise ToolboxError(
                f"{bad} of {len(self.dataset)} items cannot be read, more than the share of {allowed:g} allowed.",
                where=f"{self.name}_dataloader", hint="Mend the files, or raise max_bad_share.",
            )  # fmt: skip

    def problems(self) -> list[Problem]:
        """What the dataset and the metrics find wrong before anything runs."""
        found = [problem.under(f"{self.name}_dataloader.dataset") for problem in self.dataset.check()]
        if found:
            return found
        return [
            problem.under(f"{self.name}_evaluator.{index}")
            for index, metric in enumerate(self.metrics)
            for problem in metric.check(self.dataset)
        ]
