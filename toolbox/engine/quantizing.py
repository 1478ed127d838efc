"""Backbones in fewer bits: applied to a model, what it changed, and what does not go together with it."""

from __future__ import annotations

from collections.abc import Callable, Collection
from typing import Any

import torch
from torch import Tensor

from toolbox.base import Backbone, Model
from toolbox.engine.parts import backbones
from toolbox.errors import Problem, ToolboxError
from toolbox.plugin import Device

Images = Callable[[Model, Backbone], Tensor | None]
"""Gives images as a backbone of a model takes them, None where it reads none."""


def apply(model: Model, images: Images | None = None, unknown: Collection[str] = ()) -> None:
    """Apply every backbone's `quantize` that is not applied yet; `backbone.quantized` says then what it came to.

    - `images`: show how much features change; None to leave that out.
    - `unknown`: paths of backbones whose weights are still to come, so that nothing can be said of their features.

    Raises ToolboxError where it cannot be applied.
    """
    for path, backbone in backbones(model).items():
        if backbone.quantize is None or backbone.quantized is not None:
            continue
        examples = images(model, backbone) if images is not None and path not in unknown else None
        before = None if examples is None else _features(model, backbone, examples)
        size = _bytes(backbone)
        try:
            layers = backbone.quantize.apply(backbone)
        except ValueError as error:
            raise ToolboxError(str(error), where=f"model.{path}.quantize") from error
        record = backbone.quantize.describe() | {"layers": layers, "bytes_before": size, "bytes": _bytes(backbone)}
        if examples is not None and before is not None:
            record |= _difference(before, _features(model, backbone, examples))
        backbone.quantized = record


def records(model: Model) -> dict[str, dict[str, Any]]:
    """What quantising changed, by the path of the backbone."""
    return {path: backbone.quantized for path, backbone in backbones(model).items() if backbone.quantized is not None}


def describe(path: str, record: dict[str, Any]) -> str:
    """What quantising the backbone at `path` changed, as text."""
    way = ", ".join([f"{record['bits']} bits", *(str(record[key]) for key in ("kind", "library") if key in record)])
    text = (
        f"model.{path}: {record['layers']} layers are quantised ({way}), {_megabytes(record['bytes'])} instead of "
        f"{_megabytes(record['bytes_before'])}"
    )
    if "images" not in record:
        return f"{text}."
    return (
        f"{text}. Features of {record['images']} training images against full precision: cosine "
        f"{record['feature_cosine_mean']:.4f} (least {record['feature_cosine_min']:.4f}), relative error "
        f"{record['feature_relative_error']:.3f}."
    )


def check_untrained(path: str, backbone: Backbone) -> None:
    """Raise ToolboxError for a quantised backbone of which more than an adapter trains."""
    if backbone.quantized is not None and backbone.adapter is None and not backbone.frozen:
        raise ToolboxError(
            "A quantised backbone cannot be trained, but for adapters.",
            where=f"model.{path}.tune",
            hint="Set tune=dict(mode='lora') or tune=dict(mode='frozen'), or remove quantize.",
        )


def problems(model: Model, precision: str, env: dict[str, Any], device: Device) -> list[Problem]:
    """What does not go together with quantised backbones.

    - `precision`: of the recipe's `optim_wrapper`; `env`: its `env_cfg`; `device`: what the run will be on.
    """
    quantised = [
        (path, backbone, backbone.quantize)
        for path, backbone in backbones(model).items()
        if backbone.quantize is not None
    ]
    if not quantised:
        return []
    problems = []
    if env["parallel"]["mode"] == "fsdp":
        message = "Quantised weights cannot be sharded."
        problems.append(Problem(message, "env_cfg.parallel.mode", "Use ddp: each process holds the few bytes whole."))
    if env["compile"]:
        message = "torch.compile cannot translate blocks with quantised weights."
        problems.append(Problem(message, "env_cfg.compile", "Remove the key."))
    for path, backbone, quantize in quantised:
        where = f"model.{path}.quantize"
        try:
            quantize.try_on(torch.device(str(device)))
        except ValueError as error:
            problems.append(Problem(str(error), where))
        contradiction = _contradiction(quantize.compute, precision, device.precisions, frozen=backbone.frozen)
        if contradiction:
            hint = f"Leave compute out: it is then {precision}, as optim_wrapper.precision says."
            problems.append(Problem(contradiction, f"{where}.compute", hint))
    return problems


def notes(model: Model) -> list[str]:
    """What a user should know of a model's quantised backbones before a run."""
    return [
        f"{describe(path, record)[:-1]}; the parts and the memory count what is stored."
        for path, record in records(model).items()
    ]


def _contradiction(compute: str | None, precision: str, able: tuple[str, ...], *, frozen: bool) -> str | None:
    """What is wrong with the precision that a quantised backbone asks for."""
    if compute is None or compute == precision:
        return None
    if compute not in able:
        return f"This device cannot compute in {compute}; it can do {', '.join(able)}."
    if {compute, precision} == {"fp16", "bf16"}:
        return f"compute is {compute} and optim_wrapper.precision is {precision}: two halves that do not mix."
    if compute == "fp16" and not frozen:
        return f"Gradients in fp16 need scaling, which optim_wrapper.precision={precision} does not do."
    return None


def _bytes(backbone: Backbone) -> int:
    return sum(tensor.nbytes for tensor in (*backbone.parameters(), *backbone.buffers()))


def _megabytes(size: int) -> str:
    return f"{size / 1e6:.1f} MB" if size >= 1e5 else f"{size / 1e3:.1f} kB"


def _features(model: Model, backbone: Backbone, images: Tensor) -> Tensor:
    """(B, P): what the pool behind a backbone makes of it, or its tokens where the model names no pool."""
    tower = next((tower for tower in model.pooled_backbones().values() if tower.backbone is backbone), None)
    was_training = backbone.training
    backbone.eval()
    with torch.no_grad():
        features: Tensor = backbone(images).tokens if tower is None else tower(images)
    backbone.train(was_training)
    return features.flatten(1).double()


def _difference(before: Tensor, after: Tensor) -> dict[str, Any]:
    cosine = torch.nn.functional.cosine_similarity(before, after)
    error = (after - before).norm() / before.norm().clamp(min=torch.finfo(before.dtype).tiny)
    return {
        "images": len(before),
        "feature_cosine_mean": float(cosine.mean()),
        "feature_cosine_min": float(cosine.min()),
        "feature_relative_error": float(error),
    }
