"""What follows from a recipe's plain settings. The recipe is complete: defaults are filled in by toolbox.config."""

from __future__ import annotations

import math
from fractions import Fraction
from typing import Any

from toolbox.errors import ToolboxError
from toolbox.utils.key_paths import get_value, has_key


class Settings:
    """Settings of a complete recipe: `settings("train_cfg.val_interval")`."""

    def __init__(self, recipe: dict[str, Any]) -> None:
        self.recipe = recipe

    def __call__(self, path: str) -> Any:
        if not has_key(self.recipe, path):
            raise KeyError(path)
        return get_value(self.recipe, path)

    def sampler(self) -> dict[str, Any]:
        """The training sampler's config: given, or core.Shuffled of `batch_size`."""
        loader = self.recipe["train_dataloader"]
        return loader.get("sampler") or {"type": "core.Shuffled", "batch_size": loader["batch_size"]}

    def schedules(self) -> list[dict[str, Any]]:
        """The schedules' configs."""
        given = self.recipe.get("param_scheduler") or []
        return given if isinstance(given, list) else [given]

    def steps(self, batches: int) -> int:
        """The length of the run, for `batches` an epoch; what accumulation leaves over is the last step's too."""
        max_steps = self("train_cfg.max_steps")
        if max_steps is not None:
            return max_steps
        return max(1, self("train_cfg.max_epochs") * batches // self("optim_wrapper.accumulative_counts"))

    def steps_per_epoch(self, batches: int) -> Fraction:
        """The steps that an epoch of `batches` takes; it may end within one."""
        return Fraction(batches, self("optim_wrapper.accumulative_counts"))

    def validate_every(self, steps_per_epoch: Fraction | int) -> Fraction | int:
        """Steps between two validations."""
        interval = self("train_cfg.val_interval")
        by_epoch = interval is None or self("train_cfg.max_steps") is None
        return (interval or 1) * (steps_per_epoch if by_epoch else 1)

    def save_every(self, steps_per_epoch: Fraction | int) -> Fraction | int:
        """Steps between two checkpoints."""
        interval, by_epoch = self("default_hooks.checkpoint.interval"), self("default_hooks.checkpoint.by_epoch")
        if by_epoch is None:
            by_epoch = interval is None or self("train_cfg.max_steps") is None
        return (interval or 1) * (steps_per_epoch if by_epoch else 1)

    def best_metric(self, found: dict[str, float], better: dict[str, str]) -> tuple[str, bool]:
        """The metric that chooses the best checkpoint, and whether greater is better.

        - `better`: "greater" or "less" for each metric, as the metrics declare; the recipe's `rule` goes first.
        """
        name = self._best(found)
        if name not in found or not math.isfinite(found[name]):
            raise ToolboxError(
                f"There is no finite validation metric '{name}'.",
                where="default_hooks.checkpoint.save_best",
                hint=f"There are: {', '.join(found) or 'none'}.",
            )
        rule = self("default_hooks.checkpoint.rule")
        return name, (rule or better.get(name, "greater")) == "greater"

    def directions(self, better: dict[str, str]) -> dict[str, str]:
        """`better`, as the metrics declare it, with the recipe's `rule` for the metric that chooses the best."""
        rule = self("default_hooks.checkpoint.rule")
        return better | ({self._best(better): rule} if rule and better else {})

    def _best(self, names: dict[str, Any]) -> str:
        """The metric that chooses the best checkpoint; "auto" is the first of `names`, where there are any."""
        name = self("default_hooks.checkpoint.save_best")
        return next(iter(names), name) if name == "auto" else name

    def namespaces(self) -> list[str]:
        """The plugins that the recipe names."""
        return sorted({"core", *_namespaces(self.recipe)})


def _namespaces(value: Any) -> set[str]:
    if isinstance(value, dict):
        own = {value["type"].split(".")[0]} if isinstance(value.get("type"), str) else set()
        return own.union(*map(_namespaces, value.values()))
    if isinstance(value, list):
        return set().union(*map(_namespaces, value))
    return set()
