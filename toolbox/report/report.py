"""Writes a run's report.html from what the run left in its folder."""

from __future__ import annotations

import ast
import json
import os
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined

from toolbox.errors import ToolboxError
from toolbox.report import curves
from toolbox.report.gallery import gallery as make_gallery
from toolbox.report.numbers import MISSING, duration, fixed, is_finite, memory
from toolbox.report.table import headline, rows

if TYPE_CHECKING:
    from toolbox.base import Dataset, Example

_RUN_FILES = ("train_results.json", "metrics.jsonl", "config.py")


def write_report(work_dir: Path, results: dict[str, Any] | None, gallery: tuple[Dataset, list[Example]] | None) -> Path:
    """Write `work_dir/report.html`: one file that opens without a network. Returns its path.

    - `work_dir`: the run's folder; config.py, environment.json and metrics.jsonl are read where they exist.
    - `results`: what train_results.json holds, whole or in part; None when the run came to none.
    - `gallery`: a dataset and the examples to show, whose indices are of that dataset; None for no gallery.

    What is missing is left out or named on the page. Raises ToolboxError when the page cannot be written.
    """
    work_dir = Path(work_dir)
    results = results or {}
    config = _read(work_dir / "config.py")
    split = _split(config)
    best = results.get("best") or {}
    main, other = curves.panels(curves.read_series(work_dir / "metrics.jsonl"), best.get("step"))
    when = _date(work_dir)
    table = rows(results.get("before"), results.get("after"), results.get("pixels"))
    shown = headline(results, items=len(gallery[0]) if gallery else None, split=split)
    page = _template().render(
        name=work_dir.resolve().name, pixels=bool(results.get("pixels")),
        when=f"{when.day} {when:%B %Y, %H:%M}", when_iso=when.isoformat("T", "minutes"),
        headline=shown, rows=table, tracks=any(row.span for row in table), missing=MISSING,
        explained=bool(results.get("before") and results.get("after")),
        box=curves, panels=main, other_panels=other, best_step=best.get("step"),
        gallery=make_gallery(*gallery, split=split) if gallery and gallery[1] else None,
        config=config, environment=_pretty(_read(work_dir / "environment.json")), costs=costs(results),
    )  # fmt: skip
    path = work_dir / "report.html"
    _write(path, page)
    return path


def costs(results: dict[str, Any]) -> list[tuple[str, str]]:
    """What the run took, as (what, how much), leaving out what is not known."""
    seconds, waited = results.get("seconds"), results.get("data_wait_seconds")
    found = []
    if is_finite(results.get("steps")):
        found.append(("steps", f"{results['steps']:,}"))
    if is_finite(seconds):
        found.append(("training", duration(seconds)))
    if is_finite(results.get("items_per_second")):
        found.append(("items per second", fixed(results["items_per_second"], 1)))
    if is_finite(seconds) and is_finite(waited) and seconds > 0:
        found.append(("waiting for data", f"{waited / seconds:.1%}"))
    if is_finite(results.get("peak_memory_bytes")):
        found.append(("peak memory", memory(results["peak_memory_bytes"])))
    if results.get("device"):
        threads = results.get("threads")
        found.append(("device", f"{results['device']}, {threads} threads" if threads else str(results["device"])))
    if results.get("unreadable_items"):
        found.append(("unreadable items left out", f"{results['unreadable_items']:,}"))
    return found


def _template() -> Any:
    environment = Environment(
        loader=FileSystemLoader(Path(__file__).parent), autoescape=True, undefined=StrictUndefined,
        trim_blocks=True, lstrip_blocks=True,
    )  # fmt: skip
    return environment.get_template("template.html.j2")


def _read(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8", errors="replace")
    except OSError:
        return ""


def _pretty(text: str) -> str:
    try:
        return json.dumps(json.loads(text), indent=2, ensure_ascii=False)
    except ValueError:
        return text


def _split(config: str) -> str:
    """Which set `before` and `after` were measured on, from the recipe's text: the test set where there is one."""
    try:
        body = ast.parse(config).body
    except (SyntaxError, ValueError):
        return ""
    given = {
        target.id
        for line in body if isinstance(line, ast.Assign) and not _is_none(line.value)
        for target in line.targets if isinstance(target, ast.Name)
    }  # fmt: skip
    for key, name in (("test", "test"), ("val", "validation")):
        if {f"{key}_dataloader", f"{key}_evaluator"} <= given:
            return name
    return ""


def _is_none(value: ast.expr) -> bool:
    return isinstance(value, ast.Constant) and value.value is None


def _date(work_dir: Path) -> datetime:
    """When the run last wrote its results; now, if it wrote nothing."""
    for name in _RUN_FILES:
        try:
            return datetime.fromtimestamp((work_dir / name).stat().st_mtime)
        except OSError:
            continue
    return datetime.now()


def _write(path: Path, page: str) -> None:
    """Replace the page in one step, so that no reader ever sees half of one."""
    beside = path.with_name(f".{path.name}.{os.getpid()}.partial")
    try:
        # file names that are no valid UTF-8 reach us as surrogates, which utf-8 refuses
        with beside.open("w", encoding="utf-8", errors="xmlcharrefreplace") as file:
            file.write(page)
            file.flush()
            os.fsync(file.fileno())
        os.replace(beside, path)
    except OSError as error:
        beside.unlink(missing_ok=True)
        raise ToolboxError(
            f"{path} cannot be written: {error.strerror or error}.",
            hint="The run's numbers are safe in train_results.json. Free some space or make the folder writable.",
        ) from error
