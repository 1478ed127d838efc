"""The program behind tools/benchmark.py: measure a promise of docs/benchmarks.md on this machine."""

from __future__ import annotations

import argparse
import inspect
from importlib import import_module
from typing import Any

from toolbox.cli.common import expand_arguments, new_parser, prepare_process, run_command

BENCHMARKS: dict[str, tuple[str, dict[str, Any]]] = {
    "ablation": (
        "what the settings of the retrieval demo gain, on letters held out of its training",
        {"steps": 900, "seeds": 3, "letters": "held-out"},
    ),
    "alignment": (
        "a step of two frozen towers against a hand-written loop, and epochs on their stored features",
        {"steps": 3, "items": 64, "batch": 32, "size": 160, "epochs": 20},
    ),
    "cache": ("an epoch on stored features, and making them", {"items": 128, "batch": 32, "epochs": 20, "size": 224}),
    "discovery": ("list_components from start to end", {}),
    "engine": ("a training step against a hand-written torch loop", {"model": "vits16", "steps": 8}),
    "grad_cache": ("a batch in chunks against the plain step", {"rows": 1024, "chunk": 64, "both": 64}),
    "image_text_recall": (
        "exact recall of images by texts and texts by images, against its matrix product",
        {"images": 5000, "captions": 5, "dim": 512},
    ),
    "loader": ("the data loader against reading and transforming alone", {}),
    "quantize": ("weights in 4 and 8 bits against plain ones: bytes, features, time", {"net": "vitb16", "images": 4}),
    "recall": ("exact Recall@K against its matrix products", {"n": 12000, "dim": 768}),
    "rerank": ("k-reciprocal re-ranking against ranking by cosine", {"n": 20000, "dim": 256}),
    "throughput": (
        "images/s of fine-tuning, and their share of the device's matrix rate",
        {"backbone": "auto", "size": 0, "batch": 0, "steps": 0, "device": "auto", "variants": "auto"},
    ),
}
"""Name -> what is compared, and options with their defaults."""


def main(argv: list[str] | None = None) -> int:
    """Run a benchmark; returns the exit code. No number fails it: a busy machine changes them."""
    parser = new_parser("benchmark", "Measure a promise.")
    names = parser.add_subparsers(dest="name", required=True, metavar="NAME")
    for name, (summary, options) in BENCHMARKS.items():
        benchmark = names.add_parser(name, help=summary)
        benchmark.add_argument("--json", action="store_true", help="print everything measured as JSON")
        benchmark.add_argument("--pairs", type=int, default=7, help="interleaved measurements")
        for option, default in options.items():
            benchmark.add_argument(f"--{option}", type=type(default), default=default)
    arguments = parser.parse_args(expand_arguments(argv))
    return run_command(lambda: _run_benchmark(arguments))


def _run_benchmark(arguments: argparse.Namespace) -> int:
    prepare_process()
    measure = import_module(f"benchmarks.{arguments.name}").run
    parameters = inspect.signature(measure).parameters
    measurements = measure(**{name: value for name, value in vars(arguments).items() if name in parameters})
    if arguments.json:
        from toolbox.base.files import to_json

        print(to_json(measurements, indent=1))
        return 0
    for name, value in measurements.items():
        if not isinstance(value, list) or name == "spread":
            print(f"{name:20} {_format_value(value)}")
    return 0


def _format_value(value: object) -> str:
    if isinstance(value, list):
        return " to ".join(map(_format_value, value))
    return f"{value:.4g}" if isinstance(value, float) else str(value)
