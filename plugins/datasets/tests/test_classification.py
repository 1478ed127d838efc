"""Food-101, CIFAR-10, ImageNet and folders divided by images: their layouts, subsets, and what is refused."""

from __future__ import annotations

import io
import json
import pickle
import pickletools
import tarfile
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from toolbox_datasets import cifar10, fetch, food101
from toolbox_datasets.cifar10 import CIFAR10
from toolbox_datasets.food101 import Food101
from toolbox_datasets.imagefolder import ImageFolder
from toolbox_datasets.imagenet import ImageNet


def save(path: Path, number: int = 0) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", (6, 4), (number % 256, 0, 0)).save(path, format="JPEG", quality=95)


def make_food(root: Path, lists: str = "txt") -> Path:
    names = ["apple_pie", "beignets", "churros"]
    (root / "meta").mkdir(parents=True)
    (root / "meta/classes.txt").write_text("".join(f"{name}\n" for name in names))
    (root / "meta/labels.txt").write_text("Apple pie\nBeignets\nChurros\n")
    for part, numbers in (("train", range(20)), ("test", range(20, 26))):
        table = {name: [f"{name}/{number}" for number in numbers] for name in names}
        for name in (stem for stems in table.values() for stem in stems):
            save(root / "images" / f"{name}.jpg", int(name.rpartition("/")[2]))
        if lists == "txt":
            text = "".join(f"{stem}\n" for stems in table.values() for stem in stems)
        else:
            text = json.dumps(table)
        (root / "meta" / f"{part}.{lists}").write_text(text)
    return root


def pixels(labels) -> np.ndarray:
    """(N, 3072) uint8, different for each row."""
    return np.random.default_rng(len(labels)).integers(0, 256, (len(labels), 3072), dtype=np.uint8)


NAMES = ["airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck"]
LABELS = np.arange(40) % 10


def make_cifar(root: Path) -> Path:
    root.mkdir(parents=True)
    (root / "batches.meta.txt").write_text("\n".join(NAMES) + "\n\n")
    for name in (name for part in cifar10.FILES.values() for name in part):
        (root / name).write_bytes(np.concatenate([LABELS[:, None].astype(np.uint8), pixels(LABELS)], 1).tobytes())
    return root


WNIDS = ["n01440764", "n01443537", "n01484850", "n02012849", "n03126707"]


def make_imagenet(root: Path, wnids=WNIDS, flat: bool = False) -> Path:
    lines = zip(WNIDS, ["tench", "goldfish", "great white shark", "crane", "crane"], strict=True)
    root.mkdir(parents=True)
    (root / "labels.txt").write_text("".join(f"{wnid},{name}\n" for wnid, name in lines))
    solution = ["ImageId,PredictionString"]
    for place, wnid in enumerate(wnids):
        for number in range(10):
            save(root / "train" / wnid / f"{wnid}_{number}.JPEG", number)
        for number in range(2):
            name = f"ILSVRC2012_val_{2 * place + number + 1:08d}"
            save(root / "val" / ("" if flat else wnid) / f"{name}.JPEG", number)
            solution.append(f"{name},{wnid} 1 2 30 40 {wnid} 5 6 7 8")
    save(root / "test" / "ILSVRC2012_test_00000001.JPEG")
    if flat:
        (root / "LOC_val_solution.csv").write_text("\n".join(solution) + "\n")
    return root


MAKE = {Food101: (make_food, 60, 18), CIFAR10: (make_cifar, 200, 40), ImageNet: (make_imagenet, 50, 10)}
"""{dataset: (what makes it, its training images, its test images)}."""


def problem(dataset) -> str:
    (found,) = dataset.check()
    return str(found)


