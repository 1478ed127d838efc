"""Arguments for the metrics of a recipe that come from outside it."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from toolbox.config.overrides import apply_overrides
from toolbox.errors import ToolboxError
from toolbox.registry import get_catalog, read_parameters
from toolbox.registry.messages import suggest_nearest


def set_metric_arguments(
    recipe: dict[str, Any], split: str, arguments: Mapping[str, Any] | Iterable[str]
) -> dict[str, list[str]]:
    """Set constructor arguments of the metrics of a split, in place, in every metric that has them.

    - `recipe`: validated, of plain dicts; `split`: "test" or "val".
    - `arguments`: `{"intervals": 1000}`, or strings "intervals=1000" as the command line takes them.

    Returns the key paths that each argument was set at. Raises ToolboxError for one that no metric has, with the
    nearest one.
    """
    pairs = arguments.items() if isinstance(arguments, Mapping) else map(_split, arguments)
    evaluator = recipe[f"{split}_evaluator"]
    metrics = {f"{split}_evaluator": evaluator} if isinstance(evaluator, dict) else {}
    metrics = metrics or {f"{split}_evaluator.{index}": metric for index, metric in enumerate(evaluator)}
    names_by_metric = {path: _list_arguments(metric["type"]) for path, metric in metrics.items()}
    key_paths: dict[str, list[str]] = {}
    for name, value in pairs:
        key_paths[name] = [f"{path}.{name}" for path, names in names_by_metric.items() if name in names]
        if not key_paths[name]:
            types = ", ".join(metric["type"] for metric in metrics.values()) or "none"
            raise ToolboxError(
                f"No metric here has {name}: there is {types}.",
                where=f"{split}_evaluator",
                hint=_suggest(name, {other for names in names_by_metric.values() for other in names}),
            )
        apply_overrides(recipe, dict.fromkeys(key_paths[name], value), None)
    return key_paths


def _split(text: str) -> tuple[str, str]:
    name, equals, value = text.partition("=")
    if not equals or not name:
        raise ToolboxError(f"'{text}' sets no argument of a metric.", hint="Write key=value, e.g. intervals=1000.")
    return name, value


def _list_arguments(fullname: str) -> list[str]:
    return [parameter.name for parameter in read_parameters(get_catalog().resolve(fullname, "metric"))]


def _suggest(name: str, arguments: Iterable[str]) -> str:
    """The nearest argument of the recipe's metrics, else the metrics that have this one."""
    if hint := suggest_nearest(name, arguments):
        return hint
    owners = []
    for entry in get_catalog().find("metric"):
        try:
            if not entry.missing and name in _list_arguments(entry.fullname):
                owners.append(entry.fullname)
        except ToolboxError:
            continue  # a broken plugin has nothing to offer
    if owners:
        return f"It belongs to {', '.join(owners)}."
    return f"Their arguments: {', '.join(sorted(arguments)) or 'none'}."
