"""Logged numbers over steps: reading metrics.jsonl, and which points of a series a chart shows."""

from __future__ import annotations

import json
import math
from pathlib import Path

from toolbox.report.numbers import is_finite, is_number

MOST_POINTS = 600
_LARGEST = 1e30  # beyond it, or its inverse, the arithmetic of ranges overflows

Series = list[tuple[float, float]]


def read_text(path: Path) -> str:
    """The text of a run's file, empty where there is none to be had."""
    try:
        return path.read_text(encoding="utf-8", errors="replace")
    except OSError:
        return ""


def read_series(path: Path) -> dict[str, Series]:
    """{name: [(step, value)]} of a metrics.jsonl, by step; empty without the file. A torn line is left out."""
    points: dict[str, dict[int, float]] = {}
    for line in read_text(path).splitlines():
        try:
            values = json.loads(line)
            step = int(values.pop("step"))
        except (ValueError, KeyError, TypeError, AttributeError):
            continue
        values.pop("epoch", None)
        for name, value in values.items():
            if is_number(value) or value is None:
                points.setdefault(name, {})[step] = math.nan if value is None else value
    return {name: sorted(values.items()) for name, values in points.items()}


def is_count(points: Series) -> bool:
    """Whether a series is the same integer at every step (queries, classes), so that a chart of it says nothing."""
    return len({value for _, value in points}) == 1 and isinstance(points[0][1], int)


def name_series(name: str) -> str:
    """The title of a logged number's chart."""
    return {"lr": "learning rate"}.get(name, name.replace("_", " "))


def is_drawable(value: float) -> bool:
    """Whether a value has a place in a chart."""
    return is_finite(value) and abs(value) < _LARGEST


def split_at_gaps(points: Series) -> list[Series]:
    """Split a series where a value cannot be drawn, so that no line hides it."""
    stretches: list[Series] = [[]]
    for x, value in points:
        if is_drawable(value):
            stretches[-1].append((x, value))
        elif stretches[-1]:
            stretches.append([])
    return [stretch for stretch in stretches if stretch]


def thin_series(points: Series) -> Series:
    """At most about MOST_POINTS points: the lowest, the highest and any undrawable one of each bucket stay."""
    if len(points) <= MOST_POINTS:
        return points
    size = math.ceil(len(points) / (MOST_POINTS // 2))
    kept: Series = []
    for start in range(0, len(points), size):
        bucket = points[start : start + size]
        drawable = [point for point in bucket if is_drawable(point[1])]
        extremes = {min(drawable, key=lambda p: p[1]), max(drawable, key=lambda p: p[1])} if drawable else set()
        gaps = [point for point in bucket if not is_drawable(point[1])][:1]
        kept += sorted([*extremes, *gaps], key=lambda p: p[0])
    return kept
