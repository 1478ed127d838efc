"""Judge a checkpoint, or a backbone as it comes, on a recipe's data: what `tools/test.py` does."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

import torch

from toolbox.base import Dataset, Model, ReportItem
from toolbox.engine.assemble import build_model
from toolbox.engine.checkpoint import checkpoint as checkpoints
from toolbox.engine.checkpoint.start import open_start
from toolbox.engine.classes import other_classes
from toolbox.engine.console import CallbackConsole
from toolbox.engine.data.batch_builder import input_specs
from toolbox.engine.descriptions import describe_data
from toolbox.engine.device import choose_device, set_threads
from toolbox.engine.distributed.context import SINGLE_PROCESS, DistributedContext
from toolbox.engine.evaluation.evaluator import Evaluator
from toolbox.engine.feature_extraction.cacheable import list_cacheable
from toolbox.engine.feature_extraction.feature_cache import FeatureCache
from toolbox.engine.precision import eval_precision
from toolbox.engine.settings import Settings
from toolbox.engine.trained_items import sentence, unknown
from toolbox.errors import ToolboxError


@dataclass
class Evaluation:
    """What an evaluation came to.

    - `metrics`: the numbers; `better`: "greater" or "less" for each.
    - `settings`: names of those among `metrics` that are settings chosen, and no measurements.
    - `split`: "test" or "val"; `dataset`: what was judged; `report_items`: what the metrics show of it.
    - `checkpoint`, `step`: what was judged, None for the backbone as it comes.
    - `precision`: that the model computed in.
    - `predictor`: what "logits" come from, where the model chooses among several ways; else empty.
    - `learned_from`: how many items of the training set metrics were shown first, None if they asked for none.
    """

    metrics: dict[str, float]
    better: dict[str, str]
    settings: list[str]
    split: str
    dataset: Dataset
    report_items: list[ReportItem]
    checkpoint: str | None
    step: int | None
    device: str
    precision: str
    predictor: str
    learned_from: int | None
    seconds: float

    def as_json(self) -> dict[str, Any]:
        """What test_results.json holds."""
        left_out = ("dataset", "report_items")
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
    recipe: dict[str, Any],
    checkpoint: str | Path | None,
    split: str | None,
    log: Callable[[str], None] = lambda text: None,
    *,
    precision: str | None = None,
    distributed: DistributedContext = SINGLE_PROCESS,
) -> Evaluation:
    """Evaluate a checkpoint on the recipe's test (else validation) set; without one, the backbone as it comes.

    - `log`: called with sentences that whoever reads the numbers should know.
    - `precision`: "fp32", "bf16" or "fp16"; default: as in the run, `toolbox.engine.precision.eval_precision`.
    - `distributed`: the processes that evaluate together.
    """
    settings, started = Settings(recipe), time.perf_counter()
    name = split_of(recipe, split)
    target = Evaluator.of(recipe, name)
    choosing = None if checkpoint else _choosing_set(recipe, target)
    training = _check_data(target, choosing, log)
    device = choose_device(settings("env_cfg.device"), distributed.rank_info)
    set_threads(settings("env_cfg.threads"), distributed.rank_info.local_world_size)
    distributed.start(device)
    # without a checkpoint, the weights from which the recipe would start, as train's "before"
    trained = checkpoints.read(checkpoint) if checkpoint else None
    start = trained or open_start(recipe)
    # a new head is left out of the zero-shot numbers
    classes = (start.manifest["classes"] if start else None) or 2
    model = build_model(recipe, seed=settings("randomness.seed"), classes=classes, checkpoint=start, training=False)
    if trained is not None:
        _compare_data(model, trained, target, log)
    model.to(torch.device(str(device)))
    # a checkpoint has one number: that of its run, whatever this recipe says of training
    evaluated = recipe if trained is None else trained.manifest["recipe"]
    how = eval_precision(evaluated, device, precision or recipe["env_cfg"]["eval_precision"])
    mode = "predict" if checkpoint else "baseline"
    feature_cache = None
    if recipe.get("features") and list_cacheable(model):
        feature_cache = FeatureCache(recipe, model, device, how, console=CallbackConsole(log), distributed=distributed)
        for evaluator in filter(None, (target, choosing)):
            feature_cache.add(evaluator.name, evaluator.dataset, evaluator.loader)
        if training is not None:
            feature_cache.add("train", training, recipe["train_dataloader"])
    inputs = input_specs(model)
    chosen = None
    if choosing is not None:
        chosen = choosing.evaluate(model, inputs, device, how, mode=mode, feature_cache=feature_cache)
    elif trained is not None:
        chosen = (trained.manifest.get("best") or {}).get("metrics")
    metrics = target.evaluate(model, inputs, device, how, mode=mode, feature_cache=feature_cache, chosen=chosen)
    if not metrics:
        raise ToolboxError.from_problems(target.left_out)
    log(describe_data({name: target.dataset}))
    for remark in target.remarks:
        log(remark)
    for problem in target.left_out:
        log(f"Left out: {problem}")
    return Evaluation(
        metrics=metrics,
        better=target.better,
        settings=target.settings,
        split=name,
        dataset=target.dataset,
        report_items=[item for metric in target.active_metrics for item in metric.report_items(target.dataset)],
        checkpoint=None if trained is None else str(trained.path),
        step=None if trained is None else trained.step,
        device=str(device),
        precision=how.name,
        predictor="" if trained is None else model.predictor,
        learned_from=None if training is None else len(training),
        seconds=round(time.perf_counter() - started, 3),
    )


def _choosing_set(recipe: dict[str, Any], target: Evaluator) -> Evaluator | None:
    """The validation set that chooses settings for a test set: without a run, whose best validation has done so."""
    if target.name != "test" or not any(metric.has_choice for metric in target.metrics):
        return None
    if not (recipe["val_dataloader"] and recipe["val_evaluator"]):
        return None
    choosing = Evaluator.of(recipe, "val")
    choosing.share(target.shared)
    return choosing


def _check_data(target: Evaluator, choosing: Evaluator | None, log: Callable[[str], None]) -> Dataset | None:
    """The training set where metrics learn from it. Raises ToolboxError with what is wrong with data and metrics."""
    problems = target.problems() + ([] if choosing is None else choosing.problems())
    training = target.training_set() if target.learning else None
    if training is not None:
        problems += [problem.with_prefix("train_dataloader.dataset") for problem in training.check()]
    for metric in target.metrics:
        for note in metric.notes(None if training is None or problems else len(training)):
            log(note)
    if problems:
        raise ToolboxError.from_problems(problems)
    return training


def _compare_data(model: Model, trained: checkpoints.Checkpoint, target: Evaluator, log: Callable[[str], None]) -> None:
    """Count the items that the model was trained on. Raises ToolboxError where a classifier knows other classes."""
    dataset = target.dataset
    if model.closed_set:
        where, count = f"{target.name}_dataloader.dataset", trained.manifest["classes"]
        problems = other_classes(trained.class_names(), dataset, where, count=count)
        if problems:
            raise ToolboxError.from_problems(problems)
    trained_items = trained.trained_items()
    if trained_items is not None:
        target.trained_items = trained_items.count_in(dataset)
    elif dataset.identities() is not None:
        log(unknown(trained.path))
    if target.trained_items:
        log(sentence(target.trained_items, len(dataset), target.name))
