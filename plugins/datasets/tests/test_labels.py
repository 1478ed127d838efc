"""Labels in files: every reader takes the same values for one label, for none, or refuses them."""

from __future__ import annotations

import csv
import json
import math
from decimal import Decimal
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from toolbox_datasets.cars import Cars
from toolbox_datasets.hf import HF
from toolbox_datasets.records import Records

from toolbox.base import MISSING_LABELS, find_similar_labels, read_label
from toolbox.base.labels import _MISSING

MISSING = [
    "",
    "  ",
    "NA",
    "N/A",
    "n/a",
    "nan",
    "NaN",
    "-nan",
    "None",
    "null",
    "NULL",
    "<NA>",
    "NaT",
    "#N/A",
    "1.#IND",
    "#DIV/0!",
    "#REF!",
]
SEVEN = [7, 7.0, "7", " 7", "7 ", "7.0", "7.000"]
REFUSED = [0.5, "0.5", -1.5, 2.0**60, "1.23E+18", "1e+16", math.inf, True, [7]]
READERS = ("csv", "tsv", "jsonl", "parquet")


def records(folder: Path, kind: str, labels, **arguments) -> Records:
    """A file of one pair of images for each label."""
    rows = [{"query_image": f"{i}.png", "positive": f"{i}x.png", "label": label} for i, label in enumerate(labels)]
    path = folder / f"r.{kind}"
    if kind == "jsonl":
        path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    elif kind == "parquet":
        pa, parquet = pytest.importorskip("pyarrow"), pytest.importorskip("pyarrow.parquet")
        parquet.write_table(pa.table({name: [row[name] for row in rows] for name in rows[0]}), path)
    else:
        with path.open("w", newline="") as file:
            writer = csv.DictWriter(file, list(rows[0]), delimiter="," if kind == "csv" else "\t")
            writer.writeheader()
            writer.writerows(rows)
    return Records(str(path), **arguments)


def hf(folder: Path, labels, **arguments) -> HF:
    """A saved dataset of one image for each label."""
    datasets = pytest.importorskip("datasets")
    part = datasets.Dataset.from_dict({"image": [Image.new("RGB", (4, 4))] * len(labels), "label": list(labels)})
    folder = folder / f"hf{len(list(folder.iterdir()))}"
    datasets.DatasetDict(train=part).save_to_disk(str(folder))
    return HF(str(folder), label="label", val_share=0, test_share=0, **arguments)


@pytest.mark.parametrize("value", [*SEVEN, np.int64(7), np.uint8(7), np.float32(7), Decimal("7.00"), np.str_("7")])
def test_seven_is_one_label(value):
    assert read_label(value) == "7"


@pytest.mark.parametrize(
    ("value", "label"),
    [
        ("007", "007"),
        (2**63, str(2**63)),
        (-0.0, "0"),
        ("-0.0", "0"),
        ("1E3", "1E3"),
        ("9007199254740993.0", "9007199254740993"),
        ("1.2.3", "1.2.3"),
        ("\ufeffcat\u00a0", "cat"),
        ("e\u0301", "\u00e9"),
        ("none", "none"),
        (0, "0"),
        ("-1", "-1"),
    ],
)
def test_other_labels_stay_what_they_are(value, label):
    assert read_label(value) == label


@pytest.mark.parametrize("value", [*MISSING, None, math.nan, np.float32("nan"), np.datetime64("NaT"), Decimal("nan")])
def test_missing_values_are_no_label(value):
    assert read_label(value) is None


def test_the_list_holds_what_pandas_reads_as_missing():
    parsers = pytest.importorskip("pandas._libs.parsers")
    assert parsers.STR_NA_VALUES - {""} <= MISSING_LABELS
    assert len(_MISSING.split("|")) == len(MISSING_LABELS)
    pandas = pytest.importorskip("pandas")
    assert read_label(pandas.NA) is None
    assert read_label(pandas.NaT) is None


@pytest.mark.parametrize("value", [*REFUSED, np.bool_(False), b"cat", {"a": 1}, np.float64(0.5), Decimal("0.5"), 1j])
def test_values_that_name_no_class_are_refused(value):
    with pytest.raises(ValueError, match=r"^(must be a number or a string|is ).*"):
        read_label(value)


@pytest.mark.parametrize("kind", READERS)
def test_readers_agree_on_one_label(tmp_path, kind):
    alike = SEVEN if kind != "parquet" else [str(value) for value in SEVEN]
    assert records(tmp_path, kind, alike).classes == ["7"]
    assert records(tmp_path, kind, [7, 2**53 + 1]).classes == ["7", str(2**53 + 1)]
    dataset = records(tmp_path, kind, ["7", "007"])
    assert dataset.classes == ["007", "7"]
    assert any("look alike, and stay different classes: '7' and '007'" in note for note in dataset.notes())


def test_huggingface_agrees(tmp_path):
    words = hf(tmp_path, ["7", " 7", "7.0", "b"])
    assert (words.classes, words.labels) == (["7", "b"], [0, 0, 0, 1])
    floats = hf(tmp_path, [1.0, 0.0, 1.0])
    assert (floats.classes, floats.labels) == (["0", "1"], [1, 0, 1])
    assert "'007'" in " ".join(hf(tmp_path, ["7", "007"]).notes())


