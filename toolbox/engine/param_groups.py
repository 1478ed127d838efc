"""Parameter groups: explicit module paths, trainable parameters only, equal settings together."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from torch import nn

from toolbox.base import Backbone, Model, Optimizer
from toolbox.engine.checkpoint.transfer import below
from toolbox.engine.parts import backbones
from toolbox.engine.settings import Settings
from toolbox.errors import Problem, ToolboxError


@dataclass
class ParamGroup:
    """Parameters with equal settings, by name (as in `model.named_parameters()`).

    - `part_lr`: the learning rate of the part, before layer-wise decay made `lr` of it.
    """

    lr: float
    weight_decay: float
    part_lr: float
    params: dict[str, nn.Parameter] = field(default_factory=dict)


def parameter_groups(
    model: Model,
    optimizer: Optimizer,
    parts: dict[str, dict[str, float]],
    decay_one_dim: bool = False,
    layer_decay: float | None = None,
    decay_tokens: bool = False,
) -> list[ParamGroup]:
    """Group the trainable parameters of a model.

    - `parts`: settings by path from the recipe, `{"model.head": {"lr": 1e-3}}`; the longest matching path wins.
    - `decay_one_dim`: whether vectors (biases, norms, scales) are decayed too.
    - `layer_decay`: the factor on the learning rate from each block of a backbone to the one below it, None for none;
      `parts` may give another one. It multiplies the learning rate that the part has.
    - `decay_tokens`: whether the `no_weight_decay` of backbones (tokens, position embeddings) is decayed too.

    Raises ToolboxError for settings that have no effect.
    """
    problems = part_problems(model, parts, layer_decay)
    if problems:
        raise ToolboxError.from_problems(problems)
    groups: dict[tuple[float, float, float], ParamGroup] = {}
    depths, factors = distances(model), {f"model.{path}": factor for path, factor in model.lr_factors().items()}
    tokens = token_names(model)
    for name, parameter in model.named_parameters():
        if not parameter.requires_grad or not parameter.numel():  # such as the registers of a net without any
            continue
        settings = _settings(name, parts)
        factor = settings.get("layer_decay", layer_decay)
        part_lr = settings.get("lr", optimizer.lr * _factor(name, factors))
        lr = part_lr * factor ** depths[name] if factor is not None and name in depths else part_lr
        decay = settings.get("weight_decay", optimizer.weight_decay)
        if (parameter.ndim <= 1 and not decay_one_dim) or (name in tokens and not decay_tokens):
            decay = 0.0
        groups.setdefault((lr, decay, part_lr), ParamGroup(lr, decay, part_lr)).params[name] = parameter
    return list(groups.values())


def groups_of_recipe(settings: Settings, model: Model, optimizer: Optimizer) -> list[ParamGroup]:
    """`parameter_groups` with the settings of the recipe's `optim_wrapper`."""
    return parameter_groups(
        model,
        optimizer,
        settings("optim_wrapper.parts") or {},
        settings("optim_wrapper.decay_one_dim"),
        settings("optim_wrapper.layer_decay"),
        settings("optim_wrapper.decay_tokens"),
    )


def token_names(model: Model) -> set[str]:
    """The `no_weight_decay` of a model's backbones beside vectors, by names in `model.named_parameters()`."""
    parameters = dict(model.named_parameters())
    names = {
        f"{path}.{name}" if path else name for path, item in backbones(model).items() for name in item.no_weight_decay()
    }
    return {name for name in names if name in parameters and parameters[name].ndim > 1}


def distances(model: Model) -> dict[str, int]:
    """How many blocks below the output each backbone parameter is, by its name in `model.named_parameters()`.

    Of L blocks the last one is 1 away, the first one L, and what stands before it L + 1; what stands after the last
    block is 0 away. A parameter between two blocks belongs to the upper one. (The convention of BEiT and DINOv3.)
    Adapters count with the block that they sit in.
    """
    return {
        f"{path}.{name}" if path else name: distance
        for path, backbone in backbones(model).items()
        for name, distance in _distances(backbone).items()
    }


