"""`tools/test.py`: the metrics of a checkpoint, or of a backbone as it comes (zero-shot)."""

from __future__ import annotations

import argparse
import json

from toolbox.cli.common import add_recipe_arguments, guarded, prepare_process


def main(argv: list[str] | None = None) -> int:
    """Run the command; returns its exit code."""
    parser = argparse.ArgumentParser(prog="tools/test.py", description="Evaluate a checkpoint, or zero-shot.")
    add_recipe_arguments(parser)
    parser.add_argument("checkpoint", nargs="?", help="a checkpoint or a run's folder; without: the backbone as it is")
    parser.add_argument("--split", choices=["test", "val"], help="which set (default: test, else val)")
    parser.add_argument("--json", action="store_true", help="print the numbers as JSON")
    arguments = parser.parse_args(argv)
    return guarded(lambda: _test(arguments))


def _test(arguments: argparse.Namespace) -> int:
    prepare_process()
    from toolbox import api
    from toolbox.cli.tables import show_metrics

    config = api.load_config(arguments.config, arguments.cfg_options, arguments.plugin)
    numbers = api.evaluate(config, arguments.checkpoint, split=arguments.split, device=arguments.device)
    if arguments.json:
        print(json.dumps(numbers, indent=1))
    else:
        title = arguments.checkpoint or "zero-shot: the backbone as it comes, without a new head"
        show_metrics(numbers, title)
    return 0
