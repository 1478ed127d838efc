"""Whether metrics find in a model's outputs what they read, asked on torch's meta device."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from toolbox.base import Batch, Model
from toolbox.engine.evaluation.evaluator import Evaluator
from toolbox.engine.hooks.pixel_baseline import RawPixels
from toolbox.engine.settings import Settings
from toolbox.errors import Problem


def look(targets: Mapping[str, Evaluator], settings: Settings, model: Model) -> tuple[list[Problem], list[str]]:
    """What metrics would miss in a model as it is trained, and notes on which of them cannot judge what is measured
    before, where they are left out.

    - `targets`: the evaluators by split.
    - `model`: on the meta device. Where a forward pass means nothing there, nothing is known, and nothing is said.
    """
    outputs = _outputs(model, "predict", like=model) if targets else None
    problems: list[Problem] = []
    for target in targets.values() if outputs is not None else ():
        problems += target.missing(outputs)
    first = targets.get("test") or targets.get("val")
    notes: list[str] = []
    if problems or first is None or not settings("evaluate_before"):
        return problems, notes
    for key, evaluated, what in (
        ("evaluate_pixels", RawPixels(), "Raw pixels"),
        ("evaluate_before", model, "The backbone as it comes, before training"),
    ):
        outputs = _outputs(evaluated, "baseline", like=model) if settings(key) else None
        notes += [f"{what}: left out: {problem}" for problem in (first.missing(outputs) if outputs is not None else ())]
    return problems, notes


def _outputs(model: torch.nn.Module, mode: str, like: Model) -> dict[str, Tensor] | None:
    """What a model gives of one item, without values; None where that cannot be told.

    - `like`: the model whose inputs it takes.
    """
    inputs = {}
    unused = like.training_only
    for name, source in like.preprocess().items():
        if source.size is None:
            return None
        if name not in unused:
            inputs[name] = torch.empty(1, 3, *source.size, device="meta")
    was_training = model.training
    model.eval()
    try:
        with torch.no_grad():
            return model(Batch.example(inputs), mode)
    except (NotImplementedError, RuntimeError, ValueError, TypeError):
        return None  # what does not fit together is reported by the step that inspection runs
    finally:
        model.train(was_training)
