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
    _run_python(COMMAND)
    interpreter_seconds, command_seconds, torch_imported = [], [], False
    for _ in range(pairs):
        interpreter_seconds.append(_run_python("pass")[0])
        seconds, output = _run_python(COMMAND)
        command_seconds.append(seconds)
        torch_imported |= output.splitlines()[-1] != "False"
    median = statistics.median(command_seconds)
    return {
        "name": "discovery",
        "seconds": median,
        "spread": [min(command_seconds), max(command_seconds)],
        "interpreter_seconds": statistics.median(interpreter_seconds),
        "promise": PROMISE,
        "torch_imported": torch_imported,
        "kept": median < PROMISE and not torch_imported,
    }


def _run_python(code: str) -> tuple[float, str]:
    """Wall time in seconds and output of a fresh interpreter."""
    start = time.perf_counter()
    process = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    return time.perf_counter() - start, process.stdout
