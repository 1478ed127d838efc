"""The contracts of what steers and measures a run: optimizers, schedules and metrics."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable
from typing import get_args

import torch
from torch import Tensor, nn

from toolbox.base import Batch, Example, Gallery, Metric, Optimizer, ReportItem, Schedule
from toolbox.testing.material import LabelledImages, require

ITEMS = 24


def check_optimizer(make: Callable[[], Optimizer]) -> None:
    """Check an optimizer against `toolbox.base.Optimizer`; raises AssertionError that names the broken contract.

    - `make`: returns a new instance at every call.
    """
    settings = make()
    name = type(settings).__name__
    require(isinstance(settings, Optimizer), f"{name} must be a subclass of toolbox.base.Optimizer.")
    for key in ("lr", "weight_decay"):
        value = getattr(settings, key, None)
        require(isinstance(value, (int, float)) and value >= 0, f"{name}.{key} must be a number, not {value!r}.")

    def start() -> tuple[list[nn.Parameter], torch.optim.Optimizer]:
        generator = torch.Generator().manual_seed(0)
        values = [nn.Parameter(torch.randn(3, 2, generator=generator)) for _ in range(2)]
        groups = [
            {"params": [value], "lr": lr, "weight_decay": decay}
            for value, lr, decay in zip(values, (settings.lr, 0.0), (settings.weight_decay, 0.0), strict=True)
        ]
        return values, make().build(groups, fused=False)

    def steps(values: list[nn.Parameter], optimizer: torch.optim.Optimizer, count: int) -> None:
        for _ in range(count):
            optimizer.zero_grad()
            torch.stack([value.square().sum() for value in values]).sum().backward()
            optimizer.step()

    values, optimizer = start()
    require(isinstance(optimizer, torch.optim.Optimizer), f"{name}.build must return a torch.optim.Optimizer.")
    require(
        [group["lr"] for group in optimizer.param_groups] == [settings.lr, 0.0],
        f"{name}.build must keep the groups in order, each with its own lr.",
    )
    before = [value.detach().clone() for value in values]
    steps(values, optimizer, 3)
    require(
        bool(values[0].detach().square().sum() < before[0].square().sum()) or settings.lr == 0,
        f"{name} must lower a convex function in three steps.",
    )
    require(torch.equal(values[1], before[1]), f"{name} must honor a group's lr: with lr=0 nothing may move.")

    resumed, other = start()
    with torch.no_grad():
        for a, b in zip(resumed, values, strict=True):
            a.copy_(b)
    other.load_state_dict(copy.deepcopy(optimizer.state_dict()))
    steps(values, optimizer, 3)
    steps(resumed, other, 3)
    require(
        all(map(torch.equal, values, resumed)),
        f"{name} must continue bit for bit after state_dict -> load_state_dict.",
    )


def check_schedule(make: Callable[[], Schedule]) -> None:
    """Check a schedule against `toolbox.base.Schedule`; raises AssertionError that names the broken contract.

    - `make`: returns a new instance at every call.
    """
    schedule = make()
    name = type(schedule).__name__
    require(isinstance(schedule, Schedule), f"{name} must be a subclass of toolbox.base.Schedule.")
    require(schedule.key in ("lr", "weight_decay"), f"{name}.key must be 'lr' or 'weight_decay'.")
    for steps in (1, 2, 10, 1000):
        numbers = range(steps) if steps < 100 else range(0, steps, 37)
        factors = [schedule.factor(step, steps) for step in numbers]
        for factor in factors:
            require(
                isinstance(factor, (int, float)) and math.isfinite(factor) and factor >= 0,
                f"{name}.factor must be a finite number >= 0, not {factor!r}.",
            )
        again = [make().factor(step, steps) for step in reversed(numbers)][::-1]
        require(again == factors, f"{name}.factor must depend on step and steps alone, not on earlier calls.")


def check_metric(make: Callable[[], Metric], outputs: dict[str, Tensor] | None = None) -> None:
    """Check a metric against `toolbox.base.Metric`; raises AssertionError that names the broken contract.

    - `make`: returns a new instance at every call.
    - `outputs`: what a model's `predict` gives for 24 items in 6 classes, (24, ...) each; default "embeddings"
      (24, 8) of length 1, "logits" (24, 6), "tokens" (24, 5, 8) of length 1 with some padding, and
      "text_embeddings" (24, 8) of length 1, of one text an item, all random.

    A metric that asks for texts (`list_texts`) is asked for those of 24 items in classes "class 0" to "class 5", and
    gets random ones of length 1, as wide as the "embeddings".
    """
    name = type(make()).__name__
    require(isinstance(make(), Metric), f"{name} must be a subclass of toolbox.base.Metric.")
    generator = torch.Generator().manual_seed(0)
    if outputs is None:
        embeddings = torch.randn(ITEMS, 8, generator=generator)
        outputs = {
            "embeddings": nn.functional.normalize(embeddings, dim=1),
            "logits": torch.randn(ITEMS, 6, generator=generator),
            "tokens": nn.functional.normalize(torch.randn(ITEMS, 5, 8, generator=generator), dim=2),
            "text_embeddings": nn.functional.normalize(torch.randn(ITEMS, 8, generator=generator), dim=1),
        }
        outputs["tokens"][::2, 3:] = 0
    labels = torch.arange(ITEMS) % 6

    def ready() -> Metric:
        metric = make()
        texts = metric.list_texts(LabelledImages([4] * 6))
        require(
            all(isinstance(text, str) for text in texts),
            f"{name}.list_texts must return texts, not {texts!r}.",
        )
        if len(texts):
            width = outputs["embeddings"].shape[1] if "embeddings" in outputs else 8
            rows = torch.randn(len(texts), width, generator=torch.Generator().manual_seed(1))
            metric.text_embeddings = nn.functional.normalize(rows, dim=1)
        return metric

    problems = ready().check_outputs(outputs)
    require(
        isinstance(problems, list) and not problems,
        f"{name}.check_outputs must return [] where nothing is missing, not {problems!r}.",
    )

    def measure(metric: Metric, order: Tensor, sizes: tuple[int, ...]) -> dict[str, float]:
        metric.reset()
        for take in [metric.fit, metric.update] if metric.wants_training() else [metric.update]:
            for rows in order.split(list(sizes)):
                numbers = rows.tolist()
                batch = Batch(labels=labels[rows], ids=numbers, indices=numbers)
                batch.owners, batch.texts = {"text": torch.arange(len(rows))}, {"text": rows}
                take({key: value[rows] for key, value in outputs.items()}, batch)
        return metric.compute()

    in_order = torch.arange(ITEMS)
    metric = ready()
    result = measure(metric, in_order, (ITEMS,))
    _check_numbers(metric, result, name)
    _check_report_items(metric, name)
    cases = {
        "how items are split into batches": (ready(), in_order, (5, 1, 11, 7)),
        "the order of the items": (ready(), torch.randperm(ITEMS, generator=generator), (ITEMS,)),
        "what was seen before reset": (metric, in_order, (12, 12)),
    }
    for what, (instance, order, sizes) in cases.items():
        other = measure(instance, order, sizes)
        require(
            other.keys() == result.keys() and all(math.isclose(other[k], result[k], abs_tol=1e-6) for k in result),
            f"{name} must not depend on {what}: {result} became {other}.",
        )


def _check_numbers(metric: Metric, result: dict[str, float], name: str) -> None:
    require(
        isinstance(result, dict) and bool(result) and all(isinstance(key, str) for key in result),
        f"{name}.compute must return {{name: number}}.",
    )
    for key, value in result.items():
        require(
            isinstance(value, (int, float)) and math.isfinite(value),
            f"{name}: {key!r} must be a finite Python number, not {value!r}.",
        )
    for key in result:
        try:
            metric.direction(key)
        except ValueError as error:
            raise AssertionError(str(error)) from error
    names = metric.names()
    require(names is None or names == list(result), f"{name}.names must name what compute gives: {list(result)}.")


def _check_report_items(metric: Metric, name: str) -> None:
    report_items = metric.report_items(LabelledImages([4] * 6))
    require(
        isinstance(report_items, list) and all(isinstance(item, get_args(ReportItem)) for item in report_items),
        f"{name}.report items must return a list of toolbox.base.ReportItem.",
    )
    galleries = [item.examples for item in report_items if isinstance(item, Gallery)]
    require(
        all(
            isinstance(e, Example) and (isinstance(e.query, str) or 0 <= e.query < ITEMS)
            for examples in galleries
            for e in examples
        ),
        f"{name}.report items must name items by their dataset indices.",
    )
