"""Records of pairs: every format and mode, what belongs together, what is refused, and what is only told."""

from __future__ import annotations

import builtins
import json
import os
import pickle
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from timing import is_quick
from toolbox_datasets.records import Records
from toolbox_datasets.sop import SOP

from toolbox.utils.components import find_components

PAIRS = [
    {"query_image": "a/1.jpg", "positive": "a/2.jpg", "label": 10},
    {"query_image": "a/2.jpg", "positive": ["a/3.jpg", "a/1.jpg"], "negatives": ["b/1.jpg", "x/9.jpg"], "label": 10},
    {"query_image": "b/1.jpg", "positive": "b/2.jpg", "negatives": "a/1.jpg", "label": "2"},
]
ITEMS = ["a/1.jpg", "a/2.jpg", "a/3.jpg", "b/1.jpg", "x/9.jpg", "b/2.jpg"]


def write(path: Path, records, start: bytes = b"", end: str = "\n") -> Path:
    """A file of records in the format that its name says."""
    names = list(dict.fromkeys(name for record in records for name in record))
    if path.suffix == ".parquet":
        pa, parquet = pytest.importorskip("pyarrow"), pytest.importorskip("pyarrow.parquet")
        columns = {name: [record.get(name) for record in records] for name in names}
        parquet.write_table(pa.table(columns), path, row_group_size=2)
        return path
    if path.suffix == ".jsonl":
        lines = [json.dumps(record, ensure_ascii=False) for record in records]
    else:
        mark = "," if path.suffix == ".csv" else "\t"
        lines = [mark.join(names)] + [mark.join(cell(record.get(name)) for name in names) for record in records]
    path.write_bytes(start + "".join(line + end for line in lines).encode())
    return path


def cell(value) -> str:
    text = "" if value is None else json.dumps(value) if isinstance(value, list) else str(value)
    return '"' + text.replace('"', '""') + '"' if set(text) & set(',"\t\n') else text


def save(root: Path, *names: str) -> None:
    for number, name in enumerate(names):
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (5, 4), (10 * number, 0, 0)).save(root / name, format="JPEG", quality=95)


def lists(records: Records):
    return [(query, list(right), list(wrong)) for query, right, wrong in records.records]


@pytest.mark.parametrize("suffix", [".jsonl", ".csv", ".tsv"])
@pytest.mark.parametrize("end", ["\n", "\r\n", "\n\n  \n"])
@pytest.mark.parametrize("start", [b"", b"\xef\xbb\xbf"])
def test_every_text_format_gives_the_same(tmp_path, suffix, end, start):
    dataset = Records(str(write(tmp_path / f"train{suffix}", PAIRS, start, end)))
    assert dataset.index.paths == ITEMS
    assert lists(dataset) == [(0, [1], []), (1, [2, 0], [3, 4]), (3, [5], [0])]
    assert dataset.classes == ["2", "10", "x/9.jpg"], "the natural order of labels, then negatives"
    assert dataset.labels == [1, 1, 1, 0, 2, 0]
    assert dataset.groups is None
    assert dataset.records[-1] == dataset.records[2] == (3, [5], [0])
    with pytest.raises(IndexError):
        dataset.records[3]


def test_parquet_gives_the_same(tmp_path):
    pytest.importorskip("pyarrow")
    records = [dict(record) for record in PAIRS]
    for record in records:
        record["label"] = float(record["label"])  # what pandas makes of integers with gaps
        for field in record.keys() & {"positive", "negatives"}:
            record[field] = [record[field]] if isinstance(record[field], str) else record[field]
    dataset = Records(str(write(tmp_path / "train.parquet", records)))
    assert dataset.index.paths == ITEMS
    assert lists(dataset) == [(0, [1], []), (1, [2, 0], [3, 4]), (3, [5], [0])]
    assert dataset.classes == ["2", "10", "x/9.jpg"]
    (tmp_path / "train.parquet").write_bytes(b"PAR1 and no more")
    (problem,) = Records(str(tmp_path / "train.parquet")).check()
    assert "train.parquet is no Parquet file" in problem.message


def test_parquet_without_pyarrow_says_what_to_install(tmp_path, monkeypatch):
    path = tmp_path / "a.parquet"
    path.write_bytes(b"")
    real = builtins.__import__

    def without(name, *arguments):
        if name.startswith("pyarrow"):
            raise ImportError(name)
        return real(name, *arguments)

    monkeypatch.setattr(builtins, "__import__", without)
    (problem,) = Records(str(path)).check()
    assert "python -m pip install pyarrow" in problem.message


