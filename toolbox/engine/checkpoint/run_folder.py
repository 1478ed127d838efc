"""The folder of a run: whether it may be used, and what the run leaves in it.

<work_dir>/
  config.py             the complete recipe, as Python
  environment.json      versions, plugins, device, the command
  train.log             what was told
  metrics.jsonl         a line for each step that was logged or evaluated
  checkpoint-<step>/    see `checkpoint.py`; `last` and `best` are links to two of them
  wise_ft/              the chosen interpolation, where `train_cfg.wise_ft` is set
  train_results.json    the numbers before and after, with what the run cost
  report_items.json     what metrics show beyond numbers, and report.html, which shows it
  bad_items.jsonl       items that could not be read, under on_bad_item='skip'
  abandoned/            checkpoints of steps that a resumed run makes anew
"""

from __future__ import annotations

import json
import os
import platform
import shutil
import subprocess
import sys
import weakref
from collections.abc import Callable, Sequence
from contextlib import suppress
from functools import cache
from importlib import metadata
from pathlib import Path
from typing import IO, Any

from toolbox.base.files import check_folder, to_json
from toolbox.base.locks import explain_missing_lock, try_lock
from toolbox.engine.checkpoint import checkpoint as checkpoints
from toolbox.engine.checkpoint.files import recover, write_text
from toolbox.errors import ToolboxError

_FILES = (
    "config.py",
    "environment.json",
    "metrics.jsonl",
    "train.log",
    "train_results.json",
    "bad_items.jsonl",
    "report_items.json",
    "report.html",
    "trackers.json",
    "mlflow.db",
)


def holds_run(folder: Path) -> bool:
    """Whether a run has begun in this folder."""
    return (folder / "config.py").exists() or bool(checkpoints.all_in(folder))


def check_free(folder: Path) -> None:
    """Raise ToolboxError if the folder holds a run already."""
    if holds_run(folder):
        raise ToolboxError(
            f"{folder} already holds a run.",
            hint="Continue it with resume=True, replace it with overwrite=True, or choose another out folder.",
        )


def lock(folder: Path, warn: Callable[[str], None] = lambda text: None) -> IO[str]:
    """Make the folder this process's own until the file is closed. Raises ToolboxError while another one holds it.

    - `warn`: told where nothing can be locked; the run then goes on.
    """
    check_folder(folder, hint="Choose an out folder of yours.")
    file = (folder / ".lock").open("a+", encoding="utf-8")
    _locks.add(file)
    locked = try_lock(file)
    if locked is False:
        file.seek(0)
        owner = file.read().strip() or "another process"
        file.close()
        raise ToolboxError(f"A run is going on in {folder} ({owner}).", hint="Choose another out folder.")
    if locked is None:
        warn(explain_missing_lock(str(folder)))
    with suppress(OSError):  # whose it is helps people, and is not needed
        file.truncate(0)
        os.write(file.fileno(), f"process {os.getpid()} on {platform.node()}".encode())
    return file


# Data workers outlive a killed run by some seconds: if they kept its lock, it could not be resumed at once.
_locks: weakref.WeakSet[IO[str]] = weakref.WeakSet()
if hasattr(os, "register_at_fork"):  # Windows has no fork
    os.register_at_fork(after_in_child=lambda: [file.close() for file in list(_locks)])


def clear(folder: Path) -> None:
    """Remove a run's own files, and nothing else, from its folder."""
    for name in ("best", "last", *_FILES):
        (folder / name).unlink(missing_ok=True)
    recover(folder)
    for path in checkpoints.all_in(folder):
        shutil.rmtree(path)
    for name in ("abandoned", checkpoints.WISE_FT):
        shutil.rmtree(folder / name, ignore_errors=True)


def add_metrics(path: Path, line: dict[str, Any]) -> None:
    """Add a line to metrics.jsonl; numbers that are not finite are null. Raises ToolboxError when the disk refuses."""
    before = path.stat().st_size if path.exists() else 0
    try:
        with path.open("a", encoding="utf-8") as file:
            file.write(to_json(line) + "\n")
    except OSError as error:
        with suppress(OSError):
            os.truncate(path, before)  # the half of a line
        raise ToolboxError(
            f"metrics.jsonl cannot be written: {error.strerror or error}.",
            hint="Free some space, then resume=True: checkpoints are untouched.",
        ) from error


def cut_metrics(path: Path, step: int, lines: int | None = None) -> int:
    """Drop the lines after `step`, and all but the first `lines`: a resumed run writes them again.

    Returns how many lines are left. What was logged at `step` itself may be of before or after its checkpoint.
    """
    if not path.exists():
        return 0
    kept = []
    for line in path.read_text(encoding="utf-8").splitlines():
        try:
            if (values := json.loads(line))["step"] <= step:
                kept.append(to_json(values))
        except (ValueError, KeyError):
            continue  # a line that a killed process left unfinished
    kept = kept[:lines]
    write_text(path, "".join(line + "\n" for line in kept))
    return len(kept)


def environment(device: str, plugins: dict[str, Any], overridden: Sequence[str] = ()) -> dict[str, Any]:
    """Versions, plugins, device and revision, for environment.json; `overridden`: keys that overrides have set."""
    packages = ("torch", "torchvision", "transformers", "peft", "timm", "numpy", "pillow", "mmengine")
    return {
        "python": platform.python_version(),
        "platform": platform.platform(),
        "device": device,
        "versions": {name: _version(name) for name in packages},
        "plugins": plugins,
        "command": sys.argv,
        "overridden": list(overridden),
        "git": _git_revision(),
    }


@cache
def _version(package: str) -> str | None:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return None


@cache
def _git_revision() -> str | None:
    """Of the code as this process has imported it."""
    try:
        done = subprocess.run(
            ["git", "describe", "--always", "--dirty"],
            capture_output=True,
            text=True,
            timeout=10,
            check=False,
            cwd=Path(__file__).parent,
        )
    except (OSError, subprocess.TimeoutExpired):
        return None
    return done.stdout.strip() or None
