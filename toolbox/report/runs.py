"""Read finished runs and evaluations from their folders, to compare them."""

from __future__ import annotations

import difflib
import json
import math
import struct
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from toolbox.base.files import resolve_run_link
from toolbox.base.report_items import ReportItem
from toolbox.errors import Problem, ToolboxError, format_command
from toolbox.recipe_text import read_recipe
from toolbox.report.numbers import is_number
from toolbox.report.report_items import NAME, load_report_items
from toolbox.report.series import Series, read_series, read_text

TRAINED, TESTED = "train_results.json", "test_results.json"


@dataclass
class RunRecord:
    """What one folder holds.

    - `label`: its name, distinct among those compared.
    - `metrics`: {name: number} of the trained model, or of the evaluation; `before`: of the backbone as it came.
    - `info`: everything else of the results; `parameters`: in the best checkpoint, None if unknown.
    - `series`: of metrics.jsonl; `recipe`, `environment`: None where they are not there or not readable.
    - `notes`: what is missing, for the reader.
    """

    label: str
    path: Path
    metrics: dict[str, Any]
    before: dict[str, Any] = field(default_factory=dict)
    info: dict[str, Any] = field(default_factory=dict)
    parameters: int | None = None
    series: dict[str, Series] = field(default_factory=dict)
    report_items: list[ReportItem] = field(default_factory=list)
    recipe: dict[str, Any] | None = None
    environment: dict[str, Any] | None = None
    notes: list[str] = field(default_factory=list)

    @property
    def best_step(self) -> int | None:
        """The step of the best checkpoint."""
        best = self.info.get("best")
        return best.get("step") if isinstance(best, dict) else None

    def select_items(self, kind: type[ReportItem]) -> list[Any]:
        """The report items of one kind."""
        return [item for item in self.report_items if isinstance(item, kind)]


def read_runs(paths: list[str | Path]) -> list[RunRecord]:
    """The runs of these folders, in this order.

    - `paths`: folders of tools/train.py, or of tools/test.py --out; a results file in one stands for the folder.

    Raises ToolboxError with all that is wrong: fewer than two, one given twice, a folder that is missing, has no
    results (yet), or damaged ones.
    """
    if len(paths) < 2:
        raise ToolboxError(
            "A comparison takes two runs or more.", hint=f"{format_command('compare')} work_dirs/a work_dirs/b"
        )
    folders = [path.parent if path.name in (TRAINED, TESTED) else path for path in map(Path, paths)]
    problems: list[Problem] = []
    runs: list[RunRecord] = []
    seen: dict[Path, Path] = {}
    for folder, label in zip(folders, make_labels(folders), strict=True):
        real = folder.resolve()
        if real in seen:
            also = "" if str(seen[real]) == str(folder) else f", as {seen[real]}"
            problems.append(Problem(f"This run is given twice{also}.", str(folder), "Give different runs."))
            continue
        seen[real] = folder
        try:
            runs.append(_read_run(folder, label))
        except ToolboxError as error:
            problems += error.problems
    if problems:
        raise ToolboxError.from_problems(problems)
    return runs


def make_labels(folders: list[Path]) -> list[str]:
    """The last parts of the paths, as many as it takes to tell them apart."""
    parts = [folder.resolve().parts for folder in folders]
    names = []
    for mine in parts:
        others = [other for other in parts if other != mine]
        length = next((n for n in range(1, len(mine)) if all(other[-n:] != mine[-n:] for other in others)), len(mine))
        names.append("/".join(mine[-length:]).replace("//", "/"))
    return names


def _read_run(folder: Path, label: str) -> RunRecord:
    if not folder.is_dir():
        raise ToolboxError("There is no such folder.", where=str(folder), hint=_suggest_near_folders(folder))
    series = read_series(folder / "metrics.jsonl")
    if (folder / TRAINED).exists():
        run = _read_trained(folder, label, series)
    elif (folder / TESTED).exists():
        run = _read_evaluated(folder, label)
    else:
        raise _make_missing_error(folder, series)
    run.series, run.parameters = series, _count_parameters(folder)
    if (folder / NAME).exists():
        try:
            run.report_items = load_report_items(folder)
        except ToolboxError as error:
            run.notes.append(f"{error}")
    else:
        run.notes.append(f"There is no {NAME}: no curves of its metrics, and no comparison item by item.")
    if (folder / "config.py").exists():
        try:
            run.recipe = read_recipe(read_text(folder / "config.py"))
        except ValueError as error:
            run.notes.append(f"config.py cannot be read as a run writes it: {error}. Its settings are left out.")
    else:
        run.notes.append("There is no config.py: its settings are not known.")
    try:
        run.environment = _read_json(folder / "environment.json") if (folder / "environment.json").exists() else None
    except ToolboxError as error:
        run.notes.append(str(error))
    return run