def test_samples(tmp_path):
    save(tmp_path / "images", *ITEMS)
    path = write(tmp_path / "train.jsonl", PAIRS)
    dataset = Records(str(path), root=str(tmp_path / "images"))
    assert dataset.check() == []
    for index, name in enumerate(ITEMS):
        sample = dataset[index]
        assert (sample["id"], sample["label"]) == (name, dataset.labels[index])
        assert sample["path"] == str(tmp_path / "images" / name)
        assert abs(sample["image"].getpixel((2, 2))[0] - 10 * index) <= 3
        assert set(sample) == {"image", "label", "id", "path"}
    copy = pickle.loads(pickle.dumps(dataset))
    assert (copy[3]["id"], lists(copy)) == ("b/1.jpg", lists(dataset))
    dataset = pickle.loads(pickle.dumps(Records(str(path))))
    assert len(dataset) == 6, "also before the file was read"


def test_nothing_is_read_before_first_use(tmp_path):
    dataset = Records(str(tmp_path / "none.jsonl"))
    (problem,) = dataset.check()
    assert "none.jsonl does not exist" in problem.message
    assert '{"query_image": "a.jpg"' in problem.hint
    with pytest.raises(FileNotFoundError, match=r"none\.jsonl"):
        len(dataset)


def test_without_labels_what_records_join_is_a_class(tmp_path):
    pairs = [("c", "d"), ("a", "b"), ("e", "f"), ("b", "g"), ("f", "d")]
    records = [{"query_image": f"{q}.jpg", "positive": f"{p}.jpg"} for q, p in pairs]
    records[1]["negatives"] = ["z.jpg", "c.jpg"]
    dataset = Records(str(write(tmp_path / "a.jsonl", records)))
    assert [Path(path).stem for path in dataset.index.paths] == list("cdabzefg")
    assert dataset.labels == [0, 0, 1, 1, 2, 0, 0, 1]
    assert dataset.classes == ["c.jpg", "a.jpg", "z.jpg"]


def test_components_agree_with_walking():
    rng = np.random.default_rng(0)
    for count, edges in ((1, 0), (30, 15), (200, 150), (200, 400)):
        left, right = rng.integers(0, count, (2, edges))
        near = {node: {node} for node in range(count)}
        for a, b in zip(left.tolist(), right.tolist(), strict=True):
            near[a].add(b)
            near[b].add(a)
        found = find_components(count, left, right).tolist()
        for node in range(count):
            reached, todo = {node}, [node]
            while todo:
                new = near[todo.pop()] - reached
                reached |= new
                todo += new
            assert found[node] == min(reached)


def test_the_file_that_prepare_writes_is_read_as_it_is(tmp_path):
    root = tmp_path / "sop"
    lines = ["image_id class_id super_class_id path"]
    for number in range(24):
        save(root, f"chair_final/{number // 3}_{number % 3}.JPG")
        lines.append(f"{number + 1} {number // 3 + 1} 1 chair_final/{number // 3}_{number % 3}.JPG")
    for name in ("train", "test"):
        (root / f"Ebay_{name}.txt").write_text("\n".join(lines))
    SOP.prepare(str(root), jsonl=True, val_share=0.25)
    for split in ("train", "val"):
        dataset, expected = Records(str(root / f"{split}.jsonl")), SOP(str(root), split, 0.25)
        assert dataset.check() == []
        assert dataset.notes() == []
        found = {dataset[i]["id"]: dataset.classes[dataset.labels[i]] for i in range(len(dataset))}
        assert found == {item.path: str(item.class_id) for item in expected.items}
        assert len(dataset.records) == len(expected)


@pytest.mark.parametrize("alias", ["label", "class_id", "id"])
def test_labels_have_other_names_too(tmp_path, alias):
    records = [{"query_image": "a.jpg", "positive": "b.jpg", alias: 4}]
    dataset = Records(str(write(tmp_path / "a.jsonl", records)))
    assert dataset.classes == ["4"]
    told = [f"labels are read from the column '{alias}' of a.jsonl; columns={{'label': None}} reads none"]
    assert dataset.notes() == (told if alias != "label" else [])
    assert Records(str(tmp_path / "a.jsonl"), columns={"label": None}).classes == ["a.jpg"]


