"""What the files of this folder share: each runs the sub-command of its name."""

import sys
from typing import NoReturn


def run_command(name: str) -> NoReturn:
    """Run a sub-command with the arguments of this process, and exit with its code."""
    try:
        from toolbox.cli.main import main
    except ModuleNotFoundError as error:
        print(f"{error}: run `make venv`, then `.venv/bin/python tools/{name}.py`.", file=sys.stderr)
        sys.exit(2)
    sys.exit(main([name, *sys.argv[1:]]))
