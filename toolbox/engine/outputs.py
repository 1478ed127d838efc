"""Whether metrics find in a model's outputs what they read, asked on torch's meta device."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from toolbox.base import Model
from toolbox.engine.judging.evaluate import EvalSet, Pixels
from toolbox.engine.settings import Settings
from toolbox.errors import Problem


def problems(recipe: dict[str, Any], settings: Settings, model: Model) -> list[Problem]:
    """What metrics would miss, of the model as it is trained and of what is measured before.

    - `model`: on the meta device. Where a forward pass means nothing there, nothing is known, and nothing is said.
    """
    targets = {
        name: EvalSet(recipe[f"{name}_dataloader"], recipe[f"{name}_evaluator"], name=name)
        for name in ("val", "test")
        if recipe[f"{name}_dataloader"] and recipe[f"{name}_evaluator"]
    }
    found = []
    outputs = _outputs(model, "predict") if targets else None
    if outputs is not None:
        found = [problem for target in targets.values() for problem in target.missing(outputs)]
    first = targets.get("test") or targets.get("val")
    if found or first is None or not settings("evaluate_before"):
        return found
    for key, judged, what in (
        ("evaluate_pixels", Pixels(), "Raw pixels"),
        ("evaluate_before", model, "The backbone as it comes, which is measured before training"),
    ):
        outputs = _outputs(judged, "baseline", like=model) if settings(key) else None
        for problem in first.missing(outputs) if outputs is not None else []:
            found.append(
                replace(problem, message=f"{what}: {problem.message}", hint=f"{problem.hint} Or set {key}=False.")
            )
    return found


def _outputs(model: torch.nn.Module, mode: str, like: Model | None = None) -> dict[str, Tensor] | None:
    """What a model gives of one item, without values; None where that cannot be told.

    - `like`: the model whose inputs it takes; default: itself.
    """
    inputs = {}
    preprocess = (like or model).preprocess()
    unused = (like or model).training_only
    for name, source in preprocess.items():
        if source.size is None:
            return None
        if name not in unused:
            inputs[name] = torch.empty(1, 3, *source.size, device="meta")
    batch = {
        "inputs": inputs, "labels": None, "views": dict.fromkeys(inputs, 1), "blocks": 1, "ids": [], "indices": [],
    }  # fmt: skip
    was_training = model.training
    model.eval()
    try:
        with torch.no_grad():
            return model(batch, mode)
    except (NotImplementedError, RuntimeError, ValueError, TypeError):
        return None  # what does not fit together is reported by the step that inspection runs
    finally:
        model.train(was_training)