def test_columns_and_groups(tmp_path):
    records = [
        {"anchor": "a.jpg", "pos": "b.jpg", "neg": "c.jpg", "sort": "chair", "label": 1},
        {"anchor": "c.jpg", "pos": "d.jpg", "neg": "e.jpg", "sort": "sofa", "label": 2},
    ]
    path = str(write(tmp_path / "a.csv", records))
    columns = {"query_image": "anchor", "positive": "pos", "negatives": "neg", "group": "sort"}
    dataset = Records(path, columns=columns)
    assert lists(dataset) == [(0, [1], [2]), (2, [3], [4])]
    assert dataset.groups == ["chair", "chair", "sofa", "sofa", ""]
    save(tmp_path, "a.jpg", "b.jpg", "c.jpg", "d.jpg", "e.jpg")
    assert dataset[0]["group"] == "chair"
    assert "group" not in dataset[4]


@pytest.mark.parametrize(
    ("columns", "message"),
    [
        ({"query_imgae": "anchor"}, r"no field of a record\. Did you mean 'query_image'"),
        ({"query_image": "anchr", "positive": "pos"}, r"no column 'anchr'.*Did you mean 'anchor'"),
        ({"query_image": None}, "columns gives None for 'query_image'"),
        ({"positive": "pos"}, r"a\.csv:2 has no 'query_image', which mode 'i2i' reads\. There are: anchor, pos"),
    ],
)
def test_columns_that_are_not_there(tmp_path, columns, message):
    path = str(write(tmp_path / "a.csv", [{"anchor": "a.jpg", "pos": "b.jpg"}]))
    with pytest.raises(ValueError, match=message):
        len(Records(path, columns=columns))


def test_the_nearest_column_is_proposed(tmp_path):
    path = str(write(tmp_path / "a.csv", [{"image": "a.jpg", "positive": "b.jpg"}]))
    with pytest.raises(ValueError, match=r"columns=\{'query_image': 'image'\}"):
        len(Records(path))
    records = [{"query_image": "a.jpg", "positive": "b.jpg", "negative": "c.jpg"}]
    dataset = Records(str(write(tmp_path / "b.csv", records)))
    assert dataset.notes() == ["the column 'negative' of b.csv is not read; columns={'negatives': 'negative'} reads it"]


def test_keys_of_json_may_begin_late(tmp_path):
    records = [{"query_image": f"{i}.jpg", "positive": f"{i}b.jpg"} for i in range(1500)]
    path = write(tmp_path / "a.jsonl", [*records, {**records[0], "hard": "7.jpg", "negatives": "8.jpg"}])
    assert Records(str(path)).records[1500] == (0, [1], [16])
    assert Records(str(path), columns={"negatives": "hard"}).records[1500] == (0, [1], [14])
    path = write(tmp_path / "b.jsonl", [*records, {**records[0], "class_id": 3}])
    with pytest.raises(ValueError, match=r"b\.jsonl:1501 has a label, and the first records have none"):
        len(Records(str(path)))


@pytest.mark.parametrize(
    "spelled",
    ["./a/1.jpg", "a//1.jpg", "a\\1.jpg", "x/../a/1.jpg", " a/1.jpg", "{root}/a/1.jpg", "~/a/1.jpg"],
)
def test_an_image_is_the_same_however_it_is_spelled(tmp_path, monkeypatch, spelled):
    monkeypatch.setenv("HOME", str(tmp_path))
    save(tmp_path, "a/1.jpg", "a/2.jpg")
    records = [
        {"query_image": spelled.format(root=tmp_path), "positive": "a/2.jpg"},
        {"query_image": "a/1.jpg", "positive": "a/2.jpg"},
    ]
    write(tmp_path / "pairs.jsonl", records)
    dataset = Records("~/pairs.jsonl", root="~")
    assert dataset.index.paths == ["a/1.jpg", "a/2.jpg"]
    assert dataset.check() == []
    assert dataset.notes() == ["1 of 2 records repeat an earlier one"]
    assert dataset[0]["id"] == "a/1.jpg"


def test_absolute_paths_outside_the_root(tmp_path):
    save(tmp_path, "far/1.jpg", "near/2.jpg")
    path = write(tmp_path / "a.jsonl", [{"query_image": str(tmp_path / "far/1.jpg"), "positive": "2.jpg"}])
    dataset = Records(str(path), root=str(tmp_path / "near"))
    assert dataset.check() == []
    assert dataset[0]["id"] == str(tmp_path / "far/1.jpg")


