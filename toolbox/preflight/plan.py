"""What a recipe would do: its problems, the table of its parts, length and memory."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from toolbox.base import Model
from toolbox.engine.param_groups import ParamGroup
from toolbox.engine.parts import backbones
from toolbox.errors import Problem, ToolboxError

if TYPE_CHECKING:
    from toolbox.preflight.dry_run import DryRun


@dataclass
class PlanRow:
    """A row of the table of parts: a stretch of the model with equal settings.

    - `lowest_lr`: where layer-wise decay spreads the learning rate, its least value; `lr` is its greatest.
    """

    name: str
    parameters: int
    trainable: int
    lr: float | None
    weight_decay: float | None
    lowest_lr: float | None = None


@dataclass
class Plan:
    """What a recipe would do.

    - `dry_run`: what it was found by, None where the recipe could not be made.
    - `idle`: trainable parameters that no gradient reaches, by name; None where that cannot be told.
    """

    problems: list[Problem] = field(default_factory=list)
    parts: list[PlanRow] = field(default_factory=list)
    memory: dict[str, int] = field(default_factory=dict)
    steps: int | None = None
    steps_per_epoch: int | float | None = None
    batch_size: int | None = None
    notes: list[str] = field(default_factory=list)
    idle: list[str] | None = None
    dry_run: DryRun | None = None


@contextmanager
def noted(plan: Plan, where: str = "") -> Iterator[None]:
    """An error inside becomes a problem of the plan."""
    try:
        yield
    except ToolboxError as error:
        plan.problems += error.problems
    except (ValueError, OSError) as error:
        plan.problems.append(Problem(str(error), where))


def parts_of(model: Model, settings: dict[str, ParamGroup]) -> list[PlanRow]:
    """Rows by part (a backbone, a head beside it, a top-level module) and equal settings; frozen ones have none."""
    rows: dict[tuple[str, Any], PlanRow] = {}
    paths = sorted(backbones(model), key=len, reverse=True)
    for name, parameter in model.named_parameters():
        if not parameter.numel():
            continue
        part, group = _part_of(name, paths), settings.get(name)
        lr, decay = (group.lr, group.weight_decay) if group else (None, None)
        row = rows.setdefault((part, group and (group.part_lr, decay)), PlanRow(part, 0, 0, lr, decay))
        if lr is not None and row.lr is not None and lr != row.lr:
            row.lowest_lr = min(lr, row.lr if row.lowest_lr is None else row.lowest_lr)
            row.lr = max(lr, row.lr)
        row.parameters += parameter.numel()
        row.trainable += parameter.numel() if parameter.requires_grad else 0
    return sorted(rows.values(), key=lambda row: (row.name, row.lr is None, -(row.weight_decay or 0)))


def _part_of(name: str, backbone_paths: list[str]) -> str:
    for path in backbone_paths:
        if name.startswith(path + "."):
            return f"model.{path}"
        tower = path.rpartition(".")[0]
        if tower and name.startswith(tower + "."):  # its head, say
            return f"model.{tower}.{name.removeprefix(tower + '.').split('.')[0]}"
    return "model." + name.split(".")[0]
