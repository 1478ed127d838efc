"""Datasets of Hugging Face: columns, splits, pictures of every mode, the cache without a network, clear refusals."""

from __future__ import annotations

import io
import multiprocessing
import pickle
import shutil
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from toolbox_datasets import hf_source
from toolbox_datasets.hf import HF

from toolbox.engine.trained_items import items_of
from toolbox.feature_cache.key import describe_dataset

datasets = pytest.importorskip("datasets")


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    """An empty cache, no network, no progress bars."""
    folder = tmp_path / "cache"
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", folder)
    monkeypatch.setattr(datasets.config, "HF_HUB_OFFLINE", True)
    datasets.disable_progress_bars()
    return folder


def encoded(image: Image.Image, kind: str = "PNG", **options) -> dict:
    file = io.BytesIO()
    image.save(file, format=kind, **options)
    return {"bytes": file.getvalue(), "path": None}


def table(labels, names=("ant", "bee", "cow"), **columns):
    """A dataset of one image for each label, its red value being the row."""
    images = [encoded(Image.new("RGB", (5, 4), (row % 256, 0, 0))) for row in range(len(labels))]
    label = datasets.ClassLabel(names=list(names)) if names else datasets.Value("int64")
    found = datasets.Dataset.from_dict({"photo": images, "kind": list(labels), **columns})
    return found.cast_column("photo", datasets.Image()).cast_column("kind", label)


def saved(path: Path, **parts) -> str:
    datasets.DatasetDict(parts).save_to_disk(str(path))
    return str(path)


def problem(dataset) -> str:
    (found,) = dataset.check()
    return str(found)


def test_columns_are_found_by_their_types(tmp_path):
    name = saved(tmp_path / "d", train=table([0, 1, 2] * 10), test=table([2, 0, 1]), validation=table([1, 2, 0]))
    for split, labels in (("train", [0, 1, 2] * 10), ("val", [1, 2, 0]), ("test", [2, 0, 1])):
        dataset = HF(name, split)
        assert dataset.check() == []
        assert dataset.labels == labels
        assert dataset.classes == ["ant", "bee", "cow"]
        assert dataset.notes() == []
    sample = HF(name)[7]
    assert (sample["image"].getpixel((0, 0)), sample["label"], sample["id"]) == ((7, 0, 0), 1, "train/7")
    assert HF(name, "val")[1]["id"] == "validation/1"
    assert dataset.sources() is None


def test_splits_are_called_as_folders_are(tmp_path):
    name = saved(tmp_path / "d", Training=table([0, 1, 2] * 10), dev=table([1, 2, 0]), Testing=table([2, 0, 1]))
    assert [HF(name, split)[0]["id"] for split in ("train", "val", "test")] == ["Training/0", "dev/0", "Testing/0"]
    assert HF(name, "test").notes() == []


def test_without_a_test_the_validation_split_is_it_and_val_is_carved(tmp_path):
    name = saved(tmp_path / "food", train=table([0, 1, 2] * 20), validation=table([0, 1, 2] * 4))
    train, val, test = (HF(name, split) for split in ("train", "val", "test"))
    assert set(val.labels) == set(train.labels) == {0, 1, 2}
    assert 3 <= len(val) < 12
    rows = [[sample["id"] for sample in dataset] for dataset in (train, val)]
    assert sorted(rows[0] + rows[1]) == sorted(f"train/{row}" for row in range(60))
    assert [sample["id"] for sample in test] == [f"validation/{row}" for row in range(12)]
    assert "'validation' serves as the test" in test.notes()[0]
    assert f"'val' holds {len(val)}" in " ".join(val.notes())
    assert len({*train.identities(), *val.identities(), *test.identities()}) == 72
    assert HF(name, "val", seed=43).indices.tolist() != val.indices.tolist()
    assert "has no 'val'" in problem(HF(name, "val", val_share=0))