# ---- what is refused


def one(**fields):
    return {"query_image": "a.jpg", "positive": "b.jpg", **fields}


@pytest.mark.parametrize(
    ("records", "message"),
    [
        ([one(label=1), {"positive": "b.jpg", "label": 1}], r"a\.jsonl:2: 'query_image' is missing, and mode 'i2i'"),
        ([one(), {"query_image": "a.jpg", "positive": " "}], r"a\.jsonl:2: 'positive' is missing"),
        ([one(positive=[])], r"a\.jsonl:1: 'positive' is missing"),
        ([one(positive=[1])], r"a\.jsonl:1: 'positive' must be a string or a list of strings, not \[1\]"),
        ([one(query_image={"bytes": "x" * 99})], r"'query_image' must be a string, not a dict"),
        ([one(label=[1])], r"'label' must be a number or a string, not \[1\]"),
        ([one(label=True)], r"'label' must be a number or a string, not True"),
        ([one(label=1), one(label=None)], r"a\.jsonl:2 has no label, and .*a\.jsonl:1 has one"),
        ([one(), one(label=1)], r"a\.jsonl:2 has a label, and .*a\.jsonl:1 has none"),
        (
            [one(label=1), one(query_image="c.jpg", label=2)],
            r"a\.jsonl:2: the image 'b\.jpg' has the label '2' here and '1' in .*a\.jsonl:1",
        ),
        (
            [one(group="x"), one(query_image="c.jpg", group="y")],
            r"a\.jsonl:2: the image 'b\.jpg' has the group 'y' here and 'x' in .*a\.jsonl:1",
        ),
        ([one(negatives=["c.jpg", "./b.jpg"])], r"a\.jsonl:1: 'b\.jpg' is a negative and also the query or a positive"),
    ],
)
def test_malformed_records_are_named(tmp_path, records, message):
    dataset = Records(str(write(tmp_path / "a.jsonl", records)))
    with pytest.raises(ValueError, match=message):
        len(dataset)
    (problem,) = dataset.check()
    assert problem.where == "path"


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("a.jsonl", b"", "holds no record"),
        ("a.jsonl", b"\n \n", "holds no record"),
        ("a.csv", b"", "holds no record"),
        ("a.csv", b"query_image,positive\n", "holds no record"),
        ("a.jsonl", b'{"query_image": "a.jpg", "positive": "b.jpg"}\n{"query_image": \n', r"a\.jsonl:2 is no JSON"),
        ("a.jsonl", b"[1, 2]\n", r"a\.jsonl:1 holds a list: write one JSON object a line"),
        ("a.jsonl", b'{"query_image": "\xff.jpg"}\n', r"a\.jsonl:1 is not UTF-8"),
        ("a.jsonl", '{"query_image": "a"}\n'.encode("utf-16"), r"a\.jsonl:1 is not UTF-8"),
        ("a.jsonl", b"[" * 100_000, r"a\.jsonl:1 is no JSON"),
        ("a.csv", b"query_image,positive\na.jpg\n", r"a\.csv:2 has 1 cells, and the header names 2"),
        ("a.csv", b"query_image,query_image\n", r"a\.csv:1: the header must name every column once"),
        ("a.csv", b'query_image,positive\na.jpg,"b\n', r"a\.csv:\d is malformed"),
        ("a.csv", b"query_image,positive\na\xff.jpg,b\n", "is not UTF-8"),
        ("a.csv", b"query_image;positive\na.jpg;b.jpg\n", r"a\.csv:1: its columns stand apart by ';', not ','"),
    ],
)
def test_malformed_files_are_named(tmp_path, name, content, message):
    (tmp_path / name).write_bytes(content)
    with pytest.raises(ValueError, match=message):
        len(Records(str(tmp_path / name)))
    (problem,) = Records(str(tmp_path / name)).check()
    assert "Traceback" not in str(problem)


@pytest.mark.parametrize(
    "arguments",
    [{"mode": "i3i"}, {"split": "test"}, {"val_share": 1.0}, {"columns": {"lable": "x"}}, {"path": "a.txt"}],
)
def test_nonsense_is_refused(arguments):
    with pytest.raises(ValueError, match=next(iter(arguments)) if "path" not in arguments else r"a\.txt ends in none"):
        Records(**{"path": "a.jsonl", **arguments})


