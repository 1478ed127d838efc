"""Checks of a dry run: do the parts of the model fit together?"""

from __future__ import annotations

from toolbox.engine import quantizing
from toolbox.engine.checkpoint import loading
from toolbox.engine.checkpoint.start import open_start
from toolbox.engine.classes import class_names, first_difference
from toolbox.errors import Problem
from toolbox.preflight.dry_run import DryRun
from toolbox.preflight.plan import noted


def check_model(run: DryRun) -> None:
    """The model finds nothing wrong with itself."""
    if run.with_data:
        run.plan.problems += [problem.with_prefix("model") for problem in run.model.check()]


def check_pools(run: DryRun) -> None:
    """Pools read no more blocks than the backbone before them gives."""
    for name, (backbone, pool) in run.model.pooled_backbones().items():
        if pool.layers > 1 and ("layers" not in backbone.abilities or pool.layers > len(backbone.layers())):
            count = len(backbone.layers()) if "layers" in backbone.abilities else 1
            can = f"has {count}" if count > 1 else "gives its last one alone"
            message = f"The pool of '{name}' reads the last {pool.layers} blocks, and {type(backbone).__name__} {can}."
            run.plan.problems.append(Problem(message, "model", "Read fewer blocks, or take another backbone."))


def check_start(run: DryRun) -> None:
    """What `load_from` names fits the model and its classes."""
    if not (run.with_data and run.recipe["load_from"]):
        return
    with noted(run.plan, "load_from"):
        checkpoint = open_start(run.recipe)
        assert checkpoint is not None  # as load_from names one
        if run.model.closed_set and run.dataset is not None and checkpoint.parts is None:
            then, now = checkpoint.class_names(), class_names(run.dataset)
            if then is not None and now is not None and len(then) == len(now):
                difference = first_difference(then, now)
                if difference:
                    message = f"The classes of {checkpoint.path} are not those of the training data: {difference}."
                    hint = "Leave its head out: load_parts=['model.backbone']."
                    run.plan.problems.append(Problem(message, "load_from", hint))
        if not run.data_problems:  # else the model may not be as large as it will be
            transfer = loading.compare(run.model, checkpoint)
            run.plan.notes += [f"load_from: {transfer.summary()}."] if checkpoint.parts else []


def check_quantization(run: DryRun) -> None:
    """Quantised backbones go together with the precision and the device."""
    if run.device is not None:
        precision, env_cfg = run.settings("optim_wrapper.precision"), run.settings("env_cfg")
        run.plan.problems += quantizing.problems(run.model, precision, env_cfg, run.device)


def check_trainable(run: DryRun) -> None:
    """Something is trained."""
    if not any(parameter.requires_grad for parameter in run.model.parameters()):
        message, hint = "Nothing would be trained: every part is frozen.", "Add a head, or set a backbone's tune."
        run.plan.problems.append(Problem(message, "model", hint))