def _read_trained(folder: Path, label: str, series: dict[str, Series]) -> RunRecord:
    results = _read_json(folder / TRAINED)
    if "after" not in results:  # written before training, as soon as that was known
        raise _make_missing_error(folder, series)
    info = {key: value for key, value in results.items() if key not in ("after", "before", "before_head", "pixels")}
    run = RunRecord(label, folder, _select_numbers(results["after"]), _select_numbers(results.get("before")), info)
    if not run.metrics:
        run.notes.append("Nothing was evaluated after its training.")
    if (folder / TESTED).exists():
        run.notes.append(f"The folder also holds {TESTED}: {TRAINED} is what is read.")
    return run


def _read_evaluated(folder: Path, label: str) -> RunRecord:
    results = _read_json(folder / TESTED)
    metrics = results.get("metrics")
    info = {key: value for key, value in results.items() if key != "metrics"} if isinstance(metrics, dict) else results
    return RunRecord(label, folder, _select_numbers(metrics if isinstance(metrics, dict) else results), info=info)


def _select_numbers(values: Any) -> dict[str, Any]:
    """The numbers of a dict; null is a NaN that JSON could not hold."""
    values = values if isinstance(values, dict) else {}
    return {
        name: math.nan if value is None else value
        for name, value in values.items()
        if value is None or is_number(value)
    }


def _read_json(path: Path) -> dict[str, Any]:
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise ToolboxError(f"The file cannot be read: {error.strerror or error}.", where=str(path)) from error
    except ValueError as error:
        raise ToolboxError(
            f"The file is damaged: {error}.", where=str(path), hint="Evaluate the run again, or leave it out."
        ) from error
    if not isinstance(content, dict):
        raise ToolboxError(
            "The file is damaged: it holds no table of results.", where=str(path), hint="Leave this run out."
        )
    return content


def _make_missing_error(folder: Path, series: dict[str, Series]) -> ToolboxError:
    if (folder / "manifest.json").exists():
        return ToolboxError(
            "This is a checkpoint, and a comparison takes runs.", where=str(folder), hint=f"Try {folder.parent}."
        )
    if not (folder / "config.py").exists() and not series:
        inside = sorted(
            path.name
            for path in folder.iterdir()
            if path.is_dir() and ((path / TRAINED).exists() or (path / TESTED).exists())
        )
        hint = f"It holds {', '.join(inside[:4])}: give those." if inside else ""
        return ToolboxError("This folder holds no run.", where=str(folder), hint=hint)
    last = max((points[-1][0] for points in series.values() if points), default=None)
    reached = "before its first logged step" if last is None else f"at step {last:,.0f} or later"
    return ToolboxError(
        f"This run has no results: it still goes on, or it ended {reached} without finishing.",
        where=str(folder),
        hint="Continue it with resume=True, or leave it out.",
    )


def _suggest_near_folders(folder: Path) -> str:
    if not folder.parent.is_dir():
        return f"Nor is there {folder.parent}."
    names = [path.name for path in folder.parent.iterdir() if path.is_dir() and not path.name.startswith(".")]
    near = difflib.get_close_matches(folder.name, names, n=2, cutoff=0.5)
    return f"Did you mean {' or '.join(str(folder.parent / name) for name in near)}?" if near else ""


def _count_parameters(folder: Path) -> int | None:
    """How many numbers the best checkpoint holds: everything trained or new, and no frozen pretrained weight."""
    checkpoint = next((path for name in ("best", "last") if (path := resolve_run_link(folder / name)).is_dir()), None)
    if checkpoint is None:
        return None
    files = [checkpoint / "model.safetensors", *sorted(checkpoint.glob("adapters/*/adapter_model.safetensors"))]
    try:
        counts = [_count_numbers(file) for file in files if file.exists()]
    except (OSError, ValueError, TypeError, KeyError, struct.error):
        return None
    return sum(counts) if counts else None


def _count_numbers(path: Path) -> int:
    """How many numbers a safetensors file holds, by its header."""
    with path.open("rb") as file:
        (length,) = struct.unpack("<Q", file.read(8))
        header = json.loads(file.read(min(length, 2**26)))
    return sum(math.prod(tensor["shape"]) for name, tensor in header.items() if name != "__metadata__")
