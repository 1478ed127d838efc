"""The promise "discovery": tools/list_components.py takes less than 0.3 s and never imports torch."""

from __future__ import annotations

import statistics
import subprocess
import sys
import time

PROMISE = 0.3
COMMAND = "import sys; from toolbox.cli.list_components import main; main([]); print('torch' in sys.modules)"


def run(*, pairs: int = 7) -> dict:
    """Measure the wall time of the command in fresh processes, the interpreter's own start included.

    - `pairs`: how many times the command runs after one warm-up; each is paired with a bare interpreter.

    Returns the median in seconds, the fastest and slowest (the spread), the bare interpreter's median, the limit,
    whether torch was imported, and whether the promise is kept.
    """
    if pairs < 1:
        raise ValueError(f"pairs must be at least 1, not {pairs}")
    _time(COMMAND)
    bare, full, torch = [], [], False
    for _ in range(pairs):
        bare.append(_time("pass")[0])
        seconds, output = _time(COMMAND)
        full.append(seconds)
        torch |= output.splitlines()[-1] != "False"
    median = statistics.median(full)
    return {
        "name": "discovery",
        "seconds": median,
        "spread": [min(full), max(full)],
        "interpreter_seconds": statistics.median(bare),
        "promise": PROMISE,
        "torch_imported": torch,
        "kept": median < PROMISE and not torch,
    }


def _time(code: str) -> tuple[float, str]:
    start = time.perf_counter()
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    return time.perf_counter() - start, done.stdout
