"""Tables on the terminal."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.console import Console
from rich.table import Table
from rich.text import Text

from toolbox.base.intervals import split_intervals
from toolbox.engine.console import digits
from toolbox.report.table import is_unchanged, is_worse, separate_settings

if TYPE_CHECKING:
    from toolbox.preflight.plan import Plan


def make_terminal() -> Console:
    """Where tables go: as wide as the terminal, and in a file or a pipe wide enough to cut no name short."""
    return Console(width=None if sys.stdout.isatty() or "COLUMNS" in os.environ else 200)


def print_table(columns: Sequence[str], rows: Iterable[Sequence[str]]) -> None:
    """Print a table of texts; one that is too long for its column goes on in the next line."""
    table = Table(*columns)
    for row in rows:  # names of files need not be Unicode
        table.add_row(*(Text(cell.encode("utf-8", "replace").decode(), overflow="fold") for cell in row))
    make_terminal().print(table)


def make_number_table(first: str, *columns: str, title: str | None = None, show_header: bool = True) -> Table:
    """A table of one column of names, and columns of numbers."""
    table = Table(first, title=title, show_header=show_header)
    for column in columns:
        table.add_column(column, justify="right")
    return table


def print_results(results: dict[str, Any]) -> None:
    """The before/after table of a run, what it cost and where the report is."""
    results = separate_settings(results)
    pixels, before, features, after = (results.get(name) or {} for name in ("pixels", "before", "before_head", "after"))
    names, bounds = split_intervals(after or before)
    unchanged, better = is_unchanged(results["before"], results["after"]), results.get("better") or {}
    before = {} if unchanged else before
    columns: dict[str, tuple[Any, Callable[[str], str]]] = {  # whether there are any, and the cell of a metric
        "raw pixels": (pixels, lambda name: format_number(pixels.get(name))),
        "before": (before, lambda name: format_number(before.get(name))),
        "before the head": (features, lambda name: format_number(features.get(name))),
        "after": (True, lambda name: format_number(after.get(name))),
        "95 %": (bounds, lambda name: _format_interval(bounds.get(name))),
        "change": (before, lambda name: _format_change(before.get(name), after.get(name), better.get(name, "greater"))),
    }
    shown = {title: make_cell for title, (values, make_cell) in columns.items() if values}
    table = make_number_table("", *shown)
    for name in names:
        table.add_row(name, *(make_cell(name) for make_cell in shown.values()))
    out = make_terminal()
    if before or after:
        out.print(table)
    if results["chosen"]:
        chosen = ", ".join(f"{name} = {value:g}" for name, value in results["chosen"].items())
        out.print(f"Chosen: {chosen}.", highlight=False)
    if unchanged:
        out.print("What was measured before training, too, was the same then.", highlight=False)
    seconds = results["seconds"]
    share = results["data_wait_seconds"] / seconds if seconds else 0.0
    out.print(
        f"{results['steps']} steps in {seconds:.1f} s, {results['items_per_second']} items/s, "
        f"{results['data_wait_seconds']:.1f} s ({share:.0%}) waiting for data, "
        f"peak memory {results['peak_memory_bytes'] / 2**20:.0f} MiB on {results['device']}.",
        highlight=False,
    )
    out.print(f"Report: {Path(results['report']).resolve()}", highlight=False, soft_wrap=True)


def print_metrics(numbers: dict[str, float], title: str) -> None:
    """Metrics by name; those of one prefix ("dim64/recall@1") in a column, bounds ("recall@1_low") in one more."""
    plain, bounds = split_intervals(numbers)
    prefixes = list(dict.fromkeys(name.rpartition("/")[0] for name in plain))
    prefixes = [""] + [prefix for prefix in prefixes if prefix] if "" in prefixes else prefixes
    headed = len(prefixes) > 1 or bool(bounds) or prefixes != [""]
    columns = [column for prefix in prefixes for column in ([prefix, "95 %"] if prefix == "" and bounds else [prefix])]
    table = make_number_table("", *(column or "plain" for column in columns), title=title, show_header=headed)
    for name in dict.fromkeys(name.rpartition("/")[2] for name in plain):
        cells = [
            _format_interval(bounds.get(name))
            if column == "95 %"
            else format_number(numbers.get(f"{column}/{name}" if column else name))
            for column in columns
        ]
        table.add_row(name, *cells)
    make_terminal().print(table)


def print_plan(plan: Plan) -> None:
    """The table of parts, the length of the run and the memory estimate."""
    table = make_number_table("part", "parameters", "trainable", "learning rate", "weight decay")
    for part in plan.parts:
        frozen, spread = part.lr is None, part.lowest_lr is not None
        rate = "frozen" if frozen else f"{part.lowest_lr:.3g} to {part.lr:g}" if spread else f"{part.lr:g}"
        table.add_row(
            part.name,
            f"{part.parameters:,}",
            f"{part.trainable:,}",
            rate,
            "" if frozen else f"{part.weight_decay:g}",
        )
    out = make_terminal()
    out.print(table)
    for note in plan.notes:
        out.print(note, highlight=False, soft_wrap=True)
    if plan.steps and plan.steps_per_epoch is not None:
        out.print(
            f"{plan.steps:,} steps of {plan.batch_size} items, {round(plan.steps_per_epoch, 2):,} steps an epoch.",
            highlight=False,
        )
    if plan.memory:
        parts = ", ".join(f"{name} {size / 2**30:.2f}" for name, size in plan.memory.items())
        total = sum(plan.memory.values()) / 2**30
        out.print(f"Estimated memory of a step: {total:.2f} GiB ({parts}).", highlight=False, soft_wrap=True)


def _format_change(before: Any, after: Any, better: str) -> str:
    if not (isinstance(before, float) and isinstance(after, float)):
        return ""
    return f"{after - before:+.4f}" + (" (worse)" if is_worse(before, after, better) else "")


def _format_interval(bounds: tuple[float, float] | None) -> str:
    return f"{bounds[0]:.4f} to {bounds[1]:.4f}" if bounds else ""


def format_number(value: Any) -> str:
    """A metric in a table's cell."""
    if value is None:
        return ""
    return digits(value) if isinstance(value, float) else f"{value:,}"