# ---- images that are not there


def test_missing_images_are_counted_and_their_folder_is_looked_for(tmp_path, monkeypatch):
    save(tmp_path / "images", *ITEMS)
    path = write(tmp_path / "meta" / "train.jsonl", PAIRS) if (tmp_path / "meta").mkdir() is None else None
    (problem,) = Records(str(path), root=str(tmp_path / "nowhere")).check()
    assert "6 of 6 images" in problem.message
    assert "a/1.jpg, a/2.jpg, a/3.jpg ... (first in line 1)" in problem.message
    assert problem.where == "root"
    monkeypatch.chdir(tmp_path / "images")
    (problem,) = Records(str(path)).check()
    assert "set root='.'" in problem.hint
    (tmp_path / "images/b/2.jpg").unlink()
    (problem,) = Records(str(path), root=str(tmp_path / "images")).check()
    assert "1 of 6 images" in problem.message
    assert "b/2.jpg (first in line 3)" in problem.message
    monkeypatch.chdir(tmp_path)
    save(tmp_path, *ITEMS)
    (problem,) = Records(str(path)).check()
    assert f"They are in {tmp_path}" in problem.hint


def test_a_folder_that_cannot_be_listed_is_no_missing_image(tmp_path, monkeypatch):
    save(tmp_path, *ITEMS)
    dataset = Records(str(write(tmp_path / "pairs.jsonl", PAIRS)))

    def refuse(folder):
        raise PermissionError(f"Permission denied: '{folder}'")

    monkeypatch.setattr(os, "listdir", refuse)
    (problem,) = dataset.check()
    assert "Permission denied" in problem.message
    assert "do not exist" not in problem.message


def test_long_texts_in_the_place_of_paths_are_taken_for_texts(tmp_path):
    text = "a dog / " + 300 * "very " + "happy"
    record = {"query_image": "a.jpg", "positive": text, "label": 1}
    save(tmp_path, "a.jpg")
    (problem,) = Records(str(write(tmp_path / "pairs.jsonl", [record]))).check()
    assert "where mode 'i2i' reads an image" in problem.message


def test_the_mode_says_what_is_an_image_not_the_look_of_a_string(tmp_path):
    save(tmp_path, "a.jpg", "b")
    path = write(tmp_path / "a.jsonl", [{"query_image": "a.jpg", "positive": "a red chair"}])
    (problem,) = Records(str(path)).check()
    assert "a.jsonl:1 names 'a red chair' where mode 'i2i' reads an image" in problem.message
    assert problem.hint == "If these are texts, set mode='i2t'."
    assert Records(str(path), mode="i2t").check() == []
    # a text that looks like a file, and a file that looks like a text
    path = write(tmp_path / "b.jsonl", [{"query_image": "b", "positive": "see a.jpg"}])
    dataset = Records(str(path), mode="i2t")
    assert dataset.check() == []
    assert dataset[0]["text"] == "see a.jpg"
    assert dataset[0]["image"].size == (5, 4)
    path = write(tmp_path / "c.jsonl", [{"query_image": "https://x.org/a.jpg", "positive": "a.jpg"}])
    (problem,) = Records(str(path)).check()
    assert "names the address https://x.org/a.jpg" in problem.message


# ---- splits


def many(classes=20, per_class=3, labelled=True, groups=("x", "y")):
    for c in range(classes):
        for i in range(per_class):
            label = {"label": c, "group": groups[c % len(groups)]} if labelled else {}
            yield {"query_image": f"{c}/{i}.jpg", "positive": f"{c}/{(i + 1) % per_class}.jpg", **label}


@pytest.mark.parametrize("labelled", [True, False])
def test_splits_share_no_class(tmp_path, labelled):
    path = str(write(tmp_path / "a.jsonl", list(many(labelled=labelled))))
    everything, train, val = (Records(path, split=split, val_share=0.2) for split in ("all", "train", "val"))
    assert len(train) + len(val) == len(everything) == 60
    assert 6 <= len(val) < 30
    assert set(train.index.paths) | set(val.index.paths) == set(everything.index.paths)
    assert not set(train.classes) & set(val.classes)
    assert sorted(train.identities() + val.identities()) == sorted(everything.identities())
    texts = Records(path, mode="t2i", columns={"query": "query_image"}, split="all")
    assert len(set(texts.identities())) == len(texts) == 60
    for part in (train, val):
        assert sorted(set(part.labels)) == list(range(len(part.classes)))
        assert len(part.records) == len(part)
        for query, (positive,), negatives in part.records:
            assert part.index.paths[query].split("/")[0] == part.index.paths[positive].split("/")[0]
            assert negatives == []
        names = {path: part.classes[label] for path, label in zip(part.index.paths, part.labels, strict=True)}
        whole = zip(everything.index.paths, everything.labels, strict=True)
        assert all(names.get(path, everything.classes[label]) == everything.classes[label] for path, label in whole)
    if labelled:
        shuffled = str(write(tmp_path / "b.jsonl", sorted(many(), key=str)))
        assert Records(shuffled, split="val", val_share=0.2).classes == val.classes


