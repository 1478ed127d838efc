"""A recipe made on torch's meta device, its data opened: what the checks before a run look at."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import Any

import torch

from toolbox.base import Dataset, Model, Optimizer, Sampler
from toolbox.engine.assemble import apply_tuning, build_augment, build_mix, build_structure
from toolbox.engine.classes import label_problems
from toolbox.engine.descriptions import describe_data
from toolbox.engine.device import choose_device, limit_images
from toolbox.engine.evaluation.evaluator import Evaluator
from toolbox.engine.feature_extraction.cacheable import list_cacheable
from toolbox.engine.length import RunLength
from toolbox.engine.precision import Precision, eval_precision
from toolbox.engine.settings import Settings
from toolbox.errors import Problem, ToolboxError
from toolbox.plugin import Device
from toolbox.preflight.plan import Plan, noted
from toolbox.registry import build


@dataclass
class DryRun:
    """What a run would consist of; checks read it and add to its `plan`.

    - `recipe`: complete and validated; `settings`: the same, by key path; `with_data`: whether its data are looked at.
    - `dataset`, `sampler`: of training, None where something is wrong with them; `evaluators`: by split.
    - `data_problems`: how many of the plan's problems are those of the data.
    - `device`: None where there is none as the recipe wants.
    - `model`, `optimizer`: on the meta device.
    """

    recipe: dict[str, Any]
    settings: Settings
    with_data: bool
    plan: Plan
    dataset: Dataset | None
    sampler: Sampler | None
    evaluators: dict[str, Evaluator]
    data_problems: int
    device: Device | None
    model: Model
    optimizer: Optimizer

    @property
    def datasets(self) -> dict[str, Dataset]:
        """The datasets by split, as far as they could be opened."""
        training = {} if self.dataset is None else {"train": self.dataset}
        return training | {name: evaluator.dataset for name, evaluator in self.evaluators.items()}

    @cached_property
    def views(self) -> dict[str, int]:
        """How many views the augmentation makes of an item, for each input; texts are not augmented."""
        augment = build_augment(self.recipe["train_dataloader"]["augment"])
        return {
            name: getattr(augment.get(name) if isinstance(augment, dict) else augment, "views", 1)
            if preprocess.size is not None
            else 1
            for name, preprocess in self.model.preprocess().items()
        }

    @cached_property
    def metric_names(self) -> list[str] | None:
        """The names of the validation metrics; None if one of them does not tell."""
        evaluators = self.recipe["val_evaluator"] or []
        evaluators = evaluators if isinstance(evaluators, list) else [evaluators]
        names = [build(item, "metric", where="val_evaluator").names() for item in evaluators]
        return None if None in names else [name for metric_names in names for name in metric_names]

    @property
    def cached_inputs(self) -> dict[str, Any]:
        """The towers whose features would be read from a cache, by input."""
        return list_cacheable(self.model) if self.recipe.get("features") else {}


def make_dry_run(recipe: dict[str, Any], plan: Plan, *, with_data: bool = True) -> DryRun | None:
    """Open the data of a complete, validated recipe and build its model without weights; None where it has no model.

    - `plan`: gets the problems.
    """
    settings = Settings(recipe)
    dataset: Dataset | None = None
    sampler: Sampler | None = None
    evaluators: dict[str, Evaluator] = {}
    with noted(plan):
        limit_images(recipe)
    if with_data:
        with noted(plan, "train_dataloader.dataset"):
            dataset, sampler = _open_training_data(settings, plan)
        evaluators = _open_evaluation_data(recipe, dataset, plan)
    data_problems = len(plan.problems)
    device = None
    with noted(plan):
        device = choose_device(settings("env_cfg.device"))
        Precision(settings("optim_wrapper.precision"), device)
        eval_precision(recipe, device)
    classes = None if dataset is None or dataset.classes is None else len(dataset.classes)
    if data_problems or not with_data:
        classes = 2  # any number stands for that of data which nobody has looked at
    try:
        with torch.device("meta"):
            model = build_structure(recipe, classes)
            apply_tuning(model)
            optimizer = build(recipe["optim_wrapper"]["optimizer"], "optimizer", where="optim_wrapper.optimizer")
    except ToolboxError as error:
        plan.problems += error.problems
        return None
    return DryRun(
        recipe=recipe,
        settings=settings,
        with_data=with_data,
        plan=plan,
        dataset=dataset,
        sampler=sampler,
        evaluators=evaluators,
        data_problems=data_problems,
        device=device,
        model=model,
        optimizer=optimizer,
    )


def _open_training_data(settings: Settings, plan: Plan) -> tuple[Dataset | None, Sampler | None]:
    """The training data and their sampler, None where something is wrong with them."""
    loader = settings("train_dataloader")
    build_augment(loader["augment"])
    build_mix(loader["mix"])
    dataset: Dataset = build(loader["dataset"], "dataset", where="train_dataloader.dataset")
    sampler: Sampler = build(settings.sampler(), "sampler", where="train_dataloader.sampler")
    plan.batch_size = sampler.batch_size
    problems = dataset.check() or label_problems(dataset)
    plan.problems += [problem.with_prefix("train_dataloader.dataset") for problem in problems]
    if problems:
        return None, None
    with noted(plan, "train_dataloader.sampler"):
        sampler.setup(dataset, settings("randomness.seed"))
        plan.batch_size = sampler.batch_size  # setup may have made it smaller
        length = RunLength(settings, len(sampler))
        plan.steps, plan.steps_per_epoch = length.steps, length.steps_per_epoch
        plan.notes += [*dataset.notes(), *sampler.notes()]
        return dataset, sampler
    return dataset, None


def _open_evaluation_data(recipe: dict[str, Any], training: Dataset | None, plan: Plan) -> dict[str, Evaluator]:
    """The validation and the test set with their metrics, by split."""
    evaluators: dict[str, Evaluator] = {}
    sound = {} if training is None else {"train": training}
    for name in ("val", "test"):
        loader, evaluator = recipe[f"{name}_dataloader"], recipe[f"{name}_evaluator"]
        if bool(loader) != bool(evaluator):
            key, missing = (f"{name}_dataloader", f"{name}_evaluator")[:: 1 if loader else -1]
            message, hint = f"{key} has no effect without {missing}.", f"Set {missing} or remove it."
            plan.problems.append(Problem(message, key, hint))
        elif loader:
            with noted(plan, f"{name}_dataloader.dataset"):
                evaluators[name] = Evaluator.of(recipe, name)
                problems = evaluators[name].problems()
                plan.problems += problems
                if not problems:
                    sound[name] = evaluators[name].dataset
    if training is not None:
        plan.notes.insert(0, describe_data(sound))
    return evaluators
