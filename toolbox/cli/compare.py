"""The command `compare_runs`: two or more runs side by side, on the terminal and as compare.html."""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import TYPE_CHECKING

from toolbox.cli.common import new_parser, parse_and_run, prepare_process

if TYPE_CHECKING:
    from toolbox.base import Dataset
    from toolbox.report.compare import Comparison
    from toolbox.report.grid import Grid


def main(argv: list[str] | None = None) -> int:
    """Run the command; returns its exit code."""
    parser = new_parser(
        "compare", "Compare runs: numbers, settings, curves, and the items that flipped. The first is the reference."
    )
    parser.add_argument("runs", nargs="+", metavar="RUN", help="a folder of `train`, or of `test --out`")
    parser.add_argument(
        "--out", default="work_dirs/compare", metavar="DIR", help="folder of compare.html (%(default)s)"
    )
    parser.add_argument("--plugin", action="append", default=[], metavar="FILE", help="load a local plugin")
    parser.add_argument("--json", action="store_true", help="print the comparison as JSON")
    return parse_and_run(parser, argv, _compare)


def _compare(arguments: argparse.Namespace) -> int:
    prepare_process()
    from toolbox.report.compare import compare_runs
    from toolbox.report.compare_page import write_comparison

    comparison = compare_runs(arguments.runs)
    dataset, why = open_evaluated_dataset(comparison, arguments.plugin)
    page = write_comparison(arguments.out, comparison, dataset, why)
    if arguments.json:
        print(json.dumps({**comparison.to_record(), "page": str(page)}, indent=1, allow_nan=False))
    else:
        _print_comparison(comparison, page)
    return 0


def open_evaluated_dataset(comparison: Comparison, plugins: list[str]) -> tuple[Dataset | None, str]:
    """(the data that the runs were evaluated on, of the first recipe that can be built; else why there are none)."""
    from toolbox import api
    from toolbox.config import load_plugins
    from toolbox.report.compare import find_evaluated_data

    if not any(pair.outcomes and (pair.outcomes.lost or pair.outcomes.gained) for pair in comparison.pairs):
        return None, "no item flipped"
    why = "no recipe says what the runs were evaluated on"
    for run in comparison.runs:
        settings = find_evaluated_data(run)
        if settings is None:
            continue
        try:
            load_plugins(plugins)  # and not those that a run names: it may be another's
            dataset: Dataset = api.build(settings)
            problems = dataset.check()
            if not problems:
                len(dataset)
                return dataset, ""
            why = f"the data of {run.label} are not here: {problems[0].message}"
        except Exception as error:  # data may be gone in any way, and nothing but images on the page is lost
            why = f"the data of {run.label} cannot be read: {error}"
    return None, why.rstrip(".")


def _print_comparison(comparison: Comparison, page: Path) -> None:
    from toolbox.cli.tables import make_terminal
    from toolbox.report.compare_page import describe_outcomes, make_costs_grid, make_metrics_grid

    out = make_terminal()
    for alarm in comparison.alarms:
        out.print(f"NOT THE SAME TEST. {alarm}", style="bold red", highlight=False, soft_wrap=True, markup=False)
    _print_grid(out, make_metrics_grid(comparison), "metrics")
    _print_grid(out, make_costs_grid(comparison), "what they took")
    columns = [("setting", False), *((label, False) for label in comparison.labels)]
    rows = [(name, *(text or "–" for text in texts)) for name, texts in comparison.settings]
    _print_rows(out, columns, rows, "settings that differ" if rows else "no setting is known to differ")
    for pair in comparison.pairs:
        first = comparison.labels[0]
        sentences = [f"{first} and {pair.label} are not compared item by item: {pair.why}"]
        if pair.outcomes:
            sentences = describe_outcomes(first, pair.label, pair.outcomes)
        for sentence in sentences:
            out.print(sentence, highlight=False, soft_wrap=True, markup=False)
    for label, note in comparison.notes:
        out.print(f"{label}: {note}", style="yellow", highlight=False, soft_wrap=True, markup=False)
    out.print(f"Page: {page.resolve()}", highlight=False, soft_wrap=True, markup=False)


def _print_grid(out, grid: Grid, title: str) -> None:
    _print_rows(out, grid.columns, [[cell.text for cell in row] for row in grid.rows], title)


def _print_rows(out, columns: list[tuple[str, bool]], rows: list, title: str) -> None:
    from rich.table import Table
    from rich.text import Text

    if not rows:
        out.print(f"({title})", style="dim")
        return
    table = Table(title=title, title_justify="left")
    for name, number in columns:
        table.add_column(Text(name), justify="right" if number else "left", overflow="fold")
    for row in rows:
        table.add_row(*map(Text, row))
    out.print(table)