def test_negatives_do_not_carry_images_over_the_border(tmp_path):
    records = list(many())
    for number, record in enumerate(records):
        record["negatives"] = [f"{(number // 3 + 1) % 20}/0.jpg", f"lone/{number % 7}.jpg"]
    path = str(write(tmp_path / "a.jsonl", records))
    train, val = (Records(path, split=split, val_share=0.2) for split in ("train", "val"))
    assert not set(train.index.paths) & set(val.index.paths)
    assert {p for p in train.index.paths if p.startswith("lone")} == {f"lone/{i}.jpg" for i in range(7)}
    for part in (train, val):
        kept = sum(len(negatives) for _, _, negatives in part.records)
        lost = 2 * len(part.records) - kept
        assert lost > 0
        note = f"{lost} of {2 * len(part.records)} negatives are images of the other split and are left out"
        assert note in part.notes()
        assert sorted(set(part.labels)) == list(range(len(part.classes)))
        by_path = {(r["query_image"], n) for r in records for n in r["negatives"]}
        paths = part.index.paths
        assert all((paths[q], paths[n]) in by_path for q, _, negatives in part.records for n in negatives)
    assert sum(len(negatives) == 2 for _, _, negatives in train.records) > len(train.records) / 2


@pytest.mark.parametrize("classes", [1, 3])
def test_too_few_classes_to_divide_are_refused(tmp_path, classes):
    dataset = Records(str(write(tmp_path / "a.jsonl", list(many(classes)))), split="val")
    with pytest.raises(ValueError, match=f"take 2 each, and there are {classes}"):
        len(dataset)
    assert "use another split" in dataset.check()[0].message


@pytest.mark.parametrize("share", [0.01, 0.99])
def test_any_share_leaves_two_classes_each(tmp_path, share):
    path = str(write(tmp_path / "a.jsonl", list(many())))
    train, val = (Records(path, split=split, val_share=share) for split in ("train", "val"))
    assert min(len(train.classes), len(val.classes)) == 2
    assert len(train.classes) + len(val.classes) == 20


# ---- notes


def test_oddities_are_counted(tmp_path):
    records = [
        one(label=1),
        one(label=1),
        {"query_image": "c.jpg", "positive": "c.jpg", "label": 2},
        {"query_image": "d.jpg", "positive": "c.jpg", "negatives": ["e.jpg", "a.jpg"], "label": 2},
        {"query_image": "a.jpg", "positive": "f.jpg", "negatives": ["b.jpg", "e.jpg"], "label": 1},
    ]
    assert Records(str(write(tmp_path / "a.jsonl", records))).notes() == [
        "1 of 5 records repeat an earlier one",
        "1 of 5 records have their query as a positive",
        "1 of 4 negatives are of their query's class: a loss that reads labels takes them for positives",
        "1 of 6 images are negatives only, and each forms a class of its own",
    ]
    assert Records(str(write(tmp_path / "b.jsonl", PAIRS[:1]))).notes() == []


# ---- texts


def test_texts_and_images(tmp_path):
    save(tmp_path, "1.jpg", "2.jpg", "3.jpg")
    records = [
        {"query": "a chair", "positive": ["1.jpg", "2.jpg"]},
        {"query": "a sofa", "positive": "3.jpg", "negatives": "1.jpg"},
        {"query": "a seat", "positive": "2.jpg"},
    ]
    dataset = Records(str(write(tmp_path / "a.jsonl", records)), mode="t2i")
    assert dataset.check() == []
    found = [dataset[index] for index in range(len(dataset))]
    assert [sample["text"] for sample in found] == ["a chair", "a chair", "a sofa", "a seat"]
    assert [Path(sample["path"]).name for sample in found] == ["1.jpg", "2.jpg", "3.jpg", "2.jpg"]
    assert [sample["id"] for sample in found] == ["1.1", "1.2", "2", "3"]
    assert dataset.labels == [0, 0, 1, 0], "they share a text or an image"
    assert dataset.classes == ["line 1.1", "line 2"]
    assert not dataset.has_class_names
    assert dataset.records is None
    assert dataset.notes() == ["1 of 3 records carry negatives, which mode 't2i' does not read"]


