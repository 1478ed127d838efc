"""The command `test`: metrics of a checkpoint, or of a backbone as it comes (zero-shot)."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import Any

from toolbox.cli.common import add_recipe_arguments, expand_arguments, guarded, new_parser, prepare_process
from toolbox.cli.sources import add_precision
from toolbox.errors import ToolboxError

RERANK = [20, 6, 0.3]


def main(argv: list[str] | None = None) -> int:
    """Run the command; returns its exit code."""
    arguments = _parser().parse_args(expand_arguments(argv))
    return guarded(lambda: _test(arguments))


def _parser() -> argparse.ArgumentParser:
    parser = new_parser("test", "Evaluate a checkpoint, or zero-shot.")
    add_recipe_arguments(parser)
    parser.add_argument("checkpoint", nargs="?", help="a checkpoint or a run's folder; without: the backbone as it is")
    parser.add_argument("--split", choices=["test", "val"], help="which set (default: test, else val)")
    parser.add_argument("--json", action="store_true", help="print the numbers as JSON")
    parser.add_argument(
        "--out",
        metavar="DIR",
        help="write test_results.json, findings.json and report.html to this folder: new, empty, or of an earlier test",
    )
    add_precision(parser)
    more = parser.add_argument_group("more numbers of core.RetrievalRecall")
    more.add_argument("--dims", nargs="+", type=int, metavar="DIM", help="also of the first DIM dimensions alone")
    more.add_argument(
        "--bootstrap",
        type=int,
        metavar="N",
        help="95 %% intervals from N resamples of the classes (core.Accuracy: of the items)",
    )
    more.add_argument("--whiten", type=int, metavar="DIM", help="also after PCA whitening to DIM dimensions")
    more.add_argument(
        "--whiten-from", choices=["train", "gallery"],
        help="what the whitening is learned from: the training set, which is embedded for it (default), or the gallery",
    )  # fmt: skip
    more.add_argument(
        "--alpha-qe", nargs=2, type=float, metavar=("K", "ALPHA"), help="also after alpha query expansion, e.g. 10 3"
    )
    more.add_argument("--expand-gallery", action="store_true", help="with --alpha-qe: expand the gallery's items too")
    more.add_argument(
        "--rerank", nargs="*", type=float, metavar="K1 K2 LAMBDA",
        help="also after k-reciprocal re-ranking (bare: 20 6 0.3)",
    )  # fmt: skip
    return parser


def metric_arguments(arguments: argparse.Namespace) -> dict[str, Any]:
    """What the options say to the metric. Raises ToolboxError for options that make no sense together."""
    if arguments.whiten_from and arguments.whiten is None:
        raise ToolboxError("--whiten-from has no effect without --whiten.", hint="Add e.g. --whiten 128.")
    if arguments.expand_gallery and arguments.alpha_qe is None:
        raise ToolboxError("--expand-gallery has no effect without --alpha-qe.", hint="Add e.g. --alpha-qe 10 3.")
    if arguments.rerank is not None and len(arguments.rerank) not in (0, 3):
        raise ToolboxError(
            f"--rerank takes K1 K2 LAMBDA, and has {len(arguments.rerank)} numbers.", hint="Bare it means 20 6 0.3."
        )
    rerank = RERANK if arguments.rerank == [] else arguments.rerank
    given = {
        "dims": arguments.dims, "intervals": arguments.bootstrap, "whiten": arguments.whiten,
        "whiten_from": arguments.whiten_from, "alpha_qe": arguments.alpha_qe,
        "expand_gallery": arguments.expand_gallery or None, "rerank": rerank,
    }  # fmt: skip
    return {name: _whole(value) for name, value in given.items() if value is not None}


def _whole(value: Any) -> Any:
    """Numbers such as 20.0 as 20."""
    if isinstance(value, list):
        return [_whole(item) for item in value]
    return int(value) if isinstance(value, float) and value.is_integer() else value


def _test(arguments: argparse.Namespace) -> int:
    metrics = metric_arguments(arguments)
    prepare_process()
    from toolbox import api
    from toolbox.base.files import to_json
    from toolbox.cli.tables import show_metrics

    config = api.load_config(arguments.config, arguments.cfg_options, arguments.plugin)
    numbers = api.evaluate(
        config, arguments.checkpoint, split=arguments.split, device=arguments.device, metrics=metrics,
        precision=arguments.precision, out=arguments.out, tell=lambda text: print(text, file=sys.stderr),
    )  # fmt: skip
    if arguments.json:
        print(to_json(numbers, indent=1))
        return 0
    show_metrics(numbers, arguments.checkpoint or "zero-shot: the backbone as it comes, without a new head")
    if arguments.out:
        print(f"Report: {(Path(arguments.out) / 'report.html').resolve()}")
    return 0