def test_a_single_split_gives_all_three(tmp_path):
    path = tmp_path / "one"
    table([0, 1, 2] * 10).save_to_disk(str(path))
    sizes = {split: len(HF(str(path), split)) for split in ("train", "val", "test")}
    assert all(size >= 3 for size in sizes.values())
    indices = [index for split in sizes for index in HF(str(path), split).indices]
    assert sorted(indices) == list(range(30))
    assert "has no 'test', only 'train'" in problem(HF(str(path), "test", test_share=0))


def test_parts_name_the_splits(tmp_path):
    hidden = table([-1, -1], None).cast_column("kind", datasets.ClassLabel(names=["ant", "bee", "cow"]))
    name = saved(tmp_path / "in1k", train=table([0, 1, 2] * 10), validation=table([0, 1, 2]), test=hidden)
    assert "2 of 2 labels in 'kind' are below 0" in problem(HF(name, "test"))
    assert "parts={'train': 'train', 'test': 'validation'}" in problem(HF(name, "test"))
    parts = {"train": "train", "test": "validation"}
    assert HF(name, "test", parts=parts).labels == [0, 1, 2]
    assert 3 <= len(HF(name, "val", parts=parts)) < 9  # about a tenth of 30
    assert "no split 'dev'" in problem(HF(name, parts={"train": "dev"}))
    for parts in ({"test": "validation"}, {"train": "train", "tset": "x"}, {"train": "a", "val": "a"}):
        with pytest.raises(ValueError, match="parts"):
            HF(name, parts=parts)


def test_a_label_column_that_is_missing_or_no_number_is_refused_with_what_is_there(tmp_path):
    name = saved(tmp_path / "a", train=table([0, 1, 2], None, weight=[0.5, 1.5, 2.5], word=["b", "a", "b"]))
    message = problem(HF(name))
    assert "no column of type ClassLabel" in message
    assert "photo (Image), kind (int64), weight (float64), word (string)" in message
    assert "no column 'lable'" in problem(HF(name, label="lable"))
    assert "(float64) holds no labels" in problem(HF(name, label="weight"))
    assert "holds no images" in problem(HF(name, image="word", label="kind"))
    assert HF(name, label="kind", val_share=0, test_share=0).labels == [0, 1, 2]
    words = HF(name, label="word", val_share=0, test_share=0)
    assert (words.classes, words.labels) == (["a", "b"], [1, 0, 1])
    assert "alphabetical order: a is 0, b is 1" in words.notes()[0]
    lists = saved(tmp_path / "lists", train=table([0, 1, 2], None, tags=[[0], [1, 2], []]))
    assert "holds no labels" in problem(HF(lists, label="tags"))
    two = saved(
        tmp_path / "two",
        train=table([0, 1, 2], other=[{"bytes": b"x", "path": None}] * 3).cast_column("other", datasets.Image()),
    )
    assert "several columns of type Image" in problem(HF(two))


@pytest.mark.parametrize(
    ("labels", "expected"),
    [
        ([0, 1, 3], "2 never occurs"),
        ([1, 2, 3], "0 never occurs"),
        ([0, 1, 10**15], "2 never occurs"),
        ([0, -1, 1], "1 of 2|below 0"),
        ([0, None, 1], "row 1 has no 'kind'"),
        ([0, 0, 0], "there is nothing to tell apart"),
    ],
)
def test_labels_that_do_not_count_from_0_are_refused(tmp_path, labels, expected):
    name = saved(tmp_path / "x", train=table(labels, None))
    assert any(text in problem(HF(name, label="kind", val_share=0, test_share=0)) for text in expected.split("|"))


def test_strings_of_the_test_that_training_has_not_are_refused(tmp_path):
    train, test = (table([0, 0], None, word=words) for words in (["a", "b"], ["a", "z"]))
    name = saved(tmp_path / "x", train=train, test=test)
    assert "1 values that the training part has not: z" in problem(HF(name, "test", label="word"))
    other = saved(tmp_path / "y", train=table([0, 1, 2]), test=table([0, 1, 2], ["bee", "ant", "cow"]))
    assert "other classes, or another order" in problem(HF(other, "test"))


