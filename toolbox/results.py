"""What a run gives: its numbers, where they are on disk, and the model that was trained."""

from __future__ import annotations

import html
import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

from toolbox.base.intervals import split_intervals

if TYPE_CHECKING:
    from toolbox.base import LoadedModel

COLUMNS = (("pixels", "raw pixels"), ("before", "before"), ("before_head", "before the head"), ("after", "after"))
"""Keys of the results that hold metrics, and what a table calls them."""


class TrainResults(dict):
    """The results of a run: a dict of what `train_results.json` holds, with paths, tables and the trained model.

    - `folder`: the run's folder.
    """

    def __init__(self, results: dict[str, Any], folder: Path) -> None:
        super().__init__(results)
        self.folder = folder

    @property
    def report(self) -> Path:
        """The page with curves, numbers and examples."""
        return self.folder / "report.html"

    @property
    def checkpoint(self) -> Path:
        """The checkpoint that `load` opens: what was tested."""
        from toolbox.engine.checkpoint import checkpoint as checkpoints

        return checkpoints.read(self.folder, verify=False).path

    @property
    def table(self) -> list[dict[str, Any]]:
        """A row a metric, `{"metric": "recall@1", "before": 0.1, "after": 0.6}`, such as pandas.DataFrame takes."""
        columns = {shown: split_intervals(self[key])[0] for key, shown in COLUMNS if self.get(key)}
        names = dict.fromkeys(name for numbers in columns.values() for name in numbers)
        return [{"metric": name} | {shown: numbers.get(name) for shown, numbers in columns.items()} for name in names]

    @property
    def history(self) -> list[dict[str, Any]]:
        """A row a logged step or evaluation: the lines of metrics.jsonl."""
        return [json.loads(line) for line in (self.folder / "metrics.jsonl").read_text(encoding="utf-8").splitlines()]

    def load(self, **options: Any) -> LoadedModel:
        """The trained model, ready to use; arguments as of `toolbox.load`."""
        from toolbox.api import load

        return load(self.folder, **options)

    def _repr_html_(self) -> str:
        """The table, in a notebook."""
        rows = self.table
        cells = [["", *list(rows[0])[1:]]] if rows else []
        cells += [[text if isinstance(text, str) else _format_number(text) for text in row.values()] for row in rows]
        body = "".join(f"<tr>{''.join(f'<td>{html.escape(cell)}</td>' for cell in line)}</tr>" for line in cells)
        return f"<table>{body}</table><p>{html.escape(str(self.report))}</p>"


def _format_number(value: float | None) -> str:
    from toolbox.engine.console import digits

    return "" if value is None else digits(value)
