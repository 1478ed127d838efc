"""Backbones in fewer bits: applied to a model, what it changed, and what does not go together with it."""

from __future__ import annotations

from collections.abc import Callable, Collection
from typing import Any

import torch
from torch import Tensor

from toolbox.base import Backbone, Model
from toolbox.engine.parts import backbones
from toolbox.errors import Problem, ToolboxError

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
        looked_at = images(model, backbone) if images is not None and path not in unknown else None
        before, size = _features(model, backbone, looked_at), _bytes(backbone)
        try:
            layers = backbone.quantize.apply(backbone)
        except ValueError as error:
            raise ToolboxError(str(error), where=f"model.{path}.quantize") from error
        found = backbone.quantize.describe() | {"layers": layers, "bytes_before": size, "bytes": _bytes(backbone)}
        after = _features(model, backbone, looked_at)
        backbone.quantized = found | (_difference(before, after) if before is not None else {})


def sentence(path: str, found: dict[str, Any]) -> str:
    """What quantising a backbone came to, for a person.

    - `found`: its `quantized`.
    """
    of = ", ".join([f"{found['bits']} bits", *(str(found[key]) for key in ("kind", "library") if key in found)])
    text = (
        f"model.{path}: {found['layers']} layers are quantised ({of}), {_megabytes(found['bytes'])} instead of "
        f"{_megabytes(found['bytes_before'])}"
    )
    if "images" not in found:
        return f"{text}."
    return (
        f"{text}. Features of {found['images']} training images against full precision: cosine "
        f"{found['feature_cosine_mean']:.4f} (least {found['feature_cosine_min']:.4f}), relative error "
        f"{found['feature_relative_error']:.3f}."
    )


def check_untrained(path: str, backbone: Backbone) -> None:
    """Raise ToolboxError for a quantised backbone of which more than an adapter trains."""
    if backbone.quantized is not None and backbone.adapter is None and not backbone.frozen:
        raise ToolboxError(
            "A quantised backbone cannot be trained, but for adapters.",
            where=f"model.{path}.tune",
            hint="Set tune=dict(mode='lora') or tune=dict(mode='frozen'), or remove quantize.",
        )


def problems(model: Model, precision: str, env: dict[str, Any], device: Any) -> list[Problem]:
    """What does not go together with quantised backbones.

    - `precision`: of the recipe's `optim_wrapper`; `env`: its `env_cfg`; `device`: what the run will be on.
    """
    quantised = {path: one for path, one in backbones(model).items() if one.quantize is not None}
    if not quantised:
        return []
    found = []
    if env["parallel"]["mode"] == "fsdp":
        message = "Quantised weights cannot be sharded."
        found.append(Problem(message, "env_cfg.parallel.mode", "Use ddp: each process holds the few bytes whole."))
    if env["compile"]:
        message = "torch.compile cannot translate blocks with quantised weights."
        found.append(Problem(message, "env_cfg.compile", "Remove the key."))
    for path, backbone in quantised.items():
        where = f"model.{path}.quantize"
        try:
            backbone.quantize.try_on(torch.device(str(device)))
        except ValueError as error:
            found.append(Problem(str(error), where))
        if message := _contradiction(backbone, precision, device.precisions):
            hint = f"Leave compute out: it is then {precision}, as optim_wrapper.precision says."
            found.append(Problem(message, f"{where}.compute", hint))
    return found


def notes(model: Model) -> list[str]:
    """What a user should know of a model's quantised backbones before a run."""
    return [
        f"{sentence(path, backbone.quantized)[:-1]}; the parts and the memory count what is stored."
        for path, backbone in backbones(model).items()
        if backbone.quantized is not None
    ]


def _contradiction(backbone: Backbone, precision: str, able: tuple[str, ...]) -> str | None:
    """What is wrong with the precision that a quantised backbone asks for."""
    compute = backbone.quantize.compute
    if compute is None or compute == precision:
        return None
    if compute not in able:
        return f"This device cannot compute in {compute}; it can do {', '.join(able)}."
    if {compute, precision} == {"fp16", "bf16"}:
        return f"compute is {compute} and optim_wrapper.precision is {precision}: two halves that do not mix."
    if compute == "fp16" and not backbone.frozen:
        return f"Gradients in fp16 need scaling, which optim_wrapper.precision={precision} does not do."
    return None


def _bytes(backbone: Backbone) -> int:
    return sum(tensor.nbytes for tensor in (*backbone.parameters(), *backbone.buffers()))


def _megabytes(size: int) -> str:
    return f"{size / 1e6:.1f} MB" if size >= 1e5 else f"{size / 1e3:.1f} kB"


def _features(model: Model, backbone: Backbone, images: Tensor | None) -> Tensor | None:
    """(B, P): what the pool behind a backbone makes of it, or its tokens where the model names no pool."""
    if images is None:
        return None
    tower = next((tower for tower in model.towers().values() if tower.backbone is backbone), None)
    was = backbone.training
    backbone.eval()
    with torch.no_grad():
        found = backbone(images).tokens if tower is None else tower(images)
    backbone.train(was)
    return found.flatten(1).double()


def _difference(before: Tensor, after: Tensor) -> dict[str, Any]:
    cosine = torch.nn.functional.cosine_similarity(before, after)
    error = (after - before).norm() / before.norm().clamp(min=torch.finfo(before.dtype).tiny)
    return {
        "images": len(before),
        "feature_cosine_mean": float(cosine.mean()),
        "feature_cosine_min": float(cosine.min()),
        "feature_relative_error": float(error),
    }
