"""Measure a promise:    python tools/benchmark.py recall"""

import sys

try:
    from toolbox.cli.benchmark import main
except ModuleNotFoundError as error:
    sys.exit(f"{error}. Run `make venv` once, then use .venv/bin/python tools/benchmark.py")

if __name__ == "__main__":
    sys.exit(main())
