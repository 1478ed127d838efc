"""One line says what the data of a run are: before it, in --check and in an evaluation."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from test_trained_items import fill, options
from toolbox_datasets.imagefolder import ImageFolder

import toolbox
from toolbox.base import Dataset
from toolbox.engine.descriptions import count_data, describe_data
from toolbox.planning import plan


class Some(Dataset):
    def __init__(self, count: int, classes: list[str] | None = None, ignored: dict | None = None, unit="images"):
        self.count, self.classes, self.unit = count, classes, unit
        self.labels, self._ignored = None if classes is None else [0] * count, ignored or {}

    def __len__(self):
        return self.count

    def __getitem__(self, index):
        return {"text": "", "id": index}

    def ignored_files(self):
        return self._ignored


TEN = ["airplane", "automobile", *(f"c{n}" for n in range(8))]


@pytest.mark.parametrize(
    ("datasets", "line"),
    [
        (
            {
                "train": Some(1500, TEN, {"d": {".heic": 12}}),
                "val": Some(300, TEN, {"d": {".heic": 12}}),
                "test": Some(300, TEN, {"d": {".heic": 12}}),
            },
            "10 classes (airplane, automobile, ...), 1,500 train / 300 val / 300 test images, 12 files ignored (.heic)",
        ),
        (
            {"train": Some(8, ["a", "b"], {"x": {".txt": 1, "": 2}}), "val": Some(2, ["c"], {"y": {".txt": 3}})},
            "2 train / 1 val classes (a, b), 8 train / 2 val images, 6 files ignored (4 .txt, 2 without ending)",
        ),
        ({"test": Some(3, ["a"], {"x": {".txt": 1}})}, "1 class (a), 3 test images, 1 file ignored (.txt)"),
        ({"train": Some(7)}, "7 train images"),
        ({"train": Some(7, unit="samples"), "val": Some(1, unit="samples")}, "7 train / 1 val samples"),
        ({"train": Some(7, unit="samples"), "val": Some(1)}, "7 train / 1 val items"),
    ],
)
def test_lines(datasets, line):
    assert describe_data(datasets) == line


def test_runs_checks_and_evaluations_print_it(toy, tmp_path, capsys):
    root = fill(tmp_path / "data", *(f"{c}/{i}.bmp" for c in ("cat", "dog") for i in range(30)))
    (root / "cat/phone.heic").write_bytes(b"")
    (root / "notes.txt").write_text("")
    count = {split: len(ImageFolder(str(root), split, divide="images")) for split in ("train", "val", "test")}
    ignored = "2 files ignored (1 .heic, 1 .txt)"
    sizes = " / ".join(f"{n} {split}" for split, n in count.items())
    recipe = toy(options(root))
    assert f"2 classes (cat, dog), {sizes} images, {ignored}" == plan(recipe).notes[0]
    results = toolbox.train(recipe, out="run")
    printed = capsys.readouterr().out
    assert len(re.findall(re.escape(f"2 classes (cat, dog), {sizes} images, {ignored}"), printed)) == 1
    assert f"2 classes (cat, dog), {sizes} images" in Path("run/train.log").read_text()
    assert results["data"]["test"] == {"items": count["test"], "classes": 2}
    said = []
    toolbox.evaluate(recipe, "run", log=said.append)
    assert said[-1] == f"2 classes (cat, dog), {count['test']} test images, {ignored}"
    assert count_data({"test": Some(3)}) == {"test": {"items": 3, "classes": None}}
