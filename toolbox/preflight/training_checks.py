"""Checks of a dry run: do the settings of training make sense for this model and this length?"""

from __future__ import annotations

import difflib

import torch

from toolbox.engine import grad_cache, quantizing, speed
from toolbox.engine.assemble import norm_notes
from toolbox.engine.distributed import parallel
from toolbox.engine.hooks import average, wise_ft
from toolbox.engine.param_groups import decay_notes, groups_of_recipe, part_problems
from toolbox.errors import Problem
from toolbox.preflight.dry_run import DryRun
from toolbox.preflight.plan import noted, parts_of
from toolbox.registry import build


def check_schedules(run: DryRun) -> None:
    """Schedules are defined at the first and the last step."""
    for item in run.settings.schedules():
        with noted(run.plan, "param_scheduler"), torch.device("meta"):
            schedule = build(item, "schedule", where="param_scheduler")
            for step in (0, run.plan.steps - 1) if run.plan.steps else ():
                schedule.factor(step, run.plan.steps)


def check_hooks(run: DryRun) -> None:
    """The hooks of the recipe find nothing wrong with themselves, nor with the metrics that they read."""
    for index, item in enumerate(run.recipe["custom_hooks"] or []):
        with noted(run.plan):
            hook = build(item, "hook", where=f"custom_hooks.{index}")
            run.plan.problems += [
                problem.with_prefix(f"custom_hooks.{index}") for problem in hook.check(run.metric_names)
            ]


def check_best_metric(run: DryRun) -> None:
    """The metric that chooses the best checkpoint is one of the validation set's."""
    metrics, best = run.metric_names, run.settings("default_hooks.checkpoint.save_best")
    if not metrics or best == "auto" or best in metrics:
        return
    near = difflib.get_close_matches(best, metrics, n=1)
    hint = f"Did you mean '{near[0]}'?" if near else f"There are: {', '.join(metrics)}."
    where = "default_hooks.checkpoint.save_best"
    run.plan.problems.append(Problem(f"There is no validation metric '{best}'.", where, hint))


def check_grad_cache(run: DryRun) -> None:
    """A batch in chunks is one that the model's loss can be computed from."""
    if run.settings("optim_wrapper.grad_cache"):
        run.plan.problems += grad_cache.problems(run.model)


def check_parts(run: DryRun) -> None:
    """`optim_wrapper.parts` names parts that are there and train."""
    parts = run.settings("optim_wrapper.parts") or {}
    run.plan.problems += part_problems(run.model, parts, run.settings("optim_wrapper.layer_decay"))


def check_average(run: DryRun) -> None:
    """`optim_wrapper.average` begins within the run."""
    run.plan.problems += average.problems(run.settings("optim_wrapper.average"), run.plan.steps)


def check_wise_ft(run: DryRun) -> None:
    """`train_cfg.wise_ft` has weights to mix and a validation set to choose on."""
    run.plan.problems += wise_ft.problems(run.recipe, run.model)


def check_compile(run: DryRun) -> None:
    """What `env_cfg` compiles can be compiled."""
    run.plan.problems += speed.problems(run.settings("env_cfg"))


def check_parallel(run: DryRun) -> None:
    """The optimizer works in the way that the model is spread over processes."""
    run.plan.problems += parallel.problems(run.settings("env_cfg.parallel"), run.optimizer)


def describe_training(run: DryRun) -> None:
    """What averaging and compiling do that a user should know."""
    run.plan.notes += average.notes(run.settings("optim_wrapper.average"), run.plan.steps)
    run.plan.notes += speed.notes(run.model, run.settings("env_cfg"))


def describe_parts(run: DryRun) -> None:
    """The table of parts, with learning rates and weight decay."""
    groups = groups_of_recipe(run.settings, run.model, run.optimizer)
    run.plan.notes += quantizing.notes(run.model)
    run.plan.notes += norm_notes(run.model)
    run.plan.notes += decay_notes(run.model, groups, run.optimizer.weight_decay)
    run.plan.parts = parts_of(run.model, {name: group for group in groups for name in group.params})
