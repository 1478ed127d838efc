"""The datasets of a recipe, its batches and its metrics, before anything is trained on them."""

from __future__ import annotations

from typing import Any

from toolbox.base import Dataset, Sampler
from toolbox.engine.assemble import build_augment, build_mix
from toolbox.engine.classes import label_problems
from toolbox.engine.data_line import describe_data
from toolbox.engine.evaluation.evaluator import Evaluator
from toolbox.engine.length import RunLength
from toolbox.engine.preflight.plan import Plan, noted
from toolbox.engine.settings import Settings
from toolbox.errors import Problem
from toolbox.registry import build


def look_at_data(recipe: dict[str, Any], settings: Settings, plan: Plan) -> tuple[Dataset | None, Sampler | None]:
    """Datasets, batches and metrics; returns what training reads, None where something is wrong with it."""
    training: tuple[Dataset | None, Sampler | None] = (None, None)
    with noted(plan, "train_dataloader.dataset"):
        training = _look_at_training(recipe, settings, plan)
    datasets = {"train": training[0]}
    for name in ("val", "test"):
        loader, evaluator = recipe[f"{name}_dataloader"], recipe[f"{name}_evaluator"]
        if bool(loader) != bool(evaluator):
            here, there = (f"{name}_dataloader", f"{name}_evaluator")[:: 1 if loader else -1]
            plan.problems.append(Problem(f"{here} has no effect without {there}.", here, f"Set {there} or remove it."))
        elif loader:
            with noted(plan, f"{name}_dataloader.dataset"):
                target = Evaluator.of(recipe, name)
                if found := target.problems():
                    plan.problems += found
                else:
                    datasets[name] = target.dataset
    if datasets["train"] is not None:
        plan.notes.insert(0, describe_data(datasets))
    return training


def _look_at_training(recipe: dict[str, Any], settings: Settings, plan: Plan) -> tuple[Dataset | None, Sampler | None]:
    """The training data and its batches, None where something is wrong with them."""
    loader = recipe["train_dataloader"]
    build_augment(loader["augment"])
    build_mix(loader["mix"])
    dataset: Dataset = build(loader["dataset"], "dataset", where="train_dataloader.dataset")
    sampler: Sampler = build(settings.sampler(), "sampler", where="train_dataloader.sampler")
    plan.batch_size = sampler.batch_size
    found = [problem.under("train_dataloader.dataset") for problem in dataset.check() or label_problems(dataset)]
    plan.problems += found
    if found:
        return None, None
    with noted(plan, "train_dataloader.sampler"):
        sampler.setup(dataset, settings("randomness.seed"))
        plan.batch_size = sampler.batch_size  # setup may have made it smaller
        length = RunLength(settings, len(sampler))
        plan.steps, plan.steps_per_epoch = length.steps, length.steps_per_epoch
        plan.notes += [*dataset.notes(), *sampler.notes()]
        return dataset, sampler
    return dataset, None


def items_of(recipe: dict[str, Any]) -> dict[str, int]:
    """How many items each dataset has."""
    names = [name for name in ("train", "val", "test") if recipe[f"{name}_dataloader"]]
    return {name: len(build(recipe[f"{name}_dataloader"]["dataset"], "dataset")) for name in names}
