"""Checks of a dry run: do the parts of the model fit together, and what does it take?"""

from __future__ import annotations

from toolbox.engine import quantizing
from toolbox.engine.checkpoint import checkpoint as checkpoints
from toolbox.engine.checkpoint import loading
from toolbox.engine.memory import step_memory
from toolbox.engine.parts import adapted
from toolbox.engine.preflight import closed_set, outputs
from toolbox.engine.preflight.dry_run import DryRun
from toolbox.engine.preflight.plan import noted
from toolbox.errors import Problem, ToolboxError


def check_model(run: DryRun) -> None:
    """The model finds nothing wrong with itself."""
    if run.with_data:
        run.plan.problems += [problem.with_prefix("model") for problem in run.model.check()]


def check_pools(run: DryRun) -> None:
    """Pools read no more blocks than the backbone before them gives."""
    for name, (backbone, pool) in run.model.towers().items():
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
        checkpoint = checkpoints.start_of(run.recipe)
        assert checkpoint is not None  # as load_from names one
        if run.model.closed_set and run.dataset is not None:
            run.plan.problems += closed_set.other_start(checkpoint, run.dataset)
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


def measure_memory(run: DryRun) -> None:
    """Run a step without data: shapes are checked, memory is counted."""
    plan, cached = run.plan, run.cached_inputs
    if any(source.size is None for name, source in run.model.preprocess().items() if name not in cached):
        return
    rows = {name: (plan.batch_size or 2) * count for name, count in run.views.items()}
    chunk, precision = run.settings("optim_wrapper.grad_cache"), run.settings("optim_wrapper.precision")
    try:
        plan.memory, idle = step_memory(run.model, rows, precision, chunk and chunk["chunk_size"], cached)
        _describe_idle(run, idle)
        if run.settings("optim_wrapper.average"):
            plan.memory["average"] = sum(part.nbytes for part in run.model.parameters() if part.requires_grad)
    except ToolboxError as error:
        plan.problems += error.problems
    except NotImplementedError:
        return  # an operation that has no meaning without values: nothing is known, and nothing is wrong
    except (RuntimeError, ValueError, TypeError) as error:
        if "meta" not in str(error):  # else likewise
            message = f"The parts do not fit together: {str(error).splitlines()[0]}"
            plan.problems.append(Problem(message, "model"))


def check_outputs(run: DryRun) -> None:
    """Metrics find in the model's outputs what they read."""
    if run.with_data and not run.plan.problems:
        problems, notes = outputs.look(run.evaluators, run.settings, run.model)
        run.plan.problems += problems
        run.plan.notes += notes


def _describe_idle(run: DryRun, idle: list[str]) -> None:
    """An adapter that no gradient reaches stands where the network does not use it; other parts may be idle."""
    plan = run.plan
    for path, backbone in adapted(run.model).items():
        names = {f"{path}.{name}" for name in backbone.adapter.parameter_names()}
        lost = [name for name in idle if name in names]
        idle = [name for name in idle if name not in names]
        if lost:
            message = f"{len(lost)} of {len(names)} adapter tensors would never learn, such as {lost[0]}."
            hint = "The network does not call these layers: leave them out of tune.targets."
            plan.problems.append(Problem(message, f"model.{path}.tune", hint))
    plan.idle = idle
    if idle:
        listed = ", ".join(idle[:3]) + (" ..." if len(idle) > 3 else "")
        plan.notes.append(
            f"No gradient reaches these trainable tensors ({len(idle)}), so they stay as they are: {listed}."
        )