def test_rows_chosen_by_the_library_keep_their_labels(tmp_path):
    part = table([0, 1, 2] * 10).shuffle(seed=3).filter(lambda row: row["kind"] != 1)
    name = saved(tmp_path / "x", train=part)
    dataset = HF(name, val_share=0, test_share=0)
    assert len(dataset) == 20
    for index in range(20):
        sample = dataset[index]
        assert sample["image"].getpixel((0, 0))[0] % 3 == sample["label"] == dataset.labels[index]
    assert "1 of the 3 classes have no image" in dataset.notes()[-1]


def gray16() -> Image.Image:
    return Image.fromarray(np.full((4, 5), 0x8000, dtype=np.uint16))


def turned() -> dict:
    image, exif = Image.new("RGB", (6, 3), "red"), Image.Exif()
    exif[0x0112] = 6
    return encoded(image, "JPEG", exif=exif)


MODES = {
    "L": (encoded(Image.new("L", (5, 4), 9)), (9, 9, 9)),
    "1": (encoded(Image.new("1", (5, 4), 1)), (255, 255, 255)),
    "LA": (encoded(Image.new("LA", (5, 4), (9, 0))), (255, 255, 255)),
    "RGBA": (encoded(Image.new("RGBA", (5, 4), (1, 2, 3, 255))), (1, 2, 3)),
    "P": (encoded(Image.new("RGB", (5, 4), (1, 2, 3)).quantize(4)), (1, 2, 3)),
    "P, transparent": (encoded(Image.new("P", (5, 4), 0), transparency=0), (255, 255, 255)),
    "CMYK": (encoded(Image.new("CMYK", (5, 4), (0, 0, 0, 0)), "TIFF"), (255, 255, 255)),
    "I;16": (encoded(gray16()), (128, 128, 128)),
    "I;16 TIFF": (encoded(gray16(), "TIFF"), (128, 128, 128)),
    "animated": (
        encoded(
            Image.new("RGB", (5, 4), "red"), "GIF", save_all=True, append_images=[Image.new("RGB", (5, 4), "blue")]
        ),
        (255, 0, 0),
    ),
}


@pytest.mark.parametrize("mode", MODES)
def test_every_mode_becomes_rgb(tmp_path, mode):
    row, expected = MODES[mode]
    part = datasets.Dataset.from_dict({"image": [row, row], "label": [0, 1]}).cast_column("image", datasets.Image())
    dataset = HF(saved(tmp_path / "x", train=part), label="label", val_share=0, test_share=0)
    image = dataset[0]["image"]
    assert (image.mode, image.size, image.getpixel((2, 2))) == ("RGB", (5, 4), expected)


def test_pictures_are_turned_and_unreadable_ones_named(tmp_path):
    floats = encoded(Image.fromarray(np.full((4, 5), 0.5, dtype=np.float32)), "TIFF")
    wide = encoded(Image.fromarray(np.full((4, 5), 70_000, dtype=np.int32)), "TIFF")
    rows = [turned(), {"bytes": b"\xff\xd8 no image", "path": None}, None, floats, wide]
    part = datasets.Dataset.from_dict({"image": rows, "label": [0, 1] * 2 + [0]}).cast_column("image", datasets.Image())
    name = saved(tmp_path / "x", train=part)
    dataset = HF(name, label="label", val_share=0, test_share=0)
    assert dataset[0]["image"].size == (3, 6)
    for row, expected in enumerate(("", "cannot be read", "has no image", "float", "32-bit")):
        if row:
            with pytest.raises((OSError, ValueError), match=rf"row {row} of 'train'.*({expected})"):
                dataset[row]
    dataset.encoded = [{"image": {"bytes": None, "path": "/none/a.png"}}]
    with pytest.raises(ValueError, match=r"row 0 of 'train' has no image, only the path /none/a\.png"):
        dataset[0]


