"""What the features before a trained head are worth, beside the embeddings behind it."""

from __future__ import annotations

from toolbox.base.metric import is_better
from toolbox.engine.console import digits


def compare_with_head(features: dict[str, float], embeddings: dict[str, float], better: dict[str, str]) -> str:
    """One line for the console: the first metric of both, and what to do where the head loses.

    - `features`, `embeddings`: metrics before and behind the head, on the same data.
    - `better`: "greater" or "less" for each metric.
    """
    metric = next((name for name, value in features.items() if isinstance(value, float) and name in embeddings), None)
    if metric is None:
        return "features before the head: no metric can judge them"
    before, behind = features[metric], embeddings[metric]
    line = f"features before the head: {metric} {digits(before)}; with the head: {digits(behind)}"
    if not is_better(before, behind, better.get(metric)):
        return line
    return f"{line}: model.retrieve='features' (the head for the loss only) or model.head=None would be better"
