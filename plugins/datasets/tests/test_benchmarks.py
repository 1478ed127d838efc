"""In-shop, CUB and Cars: their lists, the division by classes, what is refused, the steps that get them."""

from __future__ import annotations

import builtins
import tarfile
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from toolbox_datasets.cars import Cars
from toolbox_datasets.cub import CUB
from toolbox_datasets.inshop import InShop


def save(path: Path, number: int) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", (6, 4), (number % 256, 0, 0)).save(path, format="JPEG", quality=95)


def make_inshop(root: Path, images: str = "img", listed: str = "list_eval_partition.txt") -> Path:
    """20 training items in two groups, 6 test items with a query and two gallery images each."""
    lines = []
    for item in range(26):
        group = ("WOMEN/Dresses", "MEN/Tees")[item % 2]
        for view, status in enumerate(("query", "gallery", "gallery") if item >= 20 else ("train",) * 3):
            name = f"{group}/id_{item:08d}/01_{view}_front.jpg"
            save(root / images / name, 9 * item)
            lines.append(f"img/{name}    id_{item:08d} {status}")
    path = root / listed
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("\n".join([str(len(lines)), "image_name item_id evaluation_status", *lines, ""]))
    return root


def make_cub(root: Path, classes=range(91, 111)) -> Path:
    names = [(c, f"{c:03d}.Bird_{c}/{view}.jpg") for c in classes for view in range(2)]
    for c, name in names:
        save(root / "images" / name, c)
    (root / "images.txt").write_text("".join(f"{i} {name}\n" for i, (_, name) in enumerate(names, 1)))
    (root / "image_class_labels.txt").write_text("".join(f"{i} {c}\n" for i, (c, _) in enumerate(names, 1)))
    return root


def cars_list():
    return [(f"car_ims/{i:06d}.jpg", c) for i, c in enumerate((*range(80, 120), *range(80, 120)), start=1)]


def make_cars(root: Path) -> Path:
    for path, number in cars_list():
        save(root / path, number)
    rows = "".join(f"{i},{c},{path}\n" for i, (path, c) in enumerate(cars_list()))
    (root / "cars_annos.csv").write_text("row,class,path\n" + rows)
    return root


MAKE = {
    InShop: (make_inshop, 20, 6),
    CUB: (make_cub, 10, 10),
    Cars: (make_cars, 19, 21),
}


@pytest.mark.parametrize("kind", MAKE)
def test_no_class_is_in_two_splits(kind, tmp_path):
    make, trained, tested = MAKE[kind]
    root = str(make(tmp_path / "data"))
    train, val, both, test = (kind(root, split, 0.3) for split in ("train", "val", "trainval", "test"))
    for dataset in (train, val, both, test):
        assert dataset.check() == []
        assert sorted(set(dataset.labels)) == list(range(len(dataset.classes)))
        assert len({dataset[index]["id"] for index in range(len(dataset))}) == len(dataset)
    assert (len(both.classes), len(test.classes)) == (trained, tested)
    assert set(train.classes) | set(val.classes) == set(both.classes)
    assert not set(train.classes) & set(val.classes)
    assert not set(both.classes) & set(test.classes)
    assert set(train.identities()) | set(val.identities()) == set(both.identities())
    assert not set(both.identities()) & set(test.identities())
    assert [len(dataset.identities()) for dataset in (train, both)] == [len(train), len(both)]
    assert 2 <= len(val.classes) <= trained / 2
    sample = val[0]
    assert Path(sample["path"]).is_file()
    assert "role" not in sample
    assert sample["label"] == val.labels[0]


@pytest.mark.parametrize("kind", MAKE)
def test_prepare_compares_with_what_was_published(kind, tmp_path, monkeypatch):
    make, trained, tested = MAKE[kind]
    root = make(tmp_path / "data")
    said = kind.prepare(str(root))
    assert all(f"(published: {images:,} of {classes:,})" in said for images, classes in kind.published.values())
    assert "not the published dataset" in said
    counts = {
        part: (len(kind(str(root), split)), classes)
        for (part, split), classes in zip((("train", "trainval"), ("test", "test")), (trained, tested), strict=True)
    }
    monkeypatch.setattr(kind, "published", counts)
    assert "is complete" in kind.prepare(str(root))
    Path(kind(str(root), "test")[0]["path"]).unlink()
    with pytest.raises(ValueError, match=r"1 of \d+ images of .* do not exist.*vision-encoder-toolbox prepare_data"):
        kind.prepare(str(root))
    with pytest.raises(
        ValueError, match=rf"does not exist.*vision-encoder-toolbox prepare_data {kind.__name__.lower()} --out"
    ):
        kind.prepare(str(tmp_path / "none"))
    (tmp_path / "empty").mkdir()
    (problem,) = kind(str(tmp_path / "empty")).check()
    assert "has no " in problem.message
    assert "https://" in problem.hint


