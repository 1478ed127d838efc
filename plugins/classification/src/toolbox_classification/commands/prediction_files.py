"""Predictions as files: CSV, JSON, or JSON Lines."""

from __future__ import annotations

import csv
import io
from pathlib import Path

from toolbox.base import to_json, write_text

ENDINGS = (".csv", ".json", ".jsonl")


def write_predictions(
    path: Path, paths: list[str], rows: list[list[tuple[str, float]]], *, classifier: str = ""
) -> None:
    """Write the predictions of images; the file is whole or absent.

    - `path`: ends in .csv (columns path, label1, score1 ...), .json (a list of {"path", "predictions"}) or .jsonl.
    - `paths`: of the images; `rows`: for each image (label, score), best first, as many for all images.
    - `classifier`: what predicts the classes, where a model has several ways: a last column, or a key of each image.

    Scores keep six digits. Raises ToolboxError when the disk refuses.
    """
    extra = {"classifier": classifier} if classifier else {}
    if path.suffix == ".csv":
        stream = io.StringIO(newline="")
        writer = csv.writer(stream, lineterminator="\n")
        names = [f"{name}{place}" for place in range(1, len(rows[0]) + 1) for name in ("label", "score")]
        writer.writerow(["path", *names, *extra])
        for name, row in zip(paths, rows, strict=True):
            cells = [cell for label, score in row for cell in (label, f"{score:.6g}")]
            writer.writerow([name, *cells, *extra.values()])
        text = stream.getvalue()
    else:
        items = [
            {"path": name, "predictions": [{"label": label, "score": float(f"{score:.6g}")} for label, score in row]}
            | extra
            for name, row in zip(paths, rows, strict=True)
        ]  # ASCII alone, in which any name of a file can be written
        is_list = path.suffix == ".json"
        text = to_json(items, indent=1) + "\n" if is_list else "".join(to_json(item) + "\n" for item in items)
    write_text(path, text, errors="surrogateescape")  # names of files need not be Unicode
