"""Parameter groups: explicit module paths, trainable parameters only, equal settings together."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from torch import nn

from toolbox.base import Optimizer
from toolbox.errors import Problem, ToolboxError


@dataclass
class Group:
    """Parameters with equal settings, by name (as in `model.named_parameters()`)."""

    lr: float
    weight_decay: float
    params: dict[str, nn.Parameter] = field(default_factory=dict)


def parameter_groups(
    model: nn.Module, optimizer: Optimizer, parts: dict[str, dict[str, float]], decay_one_dim: bool = False
) -> list[Group]:
    """Group the trainable parameters of a model.

    - `parts`: settings by path from the recipe, `{"model.head": {"lr": 1e-3}}`; the longest matching path wins.
    - `decay_one_dim`: whether vectors (biases, norms, scales) are decayed too.

    Raises ToolboxError for a path that names nothing, or only frozen parameters.
    """
    problems = part_problems(model, parts)
    if problems:
        raise ToolboxError.of(problems)
    groups: dict[tuple[float, float], Group] = {}
    for name, parameter in model.named_parameters():
        if not parameter.requires_grad:
            continue
        settings = _settings(f"model.{name}", parts)
        lr = settings.get("lr", optimizer.lr)
        decay = settings.get("weight_decay", optimizer.weight_decay)
        if parameter.ndim <= 1 and not decay_one_dim:
            decay = 0.0
        groups.setdefault((lr, decay), Group(lr, decay)).params[name] = parameter
    return list(groups.values())


def part_problems(model: nn.Module, parts: dict[str, dict[str, float]]) -> list[Problem]:
    """Paths in `optim_wrapper.parts` that cannot have an effect."""
    problems = []
    names = {f"model.{name}": parameter for name, parameter in model.named_parameters()}
    for path in parts:
        where = f"optim_wrapper.parts.{path}"
        found = [parameter for name, parameter in names.items() if _below(name, path)]
        if not found:
            known = sorted({name.rsplit(".", 1)[0] for name in names}, key=len)[:6]
            problems.append(Problem(f"There is no part '{path}'.", where, f"Parts are, e.g., {', '.join(known)}."))
        elif not any(parameter.requires_grad for parameter in found):
            problems.append(Problem(f"'{path}' is frozen, so its settings have no effect.", where, "Remove them."))
    return problems


def torch_groups(groups: list[Group]) -> list[dict[str, Any]]:
    """What torch's optimizers take; `base_lr` and `base_weight_decay` stay for the schedules."""
    return [
        {
            "params": list(group.params.values()), "lr": group.lr, "weight_decay": group.weight_decay,
            "base_lr": group.lr, "base_weight_decay": group.weight_decay,
        }
        for group in groups
    ]  # fmt: skip


def _settings(name: str, parts: dict[str, dict[str, float]]) -> dict[str, float]:
    matching = sorted((path for path in parts if _below(name, path)), key=len)
    merged: dict[str, float] = {}
    for path in matching:
        merged |= parts[path]
    return merged


def _below(name: str, path: str) -> bool:
    return name == path or name.startswith(path + ".") or path == "model"
