"""The command `benchmark`: measure a promise of docs/benchmarks.md on this machine."""

from __future__ import annotations

import argparse
import inspect
from importlib import import_module

from toolbox.cli.common import expand_arguments, guarded, new_parser, prepare_process

BENCHMARKS = {
    "ablation": (
        "what the settings of the retrieval demo gain, on letters held out of its training",
        {"steps": 900, "seeds": 3, "letters": "held-out"},
    ),
    "cache": ("an epoch on stored features, and making them", {"items": 128, "batch": 32, "epochs": 20, "size": 224}),
    "discovery": ("list_components from start to end", {}),
    "engine": ("a training step against a hand-written torch loop", {"model": "vits16", "steps": 8}),
    "grad_cache": ("a batch in chunks against the plain step", {"rows": 1024, "chunk": 64, "both": 64}),
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
    """Run the command; returns its exit code. It judges nothing: a busy machine changes the numbers."""
    parser = new_parser("benchmark", "Measure a promise.")
    commands = parser.add_subparsers(dest="name", required=True, metavar="NAME")
    for name, (summary, options) in BENCHMARKS.items():
        command = commands.add_parser(name, help=summary)
        command.add_argument("--json", action="store_true", help="print everything measured as JSON")
        command.add_argument("--pairs", type=int, default=7, help="interleaved measurements")
        for flag, default in options.items():
            command.add_argument(f"--{flag}", type=type(default), default=default)
    arguments = parser.parse_args(expand_arguments(argv))
    return guarded(lambda: _run(arguments))


def _run(arguments: argparse.Namespace) -> int:
    prepare_process()
    measure = import_module(f"toolbox.cli.benchmarks.{arguments.name}").run
    known = inspect.signature(measure).parameters
    found = measure(**{name: value for name, value in vars(arguments).items() if name in known})
    if arguments.json:
        from toolbox.base.files import to_json

        print(to_json(found, indent=1))
        return 0
    for name, value in found.items():
        if not isinstance(value, list) or name == "spread":
            print(f"{name:20} {_shown(value)}")
    return 0


def _shown(value: object) -> str:
    if isinstance(value, list):
        return " to ".join(map(_shown, value))
    return f"{value:.4g}" if isinstance(value, float) else str(value)