def _distances(backbone: Backbone) -> dict[str, int]:
    layers = backbone.layers()
    inside = {id(parameter): number for number, layer in enumerate(layers) for parameter in layer.parameters()}
    below_output: dict[str, int] = {}
    reached = -1
    upper = max(inside.values(), default=-1)
    for name, parameter in backbone.named_parameters():
        if id(parameter) in inside:
            number = inside[id(parameter)]
            reached = max(reached, number)
            below_output[name] = len(layers) - number
        elif reached < 0:
            below_output[name] = len(layers) + 1
        else:
            below_output[name] = 0 if reached == upper else len(layers) - reached - 1
    return below_output


def part_problems(model: Model, parts: dict[str, dict[str, float]], layer_decay: float | None = None) -> list[Problem]:
    """Settings of `optim_wrapper` that cannot have an effect."""
    factors = {f"parts.{path}.layer_decay": settings.get("layer_decay") for path, settings in parts.items()}
    problems = [
        Problem(f"layer_decay is above 0 and at most 1, not {factor:g}.", f"optim_wrapper.{where}", "Try 0.75.")
        for where, factor in {"layer_decay": layer_decay, **factors}.items()
        if factor is not None and not 0 < factor <= 1
    ]
    names = dict(model.named_parameters())
    decayed = distances(model).keys()
    for path, settings in parts.items():
        where = f"optim_wrapper.parts.{path}"
        inside = {name: parameter for name, parameter in names.items() if below(name, path)}
        trained = {name for name, parameter in inside.items() if parameter.requires_grad}
        if not inside:
            known = sorted({f"model.{name}".rsplit(".", 1)[0] for name in names}, key=len)[:6]
            problems.append(Problem(f"There is no part '{path}'.", where, f"Parts are, e.g., {', '.join(known)}."))
        elif not trained:
            problems.append(Problem(f"'{path}' is frozen, so its settings have no effect.", where, "Remove them."))
        elif settings.get("layer_decay") is not None and not trained & decayed:
            message = f"'{path}' holds no backbone that trains, so layer_decay has no effect."
            problems.append(Problem(message, f"{where}.layer_decay", "Remove it, or set lr."))
    if layer_decay is not None and not any(names[name].requires_grad for name in decayed):
        problems.append(
            Problem(
                "No backbone trains, so layer_decay has no effect.",
                "optim_wrapper.layer_decay",
                "Remove it, or set the backbone's tune.",
            )
        )
    return problems


def decay_notes(model: Model, groups: list[ParamGroup], weight_decay: float) -> list[str]:
    """Which tokens and position embeddings are left out of weight decay; none where nothing is decayed."""
    tokens = token_names(model)
    left_out = sorted(name for group in groups if not group.weight_decay for name in group.params if name in tokens)
    if not left_out or not weight_decay:
        return []
    more = f" and {len(left_out) - 4} more" if len(left_out) > 4 else ""
    return [
        f"Weight decay leaves out, beside vectors, {', '.join(f'model.{name}' for name in left_out[:4])}{more}; "
        "optim_wrapper.decay_tokens=True decays them too."
    ]


def torch_groups(groups: list[ParamGroup]) -> list[dict[str, Any]]:
    """What torch's optimizers take; `base_lr` and `base_weight_decay` stay for the schedules."""
    return [
        {
            "params": list(group.params.values()),
            "lr": group.lr,
            "weight_decay": group.weight_decay,
            "base_lr": group.lr,
            "base_weight_decay": group.weight_decay,
        }
        for group in groups
    ]


def _factor(name: str, factors: dict[str, float]) -> float:
    """The model's own factor on the learning rate of a parameter."""
    return factors[max(matching, key=len)] if (matching := [path for path in factors if below(name, path)]) else 1.0


def _settings(name: str, parts: dict[str, dict[str, float]]) -> dict[str, float]:
    matching = sorted((path for path in parts if below(name, path)), key=len)
    merged: dict[str, float] = {}
    for path in matching:
        merged |= {key: value for key, value in parts[path].items() if value is not None}
    return merged