@pytest.mark.parametrize("kind", MAKE)
def test_train_and_val_divide_the_training_images_and_all_have_all_classes(kind, tmp_path):
    make, trained, tested = MAKE[kind]
    root = str(make(tmp_path / "data"))
    splits = {split: kind(root, split) for split in ("train", "val", "test")}
    count = {split: len(dataset) for split, dataset in splits.items()}
    assert (count["train"] + count["val"], count["test"]) == (trained, tested)
    assert len(splits["val"].classes) <= count["val"] < trained / 5
    ids = [dataset[index]["id"] for dataset in splits.values() for index in range(len(dataset))]
    assert len(set(ids)) == trained + tested
    identities = {split: set(dataset.identities()) for split, dataset in splits.items()}
    if kind is not CIFAR10:  # whose toy batches repeat
        assert sum(map(len, identities.values())) == trained + tested
        assert len(set.union(*identities.values())) == trained + tested
    for dataset in splits.values():
        assert dataset.check() == []
        assert set(dataset.labels) == set(range(len(dataset.classes)))
        assert [dataset[index]["label"] for index in range(len(dataset))] == dataset.labels
        assert len(dataset.sources()) == (len(cifar10.FILES[dataset.part]) if kind is CIFAR10 else len(dataset))
        assert all(Path(path).is_file() for path in dataset.sources())
        again = pickle.loads(pickle.dumps(dataset))
        assert again[3]["image"].tobytes() == dataset[3]["image"].tobytes()
    assert "has no 'val'" in splits["train"].notes()[0]
    assert f"'val' holds {count['val']}" in splits["val"].notes()[0]
    assert splits["test"].notes() == []
    assert len(kind(root, val_share=0)) == trained
    tenth, half = (set(kind(root, ratio=ratio).indices) for ratio in (0.2, 0.5))
    assert tenth < half < set(splits["train"].indices)
    assert set(Counter(kind(root, shots=3).labels).values()) == {3}
    assert "take at most" in problem(kind(root, shots=1000))
    assert Counter(kind(root, ratio=0.001).labels) == dict.fromkeys(range(len(splits["train"].classes)), 1)
    assert len(pickle.dumps(kind(root))) < 1000


@pytest.mark.parametrize("kind", MAKE)
def test_what_is_missing_is_told_with_the_steps(kind, tmp_path):
    name = kind.__name__.lower()
    for root in (tmp_path / "none", tmp_path):
        message = problem(kind(str(root)))
        assert f"prepare_data {name}" in message
        assert f"--layout {name}" in message
        with pytest.raises(ValueError, match=f"prepare_data {name}"):
            kind.prepare(str(root))
    root = str(MAKE[kind][0](tmp_path / "data"))
    assert "but not the published dataset" in kind.prepare(root)
    assert "(published: " in kind.prepare(root)


@pytest.mark.parametrize("kind", MAKE)
@pytest.mark.parametrize("arguments", [{"split": "trainval"}, {"ratio": 0}, {"shots": -1}, {"val_share": 1.0}])
def test_nonsense_is_refused(kind, arguments):
    with pytest.raises(ValueError, match=next(iter(arguments))):
        kind("data", **arguments)


# ---- Food-101


def test_food_lists_as_text_or_json(tmp_path):
    text, table = Food101(str(make_food(tmp_path / "a"))), Food101(str(make_food(tmp_path / "b", "json")))
    assert text.classes == ["Apple pie", "Beignets", "Churros"]
    assert (text.paths, text.labels) == (table.paths, table.labels)
    assert text[0]["path"].endswith("images/apple_pie/0.jpg")


@pytest.mark.parametrize(
    ("file", "text", "expected"),
    [
        ("train.txt", "apple_pie/0\ndonuts/1\n", r"train\.txt, entry 2: 'donuts/1' is of no class"),
        ("train.txt", "apple_pie/0\napple_pie/0\n", "entry 2: 'apple_pie/0' stands there twice"),
        ("train.txt", "", "is empty"),
        ("train.txt", "apple_pie/0\napple_pie/99\nbeignets/1\n", "do not exist: images/apple_pie/99.jpg"),
        ("labels.txt", "Apple pie\n", "names 1 classes, and classes.txt beside it 3"),
    ],
)
def test_malformed_food_lists_are_refused(tmp_path, file, text, expected):
    root = make_food(tmp_path / "food")
    (root / "meta" / file).write_text(text)
    import re

    assert re.search(expected, problem(Food101(str(root), val_share=0)))


def test_an_image_in_training_and_test_is_refused(tmp_path):
    root = make_food(tmp_path / "food")
    (root / "meta/test.txt").write_text("apple_pie/3\nbeignets/25\n")
    assert "1 images are in the training list too: apple_pie/3" in problem(Food101(str(root), "test"))


