"""Measure a promise:    python tools/benchmark.py recall"""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # benchmarks/ is part of a checkout, and of no package
try:
    from benchmarks.command import main
except ModuleNotFoundError as error:
    print(f"{error}: run `make venv`, then `.venv/bin/python tools/benchmark.py`.", file=sys.stderr)
    sys.exit(2)

if __name__ == "__main__":
    sys.exit(main())
