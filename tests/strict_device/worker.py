"""Runs the toolbox on the device "strict", one case after the other: `worker.py fast|slow [NAME ...]`.

Prints a line of JSON for each case: its name, its seconds, and what went wrong, if anything did.
"""

from __future__ import annotations

import json
import os
import sys
import tempfile
import time
import traceback
import warnings
from pathlib import Path

HERE = Path(__file__).parent
sys.path[:0] = [str(HERE), str(HERE.parent)]


def main(kind: str, names: list[str]) -> None:
    import torch

    torch.set_num_threads(1)
    warnings.simplefilter("error")
    from toolbox.engine.device import choose_device
    from toolbox.registry import add_local

    add_local([str(HERE / "strict_plugin.py"), str(HERE.parent / "toy_plugin.py")])
    choose_device("strict")
    import cases

    for name, case in cases.of(kind).items():
        if names and name not in names:
            continue
        started, error = time.perf_counter(), ""
        with tempfile.TemporaryDirectory() as folder:
            os.chdir(folder)
            try:
                case()
            except BaseException:
                error = traceback.format_exc()
            os.chdir(HERE)
        print("CASE " + json.dumps([name, round(time.perf_counter() - started, 2), error]), flush=True)


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2:])