@pytest.mark.parametrize("kind", READERS)
@pytest.mark.parametrize("value", [value for value in MISSING if value.strip()])
def test_a_missing_label_among_others_is_an_error_with_counts_and_the_way_to_keep_it(tmp_path, kind, value):
    (problem,) = records(tmp_path, kind, ["a", value, "b", value]).check()
    assert "2 of 4 records have none" in problem.message
    assert f"'{value}' (2 times) means that there is none: if it is a class, set missing_labels=[]" in problem.message
    kept = records(tmp_path, kind, ["a", value, "b", value], missing_labels=[])
    assert sorted(kept.classes) == sorted(["a", value, "b"])
    alone = records(tmp_path, kind, [value, value])
    assert alone.classes == ["0.png", "1.png"], "no labels: images that are joined form a class"
    assert f"'{value}' (2 times) means that there is none" in " ".join(alone.notes())


@pytest.mark.parametrize("value", ["nan", "None", "NA", None])
def test_huggingface_refuses_rows_without_a_label(tmp_path, value):
    (problem,) = hf(tmp_path, ["a", value, "b", value]).check()
    assert "row 1 has no 'label' (2 rows have none" in problem.message
    if value is not None:
        assert "set missing_labels=[]" in problem.message
        assert hf(tmp_path, ["a", value, "b"], missing_labels=[]).classes == sorted(["a", value, "b"])


def test_huggingface_refuses_nan_and_hidden_labels(tmp_path):
    (problem,) = hf(tmp_path, [0.0, math.nan, 1.0]).check()
    assert "row 1 has no 'label' (1 rows have none)" in problem.message
    (problem,) = hf(tmp_path, [0, -1, 1]).check()
    assert "1 of 3 labels in 'label' are below 0" in problem.message
    (problem,) = hf(tmp_path, [True, False]).check()
    assert "(bool) holds no labels" in problem.message


@pytest.mark.parametrize("kind", READERS)
@pytest.mark.parametrize("value", [0.5, 2.0**60, "1.23E+18"])
def test_readers_refuse_the_same_numbers(tmp_path, kind, value):
    (problem,) = records(tmp_path, kind, [value, value]).check()
    assert f"'label' is {value}" in problem.message
    assert "write it as text" in problem.message or "a whole number or a name" in problem.message


def test_huggingface_refuses_them_too(tmp_path):
    for labels in ([0.5, 1.5], ["0.5", "1.5"], ["1.23E+18", "a"]):
        (problem,) = hf(tmp_path, labels).check()
        assert "holds no labels: one is" in problem.message


def test_numbers_in_the_list_of_cars(tmp_path):
    rows = "".join(f"{i}.jpg,{label}\n" for i, label in enumerate(["7", "7.0", " 7"]))
    (tmp_path / "cars_annos.csv").write_text(f"path,class\n{rows}")
    assert [item.class_id for item in Cars(str(tmp_path)).read_list("train")] == [7, 7, 7]
    for value in ("7.5", "1_0", "nan", "", "True"):
        (tmp_path / "cars_annos.csv").write_text(f"path,class\na.jpg,{value}\n")
        with pytest.raises(ValueError, match="a class is a number from 1 to 196"):
            Cars(str(tmp_path)).read_list("train")


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"query_image;positive;label\n0.png;1.png;7\n", r"r\.csv:1: its columns stand apart by ';'"),
        (b"query_image\tpositive\n0.png\t1.png\n", r"stand apart by '\\t'"),
        (b",query_image,positive\n0,0.png,1.png\n", r"to_csv\(\.\.\., index=False\)"),
        ("query_image,positive\n0.png,1.png\n".encode("utf-16"), "is not UTF-8"),
        (b"query_image,positive,label\n", "holds no record"),
        (b"", "holds no record"),
        (b'query_image,positive\n"0.png,1.png\n', "malformed|cells"),
    ],
)
def test_tables_of_other_programs_are_refused_with_the_way_out(tmp_path, content, message):
    (tmp_path / "r.csv").write_bytes(content)
    with pytest.raises(ValueError, match=message):
        len(Records(str(tmp_path / "r.csv")))


def test_quoted_line_ends_and_blank_lines_are_read(tmp_path):
    text = '\ufeffquery_image,positive,label\r\n"a\n.png",1.png," cat"\r\n\r\n2.png,3.png,"cat "\r\n'
    (tmp_path / "r.csv").write_text(text, encoding="utf-8", newline="")
    assert Records(str(tmp_path / "r.csv")).classes == ["cat"]


def test_labels_that_look_alike_are_named():
    assert find_similar_labels(["7", "8", "cat"]) == []
    assert find_similar_labels(["--5", "-5", "5", "-", "--"]) == []
    (note,) = find_similar_labels(["Cat", "cat", "7", "07", "+7", "a b", "a  b", "x"])
    assert note.startswith("3 times different labels look alike")
    assert "'Cat' and 'cat'" in note
    assert "'7' and '07' and '+7'" in note
