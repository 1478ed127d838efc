"""What to say when memory runs out: what the step needed, and which settings would need how much less.

Every proposal is the recipe with a few keys changed, whose step is counted on the meta device as `--check` does.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import torch

from toolbox.base import Batch, Hook, Model, Run
from toolbox.engine import grad_cache as grad_cache
from toolbox.engine.assemble import apply_tuning, build_structure
from toolbox.engine.feature_extraction.cacheable import list_cacheable
from toolbox.engine.memory import step_memory
from toolbox.engine.parts import backbones
from toolbox.errors import ToolboxError
from toolbox.plugin import Device
from toolbox.utils.key_paths import get_value, set_value
from toolbox.utils.messages import shorten_error

if TYPE_CHECKING:
    from toolbox.engine.trainer import Trainer

_SAID = ("can't allocate memory", "not enough memory", "out of memory")  # torch's allocators, by device
_WORTH = 0.02  # a proposal that saves a smaller share is none

Changes = dict[str, Any]
"""{key path of the recipe: value}."""


def ran_out(error: BaseException) -> bool:
    """Whether this error says that memory could not be had."""
    if isinstance(error, torch.OutOfMemoryError | MemoryError):
        return True
    return isinstance(error, RuntimeError) and any(said in str(error) for said in _SAID)


class OutOfMemoryAdvice(Hook):
    """Says which settings would need less memory where a step of the run `trainer` runs out of it."""

    def __init__(self, trainer: Trainer) -> None:
        self.trainer = trainer

    def on_exception(self, run: Run, error: Exception) -> None:
        setup, batches = self.trainer.setup, self.trainer.batches
        if not batches or not ran_out(error):
            return
        largest = max(batches, key=len)
        rows = {name: grad_cache.row_count({name: value}) for name, value in largest.inputs.items()}
        raise _advice(setup.recipe, setup.classes, rows, run.step + 1, setup.device, error) from error


@contextmanager
def evaluating(where: str, batch: Batch) -> Iterator[None]:
    """Within, outputs of a batch are computed; `where`: the key of its dataloader, empty where no recipe has one."""
    try:
        yield
    except (RuntimeError, MemoryError) as error:
        if not ran_out(error):
            raise
        size = len(batch)
        smaller = f"batch_size={max(1, size // 4)}"
        hint = (
            f"A smaller batch gives the same numbers: {f'the override {where}.' if where else ''}{smaller} needs about "
            f"a quarter of the memory beyond the model's own."
            if size > 1
            else "The batch is one item already: another device, or smaller images."
        )
        raise ToolboxError(
            f"Out of memory while {size} items were evaluated: {shorten_error(error)}.", where=where, hint=hint
        ) from error


def _advice(
    recipe: dict[str, Any], classes: int | None, rows: dict[str, int], step: int, device: Device, error: BaseException
) -> ToolboxError:
    listed = ", ".join(f"{count} {name}s" for name, count in rows.items())
    message = f"Out of memory at step {step}, with {listed} in a batch: {shorten_error(error)}."
    parts = _parts(recipe, classes, rows) or {}
    total = sum(parts.values())
    if parts:
        named = ", ".join(f"{name} {_size(size)}" for name, size in parts.items())
        message += f" The step needs an estimated {_size(total)} ({named}), beside the loss."
    ways = proposals(recipe, classes, rows, device)
    ways_to_save = [
        f"the override {' '.join(f'{key}={value}' for key, value in changes.items())}"
        + (f" saves about {_size(saved)} ({saved / total:.0%})" if saved is not None else "")
        for changes, saved in ways
    ]
    hint = (
        f"Each of these helps: {'; '.join(ways_to_save)}." if ways_to_save else "Try smaller images, or another device."
    )
    if any("optim_wrapper.accumulative_counts" in changes for changes, _ in ways):
        hint += (
            " With accumulative_counts a loss that compares items sees fewer of them at a time, with grad_cache not."
        )
    return ToolboxError(message, where="train_dataloader", hint=hint)


def proposals(
    recipe: dict[str, Any], classes: int | None, rows: dict[str, int], device: Device
) -> list[tuple[Changes, int | None]]:
    """(changes, bytes that they save) of what applies to a recipe, the greatest saving first.

    - `rows`: the rows of each input in a batch.

    The savings are None where a step cannot be counted: with inputs that are no images.
    """
    model = _structure(recipe, classes)
    now = sum((_parts(recipe, classes, rows) or {}).values())
    ways: list[tuple[Changes, int | None]] = []
    for changes, left in (*_smaller(recipe, rows), *_cheaper(recipe, model, rows, device)):
        then = _parts(_changed(recipe, changes), classes, left) if now else None
        saved = now - sum(then.values()) if then else None
        if saved is None or saved > _WORTH * now:
            ways.append((changes, saved))
    return sorted(ways, key=lambda way: -(way[1] or 0))


def _smaller(recipe: dict[str, Any], rows: dict[str, int]) -> Iterator[tuple[Changes, dict[str, int]]]:
    """Half the batch, twice the batches."""
    sampler = recipe["train_dataloader"].get("sampler")
    path, given = ("train_dataloader.sampler", sampler) if sampler else ("train_dataloader", recipe["train_dataloader"])
    key = next((key for key in ("batch_size", "classes") if isinstance(given.get(key), int) and given[key] >= 4), None)
    if key is not None and given[key] % 2 == 0:
        twice = 2 * recipe["optim_wrapper"]["accumulative_counts"]
        changes = {f"{path}.{key}": given[key] // 2, "optim_wrapper.accumulative_counts": twice}
        yield changes, {name: max(1, count // 2) for name, count in rows.items()}


def _cheaper(
    recipe: dict[str, Any], model: Model, rows: dict[str, int], device: Device
) -> Iterator[tuple[Changes, dict[str, int]]]:
    """The same batch, computed in another way."""
    wrapper = recipe["optim_wrapper"]
    if len(set(rows.values())) == 1 and not grad_cache.problems(model):
        most = wrapper["grad_cache"]["chunk_size"] if wrapper["grad_cache"] else next(iter(rows.values()))
        if most > 1:
            yield {"optim_wrapper.grad_cache.chunk_size": max(1, min(most // 2, 32))}, rows
    able = {
        f"model.{path}.gradient_checkpointing": True
        for path, backbone in backbones(model).items()
        if "checkpointing" in backbone.abilities and not backbone.gradient_checkpointing
        if isinstance(get_value(recipe, f"model.{path}"), dict)
        and any(part.requires_grad for part in backbone.parameters())
    }
    if able:
        yield able, rows
    if wrapper["precision"] == "fp32" and "bf16" in device.precisions:
        yield {"optim_wrapper.precision": "bf16"}, rows


def _parts(recipe: dict[str, Any], classes: int | None, rows: dict[str, int]) -> dict[str, int] | None:
    """{what: bytes} of a step, None where it cannot be counted."""
    chunk = recipe["optim_wrapper"]["grad_cache"]
    try:
        model = _structure(recipe, classes)
        stored = list_cacheable(model) if recipe.get("features") else None
        parts, _ = step_memory(model, rows, recipe["optim_wrapper"]["precision"], chunk and chunk["chunk_size"], stored)
    except (RuntimeError, ValueError, TypeError, NotImplementedError, ToolboxError):
        return None  # an estimate is not worth another message
    return parts


def _structure(recipe: dict[str, Any], classes: int | None) -> Model:
    with torch.device("meta"):
        model = build_structure(recipe, classes)
        apply_tuning(model)
    return model


def _changed(recipe: dict[str, Any], changes: Changes) -> dict[str, Any]:
    changed = copy.deepcopy(recipe)
    for path, value in changes.items():
        set_value(changed, path, value)
    return changed


def _size(count: float) -> str:
    return f"{count / 2**30:.1f} GiB" if count >= 2**30 else f"{count / 2**20:.1f} MiB"
