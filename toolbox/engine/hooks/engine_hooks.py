"""The hooks that a recipe asks for by its keys, and not by `custom_hooks`."""

from __future__ import annotations

from typing import TYPE_CHECKING

from toolbox.base import Hook
from toolbox.engine.hooks.average import WeightAveraging
from toolbox.engine.hooks.out_of_memory import OutOfMemoryAdvice
from toolbox.engine.hooks.pixel_baseline import PixelBaseline
from toolbox.engine.hooks.profiler import Profiler
from toolbox.engine.hooks.wise_ft import WiseFT

if TYPE_CHECKING:
    from toolbox.engine.trainer import Trainer


def build_engine_hooks(trainer: Trainer, profile: int | None = None) -> list[Hook]:
    """The engine's own hooks of a run, in their order; they come before those of the recipe.

    - `profile`: how many steps to profile, None for none.
    """
    settings = trainer.setup.settings
    hooks: list[Hook] = []
    if settings("optim_wrapper.average"):
        hooks.append(WeightAveraging(trainer.setup))  # the first: others may look at the averages after a step
    if settings("evaluate_before") and settings("evaluate_pixels"):
        hooks.append(PixelBaseline(trainer))
    if settings("train_cfg.wise_ft"):
        hooks.append(WiseFT(trainer))
    hooks.append(OutOfMemoryAdvice(trainer))
    if profile is not None and trainer.is_main:
        hooks.append(Profiler(profile, trainer.setup.device))
    return hooks