def test_published_counts_add_up():
    totals = {kind: sum(images for images, _ in kind.published.values()) for kind in MAKE}
    assert totals == {InShop: 52_712, CUB: 11_788, Cars: 16_185}


# ---- In-shop


def test_queries_meet_the_gallery_only(tmp_path):
    from toolbox_retrieval.recall import Recall

    from toolbox.base import Batch

    dataset = InShop(str(make_inshop(tmp_path)), "test")
    assert Counter(dataset[index]["role"] for index in range(len(dataset))) == {"query": 6, "gallery": 12}
    assert Counter(dataset.groups) == {"WOMEN/Dresses": 9, "MEN/Tees": 9}
    samples = [dataset[index] for index in range(len(dataset))]
    metric = Recall(ks=[1])
    metric.update(
        {"embeddings": torch.eye(6, dtype=torch.float32)[[sample["label"] for sample in samples]]},
        Batch(
            labels=torch.tensor([sample["label"] for sample in samples]),
            ids=[sample["id"] for sample in samples],
            roles=[sample["role"] for sample in samples],
        ),
    )
    found = metric.compute()
    assert (found["queries"], found["recall@1"]) == (6, 1.0)


def test_a_role_that_changes_is_other_data(tmp_path):
    root = make_inshop(tmp_path)
    before, again = (InShop(str(root), "test").fingerprint() for _ in range(2))
    (path,) = root.rglob("list_eval_partition.txt")
    path.write_text(path.read_text().replace(" gallery", " query", 1))
    changed = InShop(str(root), "test")
    assert before == again != changed.fingerprint()  # stored features hold roles, and no image has changed


@pytest.mark.parametrize(
    ("images", "listed"), [("img", "Eval/list_eval_partition.txt"), ("Img/img", "Eval/list_eval_partition.txt")]
)
def test_inshop_as_it_is_unpacked(tmp_path, images, listed):
    dataset = InShop(str(make_inshop(tmp_path, images, listed)), "trainval")
    assert dataset.check() == []
    assert dataset[0]["group"] == "WOMEN/Dresses"
    assert dataset[0]["id"] == "img/WOMEN/Dresses/id_00000000/01_0_front.jpg"


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("evaluation_status", "status", "the first two lines"),
        ("78\n", "many\n", "the first two lines"),
        ("78\n", "79\n", "announces 79 images, and the list has 78"),
        ("gallery", "galery", r"txt:64: expected 'image_name item_id evaluation_status' with a status"),
        ("id_00000020 query", "id_00000000 query", "txt:63: the item id_00000000 is in the training and in the test"),
        ("id_00000000/01_1", "id_00000000/01_0", "txt:4: the image .*01_0_front.jpg stands on an earlier line"),
    ],
)
def test_a_malformed_partition_is_named(tmp_path, old, new, message):
    path = make_inshop(tmp_path) / "list_eval_partition.txt"
    path.write_text(path.read_text().replace(old, new, 1))
    with pytest.raises(ValueError, match=message):
        len(InShop(str(tmp_path)))


# ---- CUB


def test_the_first_hundred_species_are_trained_on(tmp_path):
    root = str(make_cub(tmp_path))
    assert CUB(root, "trainval").classes == [f"{c:03d}.Bird_{c}" for c in range(91, 101)]
    test = CUB(root, "test")
    assert test.classes[0] == "101.Bird_101"
    assert test.groups is None
    assert (test[0]["id"], abs(test[0]["image"].getpixel((2, 2))[0] - 101) <= 3) == (21, True)


def test_cub_is_unpacked_and_found_in_its_folder(tmp_path):
    make_cub(tmp_path / "top" / "CUB_200_2011")
    assert CUB(str(tmp_path / "top"), "trainval").check() == []
    with tarfile.open(tmp_path / "CUB_200_2011.tgz", "w:gz") as archive:
        archive.add(tmp_path / "top", ".")
    assert "train 20 images of 10 classes" in CUB.prepare(
        str(tmp_path / "out"), source=str(tmp_path / "CUB_200_2011.tgz")
    )
    assert (tmp_path / "out/images.txt").is_file()


