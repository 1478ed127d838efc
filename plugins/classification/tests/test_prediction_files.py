"""What the command `predict` writes: files of predictions, and its page."""

from __future__ import annotations

import csv
import json
from datetime import datetime

import pytest
from jinja2 import UndefinedError
from PIL import Image
from toolbox_classification.commands.prediction_files import write_predictions
from toolbox_classification.commands.prediction_page import count_classes

import toolbox
from toolbox.base import Dataset

EVIL = "<script>alert('x')</script>\" onload=\"boom"


class Squares(Dataset):
    """Two images, and one that cannot be read."""

    def __len__(self):
        return 3

    def __getitem__(self, index):
        if index == 2:
            raise OSError("no such square")
        return {"image": Image.new("RGB", (8, 8), (200 * index, 9, 9))}


def test_names_that_are_no_unicode_come_back_as_they_were(tmp_path):
    odd, rows = ['a\udcff,"b\n.png'], [[(EVIL, 0.75), ("ü\udcfe", 1e-9)]]
    for ending in ("csv", "json", "jsonl"):
        write_predictions(tmp_path / f"p.{ending}", odd, rows)
    with (tmp_path / "p.csv").open(encoding="utf-8", errors="surrogateescape", newline="") as stream:
        assert list(csv.reader(stream))[1] == [odd[0], EVIL, "0.75", "ü\udcfe", "1e-09"]
    for held in (json.loads((tmp_path / "p.json").read_text())[0], json.loads((tmp_path / "p.jsonl").read_text())):
        assert (held["path"], held["predictions"][1]["label"]) == (odd[0], "ü\udcfe")


def test_a_page_of_a_template_of_its_own(tmp_path):
    template, path = tmp_path / "own.html.j2", tmp_path / "own.html"
    lines = [
        "{% import 'parts.html.j2' as parts %}{{ parts.sheet(images) }}{{ when_iso }}",
        "{{ title }}{{ parts.table(counts | grid) }}{{ parts.tile(first, title) }}{{ parts.tile(bad, 'bad') }}",
    ]
    template.write_text("\n".join(lines))
    page = toolbox.HtmlPage(template, Squares())
    values = {"title": EVIL, "first": page.add_image(0), "bad": page.add_image(2)}
    with pytest.raises(UndefinedError, match="counts"):
        page.write(path, **values)
    assert not path.exists()
    page.write(path, counts=count_classes([[(EVIL, 0.25)], [("b", 0.5)], [("b", 1.0)]]), **values)
    text = path.read_text(encoding="utf-8")
    assert f"{datetime.now():%Y-%m-}" in text
    assert "<script" not in text
    assert text.count("&lt;script&gt;") == 3  # the title, the name of a tile, and a class
    assert text.count("data:image/png;base64,") == 1, "a picture stands once in the page"
    assert "not shown: OSError: no such square" in text
    assert text.index("<td>2</td>") < text.index("<td>1</td>"), "the most frequent class first"
    assert not page.is_full