def test_food_is_unpacked_and_downloaded_whole_or_not_at_all(tmp_path, monkeypatch):
    made = make_food(tmp_path / "made" / "food-101")
    archive = tmp_path / "food.tar.gz"
    with tarfile.open(archive, "w:gz") as file:
        file.add(made, "food-101")
    assert "train 60 images of 3" in Food101.prepare(str(tmp_path / "a"), source=str(archive))
    assert "train 60 images of 3" in Food101.prepare(str(tmp_path / "b"), source=str(made.parent))
    place = fetch.Archive(archive.as_uri(), "food-101.tar.gz", fetch.compute_md5(archive))
    monkeypatch.setattr(food101, "ARCHIVE", place)
    out = tmp_path / "down" / "food"
    assert "train 60 images of 3" in Food101.prepare(str(out), download=True)
    assert "train 60 images of 3" in Food101.prepare(str(out), download=True)  # nothing is fetched again
    assert [path.name for path in out.parent.iterdir()] == ["food"]
    monkeypatch.setattr(food101, "ARCHIVE", place._replace(md5="0" * 32))
    with pytest.raises(ValueError, match="another file than was published"):
        Food101.prepare(str(tmp_path / "x" / "food"), download=True)
    monkeypatch.setattr(food101, "ARCHIVE", place._replace(url=(tmp_path / "gone").as_uri()))
    with pytest.raises(OSError, match="cannot be downloaded"):
        Food101.prepare(str(tmp_path / "x" / "food"), download=True)
    assert list((tmp_path / "x").iterdir()) == []
    with pytest.raises(ValueError, match="give one of them"):
        Food101.prepare(str(out), source="a", download=True)


# ---- CIFAR-10


def test_cifar_pictures_are_the_bytes_of_the_files(tmp_path):
    root = make_cifar(tmp_path / "data" / "cifar-10-batches-bin")
    for given in (root, root.parent):
        dataset = CIFAR10(str(given), "train", val_share=0)
        assert dataset.classes == NAMES
        assert len(dataset) == 200
        sample = dataset[83]
        assert (sample["id"], sample["label"], sample["image"].size) == ("data_batch_3.bin/3", 3, (32, 32))
        planes = pixels(LABELS)[3].reshape(3, 32, 32)
        assert (np.asarray(sample["image"]) == planes.transpose(1, 2, 0)).all()
        assert dataset.sources()[2].name == "data_batch_3.bin"
    assert len(pickle.dumps(dataset)) < 20_000  # the files are mapped again in a worker


def test_broken_cifar_files_are_refused(tmp_path):
    root = make_cifar(tmp_path / "data")
    file = root / "data_batch_2.bin"
    whole = file.read_bytes()
    file.write_bytes(whole[:-1])
    assert "data_batch_2.bin has 122,919 bytes, which is no multiple of 3,073" in problem(CIFAR10(str(root)))
    file.write_bytes(b"\x0a" + whole[1:])
    assert "data_batch_2.bin has the label 10" in problem(CIFAR10(str(root)))
    file.unlink()
    assert "has no data_batch_2.bin" in problem(CIFAR10(str(root)))
    (root / "batches.meta.txt").write_text("cat\ndog\n")
    assert "must name 10 different classes" in problem(CIFAR10(str(root), "test"))


def make_pickles(root: Path, protocol: int = 2) -> Path:
    root.mkdir(parents=True)
    for name in (name.removesuffix(".bin") for part in cifar10.FILES.values() for name in part):
        content = {b"labels": LABELS.tolist(), b"data": pixels(LABELS), b"filenames": [b"a.png"] * 40}
        (root / name).write_bytes(pickle.dumps(content, protocol=protocol))
    (root / "batches.meta").write_bytes(pickle.dumps({b"label_names": [name.encode() for name in NAMES]}, protocol=3))
    return root


def test_pickles_are_converted_to_the_same_pictures(tmp_path):
    source, out = make_pickles(tmp_path / "cifar-10-batches-py", 3), tmp_path / "out"
    assert "train 200 images of 10" in CIFAR10.prepare(str(out), source=str(source))
    expected = make_cifar(tmp_path / "expected")
    for name in (name for part in cifar10.FILES.values() for name in part):
        assert (out / name).read_bytes() == (expected / name).read_bytes()
    assert CIFAR10(str(out)).classes == NAMES
    with pytest.raises(ValueError, match="holds files already"):
        CIFAR10.prepare(str(out), source=str(source))


