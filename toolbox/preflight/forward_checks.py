"""Checks of a dry run that call its model: on torch's meta device, without an image or a value.

Where an operation needs values, nothing is known, and nothing is reported.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import cache
from typing import Any

import torch
from torch import Tensor, nn

from toolbox.base import Dataset, Model
from toolbox.engine.data.batch_builder import input_specs
from toolbox.engine.data.samples import read_sample
from toolbox.engine.data.texts import make_example_batch
from toolbox.engine.hooks.pixel_baseline import RawPixels
from toolbox.engine.memory import step_memory
from toolbox.engine.parts import adapted
from toolbox.errors import Problem, ToolboxError
from toolbox.preflight.dry_run import DryRun
from toolbox.utils.model_io import find_unit_embeddings


def measure_memory(run: DryRun) -> None:
    """Run a step without data: shapes are checked, memory is counted."""
    plan, cached = run.plan, run.cached_inputs
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


class LazyIds(Sequence[Any]):
    """The ids of items, read from the dataset only if somebody asks."""

    def __init__(self, dataset: Dataset, indices: list[int]) -> None:
        self.dataset, self.indices = dataset, indices

    def __len__(self) -> int:
        return len(self.indices)

    def __getitem__(self, place: int | slice) -> Any:
        if isinstance(place, slice):
            return LazyIds(self.dataset, self.indices[place])
        return read_sample(self.dataset, self.indices[place])["id"]

    def __iter__(self) -> Iterator[Any]:
        return (self[place] for place in range(len(self)))


def check_first_batch(run: DryRun) -> None:
    """The loss takes the first batch of the sampler: its blocks, views, labels and ids."""
    model, dataset, sampler = run.model, run.dataset, run.sampler
    if sampler is None or dataset is None or run.plan.problems or type(model).encode is Model.encode:
        return
    indices = [index for _, index in sampler.draws(0)]
    inputs = _make_inputs(model, {name: views * len(indices) for name, views in run.views.items()})
    if inputs is None:
        return
    batch = make_example_batch(
        model,
        inputs,
        views=run.views,
        labels=None if dataset.labels is None else torch.empty(len(indices), dtype=torch.long, device="meta"),
        ids=LazyIds(dataset, indices),
        indices=indices,
        blocks=sampler.blocks,
    )
    try:
        with _evaluating(model):
            model(batch, "compute_loss", model(batch, "encode"))
    except ValueError as error:
        if "meta" not in str(error):
            run.plan.problems.append(Problem(f"{str(error).rstrip('.')}.", "model"))
    except (ArithmeticError, LookupError, NotImplementedError, OSError, TypeError):
        return
    except RuntimeError as error:
        if "meta" not in str(error):
            message = f"The loss cannot compare what the model gives: {str(error).splitlines()[0]}"
            run.plan.problems.append(Problem(message, "model", "Do all its heads give vectors of one width?"))


def check_outputs(run: DryRun) -> None:
    """Metrics find in the model's outputs what they read; notes name those that must be left out before training."""
    first = run.evaluators.get("test") or run.evaluators.get("val")
    if first is None or run.plan.problems:
        return
    outputs = _compute_outputs(run.model, "predict", like=run.model)
    if outputs is not None:
        _give_texts(run, run.model, "predict")
        run.plan.problems += [item for target in run.evaluators.values() for item in target.missing(outputs)]
    if run.plan.problems or not run.settings("evaluate_before"):
        return
    for key, encoder, name in (
        ("evaluate_pixels", RawPixels(), "Raw pixels"),
        ("evaluate_before", run.model, "The backbone as it comes, before training"),
    ):
        outputs = _compute_outputs(encoder, "baseline", like=run.model) if run.settings(key) else None
        if outputs is not None:
            _give_texts(run, encoder, "baseline")
            run.plan.notes += [f"{name}: left out: {problem}" for problem in first.missing(outputs)]


def _give_texts(run: DryRun, model: nn.Module, mode: str) -> None:
    """Give the metrics that ask for texts their embeddings, without values."""

    @cache
    def compute_row() -> Tensor | None:
        alone = getattr(model, "reads_modalities_alone", False)
        outputs = _compute_outputs(model, mode, like=run.model, modality="text") if alone else None
        return None if outputs is None else find_unit_embeddings(outputs, "text")

    for target in run.evaluators.values():
        try:
            target.set_texts(lambda texts: None if (row := compute_row()) is None else row.expand(len(texts), -1))
        except ToolboxError as error:
            run.plan.problems += error.problems


def _compute_outputs(model: nn.Module, mode: str, like: Model, modality: str | None = None) -> dict[str, Tensor] | None:
    """What a model gives of one item; None where that is not known.

    - `like`: the model whose inputs it takes, those of one `modality` alone if it is given.
    """
    names = list(input_specs(like, modality=modality))
    inputs = _make_inputs(like, dict.fromkeys(like.preprocess(), 1)) if names else None
    if inputs is None:
        return None
    inputs = {name: inputs[name] for name in names}
    try:
        with _evaluating(model):
            return model(make_example_batch(like, inputs), mode)
    except (LookupError, NotImplementedError, RuntimeError, ValueError, TypeError):
        return None  # `measure_memory` reports what does not fit together


def _make_inputs(model: Model, rows: Mapping[str, int]) -> dict[str, Any] | None:
    """So many rows without values for each input of a model, None where one of them gives no example."""
    try:
        return {name: preprocess.example(rows[name]) for name, preprocess in model.preprocess().items()}
    except NotImplementedError:
        return None


@contextmanager
def _evaluating(model: nn.Module) -> Iterator[None]:
    """Within, a model is in evaluation mode, and no gradients are computed."""
    was_training = model.training
    model.eval()
    try:
        with torch.no_grad():
            yield
    finally:
        model.train(was_training)
