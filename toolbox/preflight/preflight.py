"""Check a recipe before anything is loaded or written: one dry run, and a list of checks that look at it."""

from __future__ import annotations

from typing import Any

from toolbox.preflight import data_checks, forward_checks, model_checks, training_checks
from toolbox.preflight.dry_run import make_dry_run
from toolbox.preflight.plan import Plan
from toolbox.registry import get_catalog

CHECKS = (
    training_checks.check_schedules,
    model_checks.check_model,
    data_checks.check_labels,
    model_checks.check_pools,
    training_checks.check_hooks,
    training_checks.check_best_metric,
    model_checks.check_start,
    training_checks.check_grad_cache,
    data_checks.check_augment,
    data_checks.check_mix,
    training_checks.check_parts,
    training_checks.check_average,
    training_checks.check_wise_ft,
    training_checks.check_compile,
    training_checks.check_parallel,
    data_checks.check_feature_cache,
    model_checks.check_quantization,
    model_checks.check_trainable,
)
"""Whether the settings fit the structure. All of them run, so that all problems are reported at once."""

MEASUREMENTS = (
    training_checks.describe_training,
    data_checks.describe_feature_cache,
    training_checks.describe_parts,
    forward_checks.measure_memory,
    forward_checks.check_first_batch,
    forward_checks.check_outputs,
)
"""What a structure without problems comes to, in this order."""


def check_recipe(recipe: dict[str, Any], *, with_data: bool = True) -> Plan:
    """What a complete, validated recipe would do, with all problems of its structure and data.

    - `with_data`: also look at the datasets; without, only at the model.
    """
    plan = Plan()
    run = plan.dry_run = make_dry_run(recipe, plan, with_data=with_data)
    if run is None:
        return plan
    for check in CHECKS:
        check(run)
    plan.problems += get_catalog().check_config(recipe, run)
    if len(plan.problems) == run.data_problems:
        for measure in MEASUREMENTS:
            measure(run)
    return plan
