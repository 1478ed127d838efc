"""Checks of a dry run: do the data and what is made of them fit the model?"""

from __future__ import annotations

from toolbox.engine.data import mixing
from toolbox.engine.feature_extraction import cacheable
from toolbox.engine.preflight import closed_set, first_batch
from toolbox.engine.preflight.dry_run import DryRun
from toolbox.errors import Problem


def check_labels(run: DryRun) -> None:
    """The labels are those that a classifier can learn and be evaluated on."""
    if run.dataset is None or not run.model.closed_set:
        return
    problems = closed_set.problems(run.dataset, run.evaluators)
    run.plan.problems += problems
    run.plan.notes += [] if problems else closed_set.notes(run.dataset)


def check_augment(run: DryRun) -> None:
    """No augmentation is meant for an input that reads no images."""
    augment = run.recipe["train_dataloader"]["augment"]
    if not augment or "type" in augment:
        return
    images = [name for name, preprocess in run.model.preprocess().items() if preprocess.size is not None]
    hint = f"Its image inputs: {', '.join(images) or 'none'}."
    run.plan.problems += [
        Problem(f"The model has no image input '{name}'.", f"train_dataloader.augment.{name}", hint)
        for name in augment
        if name not in images
    ]


def check_mix(run: DryRun) -> None:
    """Mixed images suit the model, and pairs are not of one class."""
    if not run.recipe["train_dataloader"]["mix"]:
        return
    blocks = run.sampler.blocks if run.sampler else 1
    run.plan.problems += mixing.problems(run.model, run.views, blocks)
    if run.sampler is not None and run.dataset is not None:
        problems, notes = mixing.pairs_of_one_class(run.sampler, run.dataset.labels)
        run.plan.problems += problems
        run.plan.notes += notes


def check_feature_cache(run: DryRun) -> None:
    """What `features` stores stays the same while the run trains."""
    run.plan.problems += cacheable.problems(run.recipe, run.model)


def describe_feature_cache(run: DryRun) -> None:
    """What would be stored, and how large it is."""
    if run.with_data and not run.plan.problems and run.recipe.get("features"):
        items = {name: len(dataset) for name, dataset in run.datasets.items()}
        run.plan.notes += cacheable.notes(run.recipe, run.model, items)


def check_first_batch(run: DryRun) -> None:
    """The loss takes the first batch of the sampler."""
    if run.sampler is not None and run.dataset is not None and not run.plan.problems:
        run.plan.problems += first_batch.problems(run.model, run.dataset, run.sampler, run.views)