def test_captions_stay_together(tmp_path):
    save(tmp_path, "1.jpg", "2.jpg")
    records = [
        {"query_image": "1.jpg", "positive": ["one", "eins"], "label": "b", "group": "g"},
        {"query_image": "2.jpg", "positive": "two", "label": "a", "group": "h"},
        {"query_image": "2.jpg", "positive": "two", "label": "a", "group": "h"},
    ]
    dataset = Records(str(write(tmp_path / "a.jsonl", records)), mode="i2t")
    assert [dataset[i]["text"] for i in range(2)] == [["one", "eins"], "two"]
    (tmp_path / "1.jpg").unlink()
    assert dataset.read(0, {"text"}) == {
        "label": 1,
        "id": dataset.read(0, set())["id"],
        "text": ["one", "eins"],
        "group": "g",
    }
    assert (dataset.labels, dataset.classes, dataset.groups) == ([1, 0], ["a", "b"], ["g", "h"])
    assert dataset.has_class_names
    joined = "3 records name 2 images: the texts of an image are one sample's"
    assert dataset.notes() == [joined, "1 of 3 records repeat an earlier one"]


@pytest.mark.parametrize("suffix", [".jsonl", ".csv"])
def test_a_line_for_each_caption_gives_one_sample_an_image(tmp_path, suffix):
    save(tmp_path, "1.jpg", "2.jpg")
    lines = [("1.jpg", "a cat"), ("2.jpg", "a dog"), ("1.jpg", "eine Katze"), ("./1.jpg", "a cat"), ("1.jpg", "chat")]
    path = write(tmp_path / f"a{suffix}", [{"filepath": image, "title": text} for image, text in lines])
    dataset = Records(str(path), mode="i2t", columns={"query_image": "filepath", "positive": "title"})
    assert dataset.check() == []
    assert [dataset[i]["text"] for i in range(len(dataset))] == [["a cat", "eine Katze", "chat"], "a dog"]
    first = 1 if suffix == ".jsonl" else 2
    assert [dataset[i]["id"] for i in range(2)] == [str(first), str(first + 1)]
    assert dataset.labels == [0, 1]
    assert len(set(dataset.identities())) == 2


def test_lists_of_captions_in_a_table(tmp_path):
    save(tmp_path, "1.jpg")
    texts = ["one", ["two", "one"], "[in brackets] three"]
    path = write(tmp_path / "a.csv", [{"query_image": "1.jpg", "positive": text} for text in texts])
    assert Records(str(path), mode="i2t")[0]["text"] == ["one", "two", "[in brackets] three"]


def test_records_of_one_image_say_the_same_of_it(tmp_path):
    for field, values in (("label", ("a", "b")), ("group", ("a", "b"))):
        records = [{"query_image": "1.jpg", "positive": f"text {value}", field: value} for value in values]
        path = str(write(tmp_path / f"{field}.jsonl", records))
        with pytest.raises(
            ValueError, match=f"{field}.jsonl:2: '{field}' is 'b', and 'a' for the same image in line 1"
        ):
            len(Records(path, mode="i2t"))
    records = [{"query_image": "1.jpg", "positive": "a", "label": 1}, {"query_image": "1.jpg", "positive": "b"}]
    with pytest.raises(ValueError, match=r"a\.jsonl:2 has no label, and .*a\.jsonl:1 has one: give all or none"):
        len(Records(str(write(tmp_path / "a.jsonl", records)), mode="i2t"))
    records = [{"query_image": "1.jpg", "positive": "a", "group": "g"}, {"query_image": "1.jpg", "positive": "b"}]
    with pytest.raises(ValueError, match=r"b\.jsonl:2: 'group' is missing, and 'g' for the same image in line 1"):
        len(Records(str(write(tmp_path / "b.jsonl", records)), mode="i2t"))