@pytest.mark.parametrize("kind", ["Image", "binary", "path"])
def test_a_file_that_is_added_moves_no_row_of_local_data(tmp_path, kind):
    """Not even one that comes first."""
    pa, parquet = pytest.importorskip("pyarrow"), pytest.importorskip("pyarrow.parquet")
    folder = tmp_path / "pets"
    (folder / "files").mkdir(parents=True)

    def add(file: str, reds: range) -> None:
        contents = [encoded(Image.new("RGB", (5, 4), (red, 0, 0)))["bytes"] for red in reds]
        labels = [red % 3 for red in reds]
        if kind == "Image":
            part = datasets.Dataset.from_dict(
                {"image": [{"bytes": one, "path": None} for one in contents], "label": labels}
            ).cast_column("image", datasets.Image())
            part.to_parquet(str(folder / file))
            return
        names = [f"files/{red}.png" for red in reds]
        for name, content in zip(names, contents, strict=True):
            (folder / name).write_bytes(content)
        parquet.write_table(
            pa.table({"image": contents if kind == "binary" else names, "label": labels}), folder / file
        )

    def split_of() -> dict[int, str]:
        found = {split: HF(str(folder), split) for split in ("train", "val", "test")}
        reds = {s: [one["image"].getpixel((0, 0))[0] for one in dataset] for s, dataset in found.items()}
        trained.append(items_of(found["train"]))
        counted.append([trained[0].count_in(found[split]) for split in ("train", "val", "test")])
        return {red: split for split, some in reds.items() for red in some}

    trained, counted = [], []
    add("train-1.parquet", range(60, 120))
    before = split_of()
    add("train-0.parquet", range(60))
    after = split_of()
    assert (len(before), len(after)) == (60, 120)
    moved = [red for red in before if after[red] != before[red]]
    assert len(moved) < 4
    assert {after[red] for red in moved} <= {"train"}  # what made up for a class that had none in a split goes back
    number = list(before.values()).count("train")
    assert counted == [[number, 0, 0]] * 2


def test_ratio_and_shots(tmp_path):
    name = saved(tmp_path / "x", train=table([0, 1, 2] * 20), test=table([0, 1, 2]))
    tenth, fifth = HF(name, ratio=0.1), HF(name, ratio=0.2)
    assert set(tenth.labels) == {0, 1, 2}
    assert set(tenth.indices) < set(fifth.indices) < set(HF(name).indices)
    assert not set(fifth.indices) & set(HF(name, "val").indices)
    assert Counter(HF(name, shots=5).labels) == dict.fromkeys(range(3), 5)
    assert f"shots=5 takes 15 of the {len(HF(name))} images" in HF(name, shots=5).notes()[-1]
    assert f"'ant' has {HF(name).labels.count(0)}" in problem(HF(name, shots=20))


def test_workers_read_the_same(tmp_path):
    name = saved(tmp_path / "x", train=table([0, 1, 2] * 20), test=table([0, 1, 2]))
    dataset = HF(name, ratio=0.5)
    expected = [dataset[index]["id"] for index in range(len(dataset))]
    again = pickle.loads(pickle.dumps(dataset))
    assert [again[index]["id"] for index in range(len(again))] == expected
    assert len(pickle.dumps(HF(name))) < 1000  # nothing is read before it is used
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        assert pool.map(dataset.__getitem__, [3])[0]["id"] == expected[3]


