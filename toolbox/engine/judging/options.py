"""Arguments for the metrics of a recipe that come from outside it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from toolbox.errors import ToolboxError
from toolbox.registry import catalog, parameters


def set_metric_arguments(recipe: dict[str, Any], split: str, arguments: Mapping[str, Any]) -> list[str]:
    """Set constructor arguments of every metric of a split that has them all, in place; returns their key paths.

    - `recipe`: validated, of plain dicts; `split`: "test" or "val".

    Raises ToolboxError when there is no such metric.
    """
    given = recipe[f"{split}_evaluator"]
    metrics = {f"{split}_evaluator": given} if isinstance(given, dict) else {}
    metrics = metrics or {f"{split}_evaluator.{index}": metric for index, metric in enumerate(given)}
    changed = []
    for path, metric in metrics.items():
        known = {parameter.name for parameter in parameters(catalog().resolve(metric["type"], "metric"))}
        if known >= arguments.keys():
            metric.update(arguments)
            changed += [f"{path}.{name}" for name in arguments]
    if not changed:
        names = ", ".join(metric["type"] for metric in metrics.values()) or "none"
        raise ToolboxError(
            f"No metric here has {', '.join(arguments)}: there is {names}.", where=f"{split}_evaluator",
            hint="Use core.RetrievalRecall.",
        )  # fmt: skip
    return changed