@pytest.mark.parametrize("text", ["", "  ", None, 7, [], ["a", ""], ["a", 3]])
def test_a_caption_that_says_nothing_is_refused_with_its_line(tmp_path, text):
    records = [{"query_image": "1.jpg", "positive": "one"}, {"query_image": "2.jpg", "positive": text}]
    with pytest.raises(ValueError, match=r"a\.jsonl:2: 'positive' (is missing|must be a string or a list)"):
        len(Records(str(write(tmp_path / "a.jsonl", records)), mode="i2t"))


@pytest.mark.parametrize(
    ("mode", "record", "expected"),
    [
        ("t2t", {"query": "q", "positive": "p.jpg"}, {"text": "q", "positive_text": "p.jpg"}),
        ("m2t", {"query": "q", "query_image": "1.jpg", "positive": ["p", "r"]}, {"positive_text": ["p", "r"]}),
        ("m2i", {"query": "q", "query_image": "1.jpg", "positive": "2.jpg"}, {"text": "q"}),
    ],
)
def test_other_modes(tmp_path, mode, record, expected):
    save(tmp_path, "1.jpg", "2.jpg")
    dataset = Records(str(write(tmp_path / "a.jsonl", [record])), mode=mode)
    assert dataset.check() == []
    sample = dataset[0]
    assert {key: sample[key] for key in expected} == expected
    assert ("image" in sample) == mode.startswith("m")
    assert ("positive_image" in sample) == (mode == "m2i")
    assert (sample["id"], sample["label"]) == ("1", 0)
    for field in record:
        short = {key: value for key, value in record.items() if key != field}
        with pytest.raises(ValueError, match=f"has no '{field}', which mode '{mode}' reads"):
            len(Records(str(write(tmp_path / "b.jsonl", [short])), mode=mode))


def test_a_shared_instruction_joins_nothing_where_the_query_has_an_image(tmp_path):
    records = [
        {"query": "in red", "query_image": "1.jpg", "positive": "a.jpg"},
        {"query": "in red", "query_image": "2.jpg", "positive": "b.jpg"},
        {"query": "in blue", "query_image": "1.jpg", "positive": "c.jpg"},
        {"query": "as wood", "query_image": "3.jpg", "positive": "a.jpg"},
    ]
    path = str(write(tmp_path / "a.jsonl", records))
    assert Records(path, mode="m2i").labels == [0, 1, 2, 0]
    texts = [{"query": "same", "positive": "a"}, {"query": "same", "positive": "b"}, {"query": "b", "positive": "c"}]
    assert Records(str(write(tmp_path / "b.jsonl", texts)), mode="t2t").labels == [0, 0, 0]


def test_texts_are_split_by_class_too(tmp_path):
    records = [{"query": f"text {i // 2}", "positive": f"answer {i}"} for i in range(40)]
    path = str(write(tmp_path / "a.jsonl", records))
    train, val = (Records(path, mode="t2t", split=split, val_share=0.2) for split in ("train", "val"))
    assert (len(train), len(val), len(val.classes)) == (32, 8, 4)
    texts = [{part[i]["text"] for i in range(len(part))} for part in (train, val)]
    assert not texts[0] & texts[1]
    assert sorted(set(val.labels)) == list(range(4))
    assert {val[i]["positive_text"] for i in range(8)} <= {f"answer {i}" for i in range(40)}


def test_prepare_reports(tmp_path):
    save(tmp_path, *ITEMS)
    path = write(tmp_path / "a.jsonl", [*PAIRS, PAIRS[0]])
    said = Records.prepare(str(path))
    assert "is readable: 6 images of 3 classes in 4 records\n1 of 4 records repeat" in said
    with pytest.raises(ValueError, match="has no 'query'"):
        Records.prepare(str(path), mode="m2t")


def test_large_files_are_read_quickly(tmp_path):
    path = tmp_path / "a.jsonl"
    with open(path, "w") as file:
        for i in range(50_000):
            file.write(
                f'{{"query_image": "{i // 5}/{i}.jpg", "positive": "{i // 5}/{i // 5 * 5}.jpg", "label": {i}}}\n'
            )
    with pytest.raises(ValueError, match=r"a\.jsonl:2: the image"):
        len(Records(str(path)))

    def read():
        dataset = Records(str(path), columns={"label": None})
        assert (len(dataset), len(dataset.classes), len(dataset.records)) == (50_000, 10_000, 50_000)

    assert is_quick(read, 5, tries=2), "half a second is usual"