def prepared(cache: Path, name: str, parts: dict, commit: str, config: str = "default", folder: str = "") -> None:
    """What `load_dataset` leaves in the cache, made by the library itself from files, then put under a Hub name."""
    source = cache.parent / f"files-{commit}"
    source.mkdir(exist_ok=True)
    for part, found in parts.items():
        found.to_parquet(str(source / f"{part}.parquet"))
    files = {part: str(source / f"{part}.parquet") for part in parts}
    builder = datasets.load_dataset_builder("parquet", data_files=files, cache_dir=str(cache.parent / f"raw-{commit}"))
    builder.download_and_prepare()
    made = Path(builder.cache_dir)
    target = cache / (folder or name.replace("/", "___")) / config / "0.0.0" / commit
    target.parent.mkdir(parents=True, exist_ok=True)
    shutil.copytree(made, target)
    for file in target.glob("parquet-*.arrow"):
        file.rename(file.with_name(file.name.replace("parquet-", f"{name.rpartition('/')[2]}-")))
    info = target / "dataset_info.json"
    info.write_text(
        info.read_text().replace('"dataset_name": "parquet"', f'"dataset_name": "{name.rpartition("/")[2]}"')
    )


def test_a_copy_in_the_cache_is_used_without_a_network(cache, monkeypatch):
    monkeypatch.setattr(hf_source, "explain_unreachable", lambda *_: pytest.fail("the network was asked"))
    monkeypatch.setattr(datasets.config, "HF_HUB_OFFLINE", False)
    parts = {"train": table([0, 1, 2] * 10), "test": table([2, 1, 0])}
    prepared(cache, "uoft-cs/cifar10", parts, "1" * 40)
    for name in ("cifar10", "uoft-cs/cifar10"):
        dataset = HF(name, "test")
        assert dataset.labels == [2, 1, 0]
        assert dataset.classes == ["ant", "bee", "cow"]
        assert "(default, commit 111111111111)" in dataset.notes()[0]
        assert dataset[0]["image"].getpixel((0, 0)) == (0, 0, 0)
    before = dataset.fingerprint()
    prepared(cache, "uoft-cs/cifar10", {"train": table([0, 1, 2] * 10), "test": table([0, 0, 0])}, "2" * 40)
    newer = HF("cifar10", "test")
    assert newer.labels == [0, 0, 0]
    assert newer.fingerprint() != before
    assert "2 versions" in newer.notes()[1]
    same, other = describe_dataset(dataset, {"name": "cifar10"}), describe_dataset(newer, {"name": "cifar10"})
    assert {key for key in same if same[key] != other[key]} == {"labels", "fingerprint"}  # features are stored anew
    chosen = HF("cifar10", "test", revision="1" * 40)
    assert (chosen.labels, chosen.fingerprint()) == ([2, 1, 0], before)


def test_the_library_itself_finds_the_copy_where_we_do(cache):
    prepared(cache, "uoft-cs/cifar10", {"train": table([0, 1, 2]), "test": table([2, 1, 0])}, "1" * 40)
    theirs = datasets.load_dataset("uoft-cs/cifar10", cache_dir=str(cache))
    assert theirs["test"]["kind"][:] == HF("cifar10", "test").labels


def test_an_incomplete_copy_is_not_used(cache):
    prepared(cache, "ethz/food101", {"train": table([0, 1, 2] * 10), "test": table([2, 1, 0])}, "1" * 40)
    assert HF("food101").check() == []
    next(cache.rglob("food101-test.arrow")).unlink()
    assert "not in the local cache" in problem(HF("food101"))


def test_several_configurations_are_named(cache):
    parts = {"train": table([0, 1, 2] * 10), "test": table([2, 1, 0])}
    for config in ("coarse", "fine"):
        prepared(cache, "me/pets", parts, "1" * 40 if config == "fine" else "2" * 40, config)
    assert "config='coarse', or another of coarse, fine" in problem(HF("me/pets"))
    assert HF("me/pets", config="fine").check() == []
    assert "not in the local cache" in problem(HF("me/pets", config="medium"))


