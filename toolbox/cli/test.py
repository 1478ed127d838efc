"""The command `test`: metrics of a checkpoint, or of a backbone as it comes (zero-shot)."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from toolbox.cli.common import add_recipe_arguments, expand_arguments, load_recipe, new_parser, run_command
from toolbox.cli.model_commands import add_precision
from toolbox.cli.processes import run_in_processes

if TYPE_CHECKING:
    from toolbox.engine.distributed.context import DistributedContext


def main(argv: list[str] | None = None) -> int:
    """Run the command; returns its exit code."""
    parser = _make_parser()
    arguments, unknown = parser.parse_known_args(expand_arguments(argv))
    if unknown:
        parser.error(f"unrecognized arguments: {' '.join(unknown)}; a metric's are set by --metric KEY=VALUE")
    return run_command(lambda: _test(arguments))


def _make_parser() -> argparse.ArgumentParser:
    parser = new_parser("test", "Evaluate a checkpoint, or zero-shot.")
    add_recipe_arguments(parser)
    parser.add_argument("checkpoint", nargs="?", help="a checkpoint or a run's folder; without: the backbone as it is")
    parser.add_argument("--split", choices=["test", "val"], help="which set (default: test, else val)")
    parser.add_argument("--json", action="store_true", help="print the numbers as JSON")
    parser.add_argument(
        "--out",
        metavar="DIR",
        help="folder for test_results.json, report_items.json and report.html: new, empty, or of an earlier test",
    )
    add_precision(parser)
    parser.add_argument(
        "--metric",
        nargs="+",
        action="extend",
        default=[],
        metavar="KEY=VALUE",
        help="set arguments of the recipe's metrics, e.g. intervals=1000; the command list_components prints them",
    )
    return parser


def _test(arguments: argparse.Namespace) -> int:
    def test(distributed: DistributedContext) -> int:
        from toolbox import api
        from toolbox.base.files import to_json
        from toolbox.cli.tables import print_metrics

        numbers = api.evaluate(
            load_recipe(arguments),
            arguments.checkpoint,
            split=arguments.split,
            device=arguments.device,
            metrics=arguments.metric,
            precision=arguments.precision,
            out=arguments.out,
            distributed=distributed,
            log=lambda text: print(text, file=sys.stderr),
            on_start=lambda text: None if arguments.json else print(text, flush=True),
        )
        if arguments.json:
            print(to_json(numbers, indent=1))
            return 0
        print_metrics(numbers, arguments.checkpoint or "zero-shot: the backbone as it comes, without a new head")
        if arguments.out:
            print(f"Report: {(Path(arguments.out) / 'report.html').resolve()}")
        return 0

    return run_in_processes(test)