class Evil:
    def __reduce__(self):
        return (Path.touch, (Path("evil"),))


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        (pickle.dumps(Evil()), "which CIFAR-10 has no use for"),
        (b"no pickle", "cannot be read"),
        (pickle.dumps([1]), "holds no dictionary"),
        (pickle.dumps({b"labels": [1]}), "holds no 'labels' and 'data'"),
        (pickle.dumps({b"labels": [1], b"data": np.zeros((1, 3), np.uint8)}, protocol=3), "one row of 3,072"),
        (pickle.dumps({b"labels": [1], b"data": np.zeros((1, 384), float)}, protocol=3), "one row of 3,072|holds no"),
        (pickle.dumps({b"labels": [300], b"data": np.zeros((1, 3072), np.uint8)}, protocol=3), "holds no|out of"),
    ],
)
def test_pickles_that_hold_something_else_are_refused_and_nothing_runs(tmp_path, monkeypatch, content, expected):
    monkeypatch.chdir(tmp_path)
    source = make_pickles(tmp_path / "py", 3)
    (source / "data_batch_1").write_bytes(content)
    with pytest.raises(ValueError, match=expected):
        CIFAR10.prepare(str(tmp_path / "out"), source=str(source))
    assert {path.name for path in tmp_path.iterdir()} == {"py"}


# ---- ImageNet


def test_imagenet_classes_and_their_names(tmp_path):
    dataset = ImageNet(str(make_imagenet(tmp_path / "in1k")), "test")
    assert dataset.wnids == WNIDS
    assert dataset.classes == ["tench", "goldfish", "great white shark", "crane (n02012849)", "crane (n03126707)"]
    assert dataset[0]["id"] == "val/n01440764/ILSVRC2012_val_00000001.JPEG"
    assert dataset.notes() == []


def test_val_without_folders_is_read_with_its_solution(tmp_path):
    folders = ImageNet(str(make_imagenet(tmp_path / "a")), "test")
    flat_root = make_imagenet(tmp_path / "b", flat=True)
    flat = ImageNet(str(flat_root), "test")
    assert flat.check() == []
    assert [Path(path).name for path in flat.paths] == [Path(path).name for path in folders.paths]
    assert flat.labels == folders.labels
    rows = (flat_root / "LOC_val_solution.csv").read_text().splitlines()[1:]
    (flat_root / "LOC_val_solution.csv").unlink()
    assert "LOC_val_solution.csv" in problem(ImageNet(str(flat_root), "test"))
    pairs = [(row.partition(",")[0], row.partition(",")[2].split()[0]) for row in rows]
    (flat_root / "val.txt").write_text("".join(f"{name}.JPEG {wnid}\n" for name, wnid in pairs))
    assert ImageNet(str(flat_root), "test").labels == folders.labels
    (flat_root / "val.txt").write_text("ILSVRC2012_val_00000001.JPEG 65\n")
    assert "'65' is a number; write the wnid" in problem(ImageNet(str(flat_root), "test"))


def test_a_subset_counts_its_own_classes(tmp_path):
    root = make_imagenet(tmp_path / "in1k")
    chosen = [WNIDS[3], WNIDS[1]]
    listed = tmp_path / "two.txt"
    listed.write_text(f"{WNIDS[3]} crane\n{WNIDS[1]},goldfish\n")
    for classes in (chosen, str(listed)):
        counts = []
        for split in ("train", "val", "test"):
            dataset = ImageNet(str(root), split, classes=classes)
            assert dataset.check() == []
            assert dataset.classes == ["goldfish", "crane"]
            counts.append(len(dataset))
            assert {path.split("/")[1] for path, label in zip(dataset.paths, dataset.labels) if label} == {WNIDS[3]}  # noqa: B905
            assert "2 of the 5 classes of labels.txt" in dataset.notes()[0]
        assert (sum(counts[:2]), counts[2]) == (20, 4)
    assert "no folder for 1 of the chosen classes: n99" in problem(ImageNet(str(root), classes=["n99", WNIDS[0]]))
    few = make_imagenet(tmp_path / "few", WNIDS[1:3])
    assert ImageNet(str(few), val_share=0).labels.count(0) == 10
    assert "2 of the 5 classes" in ImageNet(str(few)).notes()[0]
    with pytest.raises(ValueError, match="classes is empty"):
        ImageNet(str(root), classes=[])


def test_a_test_with_folders_makes_val_the_val(tmp_path):
    root = make_imagenet(tmp_path / "in1k")
    for wnid in WNIDS:
        save(root / "test" / wnid / "a.JPEG")
    assert [len(ImageNet(str(root), split)) for split in ("train", "val", "test")] == [50, 10, 5]


def test_folders_and_lines_that_do_not_fit_are_refused(tmp_path):
    root = make_imagenet(tmp_path / "in1k")
    save(root / "train" / "n99999999" / "a.JPEG")
    assert "1 folders that" in problem(ImageNet(str(root)))
    (root / "labels.txt").unlink()
    assert ImageNet(str(root)).classes == [*WNIDS, "n99999999"]
    save(root / "val" / "n88888888" / "a.JPEG")
    assert "classes that are not in train/: n88888888" in problem(ImageNet(str(root), "test"))
    (root / "labels.txt").write_text("n01440764 tench\n")
    assert "entry 1: 'n01440764 tench' is not" in problem(ImageNet(str(root)))
    (root / "labels.txt").write_text("n01440764,tench\nn01440764,tench\n")
    assert "stands there twice" in problem(ImageNet(str(root)))