def test_an_unknown_name_without_a_network_tells_the_steps(monkeypatch):
    message = problem(HF("ethz/food101"))
    for text in ("HF_HUB_OFFLINE", "hf auth login", "datasets.load_dataset('ethz/food101')", "save_to_disk"):
        assert text in message
    monkeypatch.setattr(datasets.config, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(hf_source, "explain_unreachable", lambda *_: "their licence has to be accepted first")
    assert "licence has to be accepted" in problem(HF("imagenet-1k"))
    monkeypatch.setattr(hf_source, "explain_unreachable", lambda *_: None)

    def fail(*_, **__):
        raise RuntimeError("disk full\nmore")

    monkeypatch.setattr(datasets, "load_dataset", fail)
    assert "RuntimeError: disk full)" in problem(HF("imagenet-1k"))
    assert "\n" not in problem(HF("imagenet-1k"))


def test_a_download_is_the_same_to_this_run_and_to_later_ones(cache, monkeypatch):
    monkeypatch.setattr(datasets.config, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(hf_source, "explain_unreachable", lambda *_: None)
    parts = {"train": table([0, 1, 2] * 10), "test": table([2, 1, 0])}
    asked = []

    def download(name, config, revision):
        asked.append((name, config, revision))
        prepared(cache, name, parts, "3" * 40)
        return datasets.DatasetDict(parts)

    monkeypatch.setattr(datasets, "load_dataset", download)
    first, second = HF("food101", "test"), HF("food101", "test")
    assert first.labels == second.labels == [2, 1, 0]
    assert first.fingerprint() == second.fingerprint() == f"default@{'3' * 40}"
    assert asked == [("ethz/food101", None, None)]


def test_a_missing_library_is_said(monkeypatch):
    import sys

    monkeypatch.setitem(sys.modules, "datasets", None)
    assert "pip install 'datasets>=4'" in problem(HF("cifar10"))


def test_local_files_and_what_is_none(tmp_path, cache):
    part = table([0, 1, 2] * 5)
    part.to_parquet(str(tmp_path / "pets" / "train.parquet"))
    folder, file = HF(str(tmp_path / "pets")), HF(str(tmp_path / "pets" / "train.parquet"))
    assert folder.check() == file.check() == []
    assert folder.labels == file.labels
    before = folder.fingerprint()
    table([2, 1, 0] * 5).to_parquet(str(tmp_path / "pets" / "train.parquet"))
    changed = HF(str(tmp_path / "pets"))
    assert changed.labels != folder.labels
    assert changed.fingerprint() != before
    for number in range(4):
        for name in ("cat", "dog"):
            path = tmp_path / "photos" / "train" / name / f"{number}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.new("RGB", (5, 4), (number, 0, 0)).save(path)
    photos = HF(str(tmp_path / "photos"), val_share=0, test_share=0)
    assert (photos.classes, Counter(photos.labels)) == (["cat", "dog"], {0: 4, 1: 4})
    assert photos[0]["image"].size == (5, 4)
    assert "does not exist" in problem(HF("./nowhere"))
    assert "does not exist" in problem(HF(str(tmp_path / "x.parquet")))
    (tmp_path / "x.parquet").write_text("no")
    assert "cannot be read as a dataset" in problem(HF(str(tmp_path / "x.parquet")))
    assert "neither a path nor a name" in problem(HF("no name"))
    assert "revision='a' has no meaning" in problem(HF(str(tmp_path / "pets"), revision="a"))


def test_prepare_saves_for_a_machine_without_network(tmp_path, cache):
    prepared(cache, "uoft-cs/cifar10", {"train": table([0, 1, 2] * 10), "test": table([2, 1, 0])}, "1" * 40)
    out = tmp_path / "copy"
    assert "saved in" in HF.prepare(str(out), name="cifar10")
    shutil.rmtree(cache)
    assert "train 30 images of 3 classes, test 3 images of 3 classes" in HF.prepare(str(out))
    assert HF(str(out), "test").labels == [2, 1, 0]
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "notes.txt").write_text("mine")
    with pytest.raises(ValueError, match="other files"):
        HF.prepare(str(tmp_path / "mine"))


@pytest.mark.parametrize(
    "arguments",
    [
        {"split": "dev"},
        {"ratio": 0},
        {"ratio": 1.1},
        {"shots": 0},
        {"seed": -1},
        {"val_share": 1},
        {"test_share": -0.1},
        {"name": ""},
        {"ratio": 0.5, "shots": 1},
        {"val_share": 0.5, "test_share": 0.5},
    ],
)
def test_nonsense_is_refused(arguments):
    with pytest.raises(ValueError, match=next(iter(arguments))):
        HF(**{"name": "cifar10", **arguments})


def plain_parquet(folder: Path, kind: str) -> str:
    """Six pictures, as programs other than `datasets` write them: nothing says what is an image or a label."""
    pa, parquet = pytest.importorskip("pyarrow"), pytest.importorskip("pyarrow.parquet")
    contents = [encoded(Image.new("RGB", (5, 4), (row, 0, 0)))["bytes"] for row in range(6)]
    (folder / kind / "pictures").mkdir(parents=True)
    names = [f"pictures/{row}.png" for row in range(6)]
    for name, content in zip(names, contents, strict=True):
        (folder / kind / name).write_bytes(content)
    structs = [{"bytes": content, "path": f"{row}.png"} for row, content in enumerate(contents)]
    pictures = {
        "structs": structs,
        "shards": structs,
        "file": structs,
        "bytes": contents,
        "paths": names,
        "paths in structs": [{"bytes": None, "path": name} for name in names],
        "swapped": [{"path": None, "bytes": content} for content in contents],
    }[kind]
    table, labels = [], [0, 1, 2, 0, 1, 2]
    size = 4 if kind == "shards" else 6
    for first in range(0, 6, size):
        columns = {"picture": pictures[first : first + size], "label": labels[first : first + size]}
        table.append(pa.table(columns))
    for number, part in enumerate(table):
        parquet.write_table(part, folder / kind / f"train-{number:05d}-of-{len(table):05d}.parquet")
    return str(folder / kind / ("train-00000-of-00001.parquet" if kind == "file" else ""))


@pytest.mark.parametrize("kind", ["structs", "shards", "file", "bytes", "paths", "paths in structs", "swapped"])
def test_plain_parquet_gives_the_same_items(tmp_path, kind):
    declared = HF(saved(tmp_path / "d", train=table([0, 1, 2, 0, 1, 2])), val_share=0, test_share=0)
    name = plain_parquet(tmp_path, kind)
    for columns in ({}, {"image": "picture", "label": "label"}):
        dataset = HF(name, val_share=0, test_share=0, **columns)
        assert dataset.check() == []
        assert dataset.labels == declared.labels
        for found, expected in zip(dataset, declared, strict=True):
            assert found["image"].tobytes() == expected["image"].tobytes()
            assert (found["label"], found["id"]) == (expected["label"], expected["id"])


def test_plain_columns_that_are_no_images_are_refused(tmp_path):
    pa, parquet = pytest.importorskip("pyarrow"), pytest.importorskip("pyarrow.parquet")
    columns = {"a": [b"x", b"y"], "b": [b"x", b"y"], "point": [{"x": 1}, {"x": 2}], "label": [0, 1]}
    parquet.write_table(pa.table(columns), tmp_path / "train.parquet")
    name = str(tmp_path / "train.parquet")
    assert "several columns of type Image: name one by image=" in problem(HF(name))
    assert "the column 'point' holds no images" in problem(HF(name, image="point"))
    parquet.write_table(pa.table({"image": ["gone.png", "a.png"], "label": [0, 1]}), tmp_path / "train.parquet")
    dataset = HF(name, val_share=0, test_share=0)
    with pytest.raises(ValueError, match=r"has no image, only the path gone\.png"):
        dataset[0]
