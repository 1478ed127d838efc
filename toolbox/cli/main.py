"""The console command: `vision-encoder-toolbox NAME ...`, `python -m toolbox NAME ...`, and what tools/ calls."""

from __future__ import annotations

import difflib
import sys
from collections.abc import Sequence
from importlib import import_module

from toolbox.errors import PROGRAM

COMMANDS = {
    "train": "train a recipe, or check it without training",
    "test": "evaluate a checkpoint, or a backbone as it comes",
    "embed": "write the embeddings of images, or of a recipe's data, to a file",
    "predict": "classify images with a trained classifier",
    "export": "write a trained model as a folder that other libraries load",
    "list_components": "what a recipe can name, or one component with its arguments",
    "prepare_data": "download, convert or check a dataset",
    "audit_data": "duplicates, leaks between splits and unreadable files of a recipe's data",
    "mine_negatives": "write the most similar items of other classes, to train with",
    "extract": "store the features of a recipe's frozen backbones before training",
    "cache": "list or remove stored features",
    "compare": "runs side by side, and the items that flipped",
    "benchmark": "measure a promise of docs/benchmarks.md on this machine",
}
"""Sub-command -> what it does. Each is the `main` of its module here."""


def main(argv: Sequence[str] | None = None) -> int:
    """Run a sub-command; returns its exit code.

    - `argv`: its name and arguments, `-` and `_` in the name alike; default: those of this process.
    """
    given = list(sys.argv[1:] if argv is None else argv)
    if not given or given[0] in ("-h", "--help", "help"):
        print(_help())
        return 0 if given else 2
    name, *arguments = given
    if name == "--version":
        import toolbox

        print(f"{PROGRAM} {toolbox.__version__}")
        return 0
    command = name.replace("-", "_")
    if command not in COMMANDS:
        near = difflib.get_close_matches(command, COMMANDS, n=1)
        hint = f"Did you mean {near[0]!r}?" if near else f"Commands: {', '.join(COMMANDS)}."
        print(f"There is no command {name!r}. {hint}", file=sys.stderr)
        return 2
    return import_module(f"toolbox.cli.{command}").main(arguments)


def _help() -> str:
    width = max(map(len, COMMANDS))
    lines = [f"  {name:{width}}  {summary}" for name, summary in COMMANDS.items()]
    return "\n".join([f"usage: {PROGRAM} COMMAND ...    (COMMAND --help: its arguments)", "", *lines])