@pytest.mark.parametrize(
    ("name", "old", "new", "message"),
    [
        ("images.txt", "2 091", "two 091", r"images\.txt:2: expected a new number and a text"),
        ("images.txt", "2 091", "1 091", r"images\.txt:2: expected a new number"),
        ("image_class_labels.txt", "3 92\n", "", r"number different images, such as \[3\]"),
        ("image_class_labels.txt", "3 92\n", "3 bird\n", "a class is a number, not 'bird'"),
    ],
)
def test_malformed_lists_of_cub_are_named(tmp_path, name, old, new, message):
    make_cub(tmp_path)
    (tmp_path / name).write_text((tmp_path / name).read_text().replace(old, new, 1))
    with pytest.raises(ValueError, match=message):
        len(CUB(str(tmp_path)))
    (tmp_path / "images.txt").write_text("")
    with pytest.raises(ValueError, match="lists nothing"):
        len(CUB(str(tmp_path)))
    make_cub(tmp_path / "again")
    (tmp_path / "again" / "image_class_labels.txt").unlink()
    with pytest.raises(FileNotFoundError, match="image_class_labels"):
        len(CUB(str(tmp_path / "again")))


# ---- Cars


def test_layouts_of_cars_agree(tmp_path):
    io = pytest.importorskip("scipy.io")
    as_csv = Cars(str(make_cars(tmp_path / "csv")), "test")
    fields = [("relative_im_path", object), ("class", object)]
    annotations = np.array([(path, number) for path, number in cars_list()], dtype=fields)
    (tmp_path / "mat").mkdir()
    io.savemat(tmp_path / "mat" / "cars_annos.mat", {"annotations": annotations})
    as_mat = Cars(str(tmp_path / "mat"), "test")
    assert as_mat.items == as_csv.items
    assert as_mat.classes == as_csv.classes == [str(c) for c in range(99, 120)]
    (tmp_path / "mat" / "cars_annos.mat").write_bytes(b"MATLAB 5.0 and no more")
    with pytest.raises(ValueError, match=r"cars_annos\.mat holds no annotations"):
        len(Cars(str(tmp_path / "mat")))


def test_folders_of_cars_are_numbered_by_name(tmp_path):
    for number in range(196):
        save(tmp_path / ("train", "test")[number % 2] / f"Car {number:03d}" / "1.jpg", number)
        save(tmp_path / "test" / f"Car {number:03d}" / "2.jpg", number)
    trained, test = (Cars(str(tmp_path), split) for split in ("trainval", "test"))
    assert trained.classes == [f"Car {number:03d}" for number in range(98)]
    assert test.classes == [f"Car {number:03d}" for number in range(98, 196)]
    assert (len(trained), len(test)) == (196, 196)
    assert trained.check() == []
    for name in ("1.jpg", "2.jpg"):
        (tmp_path / "test/Car 001" / name).unlink()
    (tmp_path / "test/Car 001").rmdir()
    (problem,) = Cars(str(tmp_path)).check()
    assert "has 195 folders of classes, and Cars196 has 196" in problem.message


def test_mat_without_scipy_says_what_to_do(tmp_path, monkeypatch):
    (tmp_path / "cars_annos.mat").write_bytes(b"")
    real = builtins.__import__

    def without(name, *arguments):
        if name.startswith("scipy"):
            raise ImportError(name)
        return real(name, *arguments)

    monkeypatch.setattr(builtins, "__import__", without)
    (problem,) = Cars(str(tmp_path)).check()
    assert "python -m pip install scipy" in problem.message


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("path,klass\na.jpg,1\n", "one of class, class_id, label must be columns, and there are path, klass"),
        ("path,class\na.jpg,0\n", r"cars_annos\.csv:2: a class is a number from 1 to 196, not '0'"),
        ("path,class\na.jpg,sedan\n", r"cars_annos\.csv:2: a class is a number"),
        ("path,class\na.jpg,1\na.jpg,2\n", "names an image twice"),
        ("", "and there are none"),
    ],
)
def test_malformed_lists_of_cars_are_named(tmp_path, content, message):
    (tmp_path / "cars_annos.csv").write_text(content)
    with pytest.raises(ValueError, match=message):
        len(Cars(str(tmp_path)))
