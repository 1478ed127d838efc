"""The console command: `vision-encoder-toolbox NAME ...`, `python -m toolbox NAME ...`, and what tools/ calls."""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence

from toolbox.cli.common import expand_arguments, run_command
from toolbox.errors import PROGRAM
from toolbox.registry import get_catalog


def main(argv: Sequence[str] | None = None) -> int:
    """Run a sub-command, of the core or of a plugin; returns its exit code.

    - `argv`: its name and arguments, `-` and `_` in the name alike; default: those of this process.
    """
    name, *arguments = list(sys.argv[1:] if argv is None else argv) or [""]
    if name in ("", "-h", "--help", "help"):
        commands = get_catalog().commands()
        width = max(len(command.name) for command in commands)
        print(f"usage: {PROGRAM} COMMAND ...    (COMMAND --help: its arguments)\n")
        for command in commands:
            text = f"({command.state}: {command.error})" if command.error else command.summary
            print(f"  {command.name:{width}}  {text}")
        return 0 if name else 2
    if name == "--version":
        import toolbox

        print(f"{PROGRAM} {toolbox.__version__}")
        return 0
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")  # read when torch is imported, by whichever command
    return run_command(lambda: get_catalog().command(name.replace("-", "_")).load()(expand_arguments(arguments)))
