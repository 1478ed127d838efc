"""What follows from a recipe's plain settings. The recipe is complete: defaults are filled in by toolbox.config."""

from __future__ import annotations

import math
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
        schedules = self.recipe.get("param_scheduler") or []
        return schedules if isinstance(schedules, list) else [schedules]

    def best_metric(self, metrics: dict[str, float], better: dict[str, str]) -> tuple[str, bool]:
        """The metric that chooses the best checkpoint, and whether greater is better.

        - `better`: "greater" or "less" for each metric, as the metrics declare; the recipe's `rule` goes first.
        """
        name = self._best(metrics)
        if name not in metrics or not math.isfinite(metrics[name]):
            raise ToolboxError(
                f"There is no finite validation metric '{name}'.",
                where="default_hooks.checkpoint.save_best",
                hint=f"There are: {', '.join(metrics) or 'none'}.",
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
    if isinstance(value, list):
        return set().union(*map(_namespaces, value))
    if not isinstance(value, dict):
        return set()
    namespaces = set().union(*map(_namespaces, value.values()))
    if isinstance(value.get("type"), str):
        namespaces.add(value["type"].split(".")[0])
    return namespaces