def test_one_class_is_refused(tmp_path):
    assert "nothing to tell apart" in problem(ImageNet(str(make_imagenet(tmp_path / "one", WNIDS[:1]))))


# ---- folders


def test_a_folder_is_divided_by_images(tmp_path):
    for name in ("cat", "cow", "dog"):
        for number in range(20):
            save(tmp_path / name / f"{number}.jpg")
    splits = {split: ImageFolder(str(tmp_path), split, divide="images") for split in ("train", "val", "test")}
    counts = {split: len(dataset) for split, dataset in splits.items()}
    assert sum(counts.values()) == 60
    assert counts["train"] > counts["test"] > counts["val"] >= 3
    for split, dataset in splits.items():
        assert dataset.check() == []
        assert dataset.classes == ["cat", "cow", "dog"]
        assert set(dataset.labels) == {0, 1, 2}
        assert len(dataset.sources()) == len(dataset)
        assert "divided by their names ('val' about 0.1, 'test' about 0.2, seed 42)" in dataset.notes()[0]
        assert f"'{split}' has {counts[split]} of 60 ({counts[split] / 60:.1%})" in dataset.notes()[0]
    paths = [path for dataset in splits.values() for path, _ in dataset.items]
    assert len(set(paths)) == 60
    assert ImageFolder(str(tmp_path)).notes() == []
    shots = ImageFolder(str(tmp_path), "train", divide="images", shots=5)
    assert set(Counter(shots.labels).values()) == {5}
    assert {path for path, _ in shots.items} < {path for path, _ in splits["train"].items}
    assert f"shots=5 takes 15 of the {counts['train']}" in shots.notes()[-1]
    least = min(Counter(splits["train"].labels).values())
    assert f"take at most {least}" in problem(ImageFolder(str(tmp_path), "train", divide="images", shots=19))
    assert 15 < len(ImageFolder(str(tmp_path), ratio=0.5)) < 45


def test_val_is_carved_from_a_train_folder_when_images_are_divided(tmp_path):
    for name in ("cat", "cow"):
        for number in range(20):
            save(tmp_path / "train" / name / f"{number}.jpg")
        save(tmp_path / "test" / name / "x.jpg")
    found = {split: ImageFolder(str(tmp_path), split, divide="images") for split in ("train", "val", "test")}
    assert len(found["train"]) + len(found["val"]) == 40
    assert 2 <= len(found["val"]) < 10
    assert len(found["test"]) == 2
    assert not {path for path, _ in found["train"].items} & {path for path, _ in found["val"].items}
    assert "but no val/" in problem(ImageFolder(str(tmp_path), "val"))  # as retrieval has it
    assert len(ImageFolder(str(tmp_path), "train")) == 40
    with pytest.raises(ValueError, match="divide must be"):
        ImageFolder(str(tmp_path), divide="files")


def test_the_original_pickles_of_python_2_are_read(tmp_path):
    """Written by hand as Python 2 wrote them: byte strings for all texts, NumPy's old module name."""
    source = make_pickles(tmp_path / "py", 3)
    data = pixels(LABELS)
    batch = io.BytesIO()
    batch.write(b"\x80\x02}(U\x06labels](" + b"".join(b"K" + bytes([label]) for label in LABELS) + b"e")
    batch.write(
        b"U\x04datacnumpy.core.multiarray\n_reconstruct\n(cnumpy\nndarray\nK\x00\x85U\x01btR(K\x01K(M\x00\x0c\x86"
    )
    batch.write(b"cnumpy\ndtype\n(U\x02u1K\x00K\x01tR(K\x03U\x01|NNNJ\xff\xff\xff\xffJ\xff\xff\xff\xffK\x00tb\x89")
    batch.write(b"T" + data.nbytes.to_bytes(4, "little") + data.tobytes() + b"tbu.")
    pickletools.dis(batch.getvalue(), io.StringIO())  # well formed
    (source / "data_batch_1").write_bytes(batch.getvalue())
    CIFAR10.prepare(str(tmp_path / "out"), source=str(source))
    assert (CIFAR10(str(tmp_path / "out"), val_share=0).batches[0][:, 1:] == data).all()
