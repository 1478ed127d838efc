"""What a new run starts from: a checkpoint, whole, or parts of it, which may get other places in the model."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, TypeVar

import torch
from torch import Tensor

from toolbox.engine.checkpoint.checkpoint import Checkpoint, read
from toolbox.errors import ToolboxError, format_command
from toolbox.utils.key_paths import is_within

T = TypeVar("T")
_MODEL = "model."


def open_start(recipe: Mapping[str, Any]) -> Checkpoint | None:
    """What a recipe's `load_from` and `load_parts` name; None for a recipe that starts from no checkpoint."""
    start, parts = recipe["load_from"], recipe.get("load_parts")
    if start and str(start).endswith(".py"):
        hint = f"Run it first: {format_command('train')} {start}"
        raise ToolboxError(f"{start} has not been trained yet.", where="load_from", hint=hint)
    if not start:
        return None
    checkpoint = read(start)
    if not isinstance(parts, dict):
        return Checkpoint(checkpoint.path, checkpoint.manifest, parts)
    places = {target.removeprefix(_MODEL): source.removeprefix(_MODEL) for target, source in parts.items()}
    moved = MovedParts(checkpoint.path, checkpoint.manifest, list(parts), places=places)
    moved.check_sources()
    return moved


@dataclass
class MovedParts(Checkpoint):
    """A checkpoint of which parts go to other places: its tensors and adapters have the names that they get there.

    - `places`: {path of a part in the model: path in the checkpoint that it is read from}.
    """

    places: dict[str, str] = field(default_factory=dict)

    def check_sources(self) -> None:
        """Raise ToolboxError where the checkpoint holds nothing of a part that is to be read."""
        held = [*super().shapes(), *super().adapters()]
        for target, source in self.places.items():
            if any(is_within(name, source) for name in held):
                continue
            there = ", ".join(sorted({_MODEL + name.split(".")[0] for name in held})) or "nothing"
            hint = f"There is: {there}."
            if source in super().frozen:
                hint = f"It was frozen there, so give {_MODEL}{target} the same weights by name instead."
            message = f"'{_MODEL}{source}' holds no tensors in the checkpoint {self.path}."
            raise ToolboxError(message, where=f"load_parts.{_MODEL}{target}", hint=hint)

    @property
    def frozen(self) -> dict[str, Any]:
        return self._move(super().frozen)

    def model_tensors(self) -> dict[str, Tensor]:
        return self._move(super().model_tensors())

    def shapes(self) -> dict[str, torch.Size]:
        return self._move(super().shapes())

    def adapters(self) -> list[str]:
        return sorted(self._move(dict.fromkeys(super().adapters())))

    def adapter_tensors(self, part: str) -> dict[str, Tensor]:
        targets = [target for target in self.places if is_within(part, target)]
        source = self.places[targets[0]] + part[len(targets[0]) :] if targets else part
        return super().adapter_tensors(source)

    def _move(self, values: Mapping[str, T]) -> dict[str, T]:
        """Values by the names that they get in the model; those of a part that is moved are not where they were."""
        places = [*self.places, *self.places.values()]
        moved = {name: v for name, v in values.items() if not any(is_within(name, place) for place in places)}
        for target, source in self.places.items():
            moved |= {target + name[len(source) :]: v for name, v in values.items() if is_within(name, source)}
        return moved
