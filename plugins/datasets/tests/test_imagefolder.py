"""Folders of images: with and without split folders, natural order, what `check` finds."""

from __future__ import annotations

from pathlib import Path

import pytest
from PIL import Image
from toolbox_datasets.class_folders import list_class_files
from toolbox_datasets.imagefolder import ImageFolder

from toolbox.base import natural_sort_key


def fill(root: Path, *paths: str) -> Path:
    for path in paths:
        (root / path).parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (4, 3)).save(root / path)
    return root


@pytest.fixture
def plain(tmp_path):
    """Ten classes of two images."""
    return fill(tmp_path / "pets", *(f"class {c}/{i}.jpg" for c in range(1, 11) for i in range(2)))


def test_natural_order():
    names = ["img10", "img2", "img", "IMG3", "img2b", "a", "2", "10"]
    assert sorted(names, key=natural_sort_key) == ["2", "10", "IMG3", "a", "img", "img2", "img2b", "img10"]


def test_classes_files_and_ids(tmp_path):
    root = fill(tmp_path / "照片", "cat/2.jpg", "cat/10.PNG", "cat/deep/er/1.webp", "dog 2/a.bmp", "dog 10/ä.jpeg")
    fill(root, "cat/.hidden.jpg", ".cache/x.jpg", "cat/.thumbs/y.jpg", "outside.jpg")
    (root / "cat/notes.txt").write_text("no image")
    (root / "cat/README").write_text("no image")
    dataset = ImageFolder(str(root))
    assert dataset.classes == ["cat", "dog 2", "dog 10"]
    paths = ["cat/2.jpg", "cat/10.PNG", "cat/deep/er/1.webp", "dog 2/a.bmp", "dog 10/ä.jpeg"]
    assert [dataset[index]["id"] for index in range(len(dataset))] == paths
    assert dataset.labels == [0, 0, 0, 1, 2]
    assert dataset.ignored == {".txt": 1, "": 1}
    assert dataset.check() == []
    assert (dataset[2]["image"].size, dataset[2]["image"].mode, dataset[2]["label"]) == ((4, 3), "RGB", 0)
    assert dataset.groups is None
    only = ImageFolder(str(root), extensions=["JPG", ".jpeg"])
    assert len(only) == 2
    assert only.ignored[".png"] == 1


def test_carved_splits_share_no_class(plain):
    splits = {split: ImageFolder(str(plain), split) for split in ("train", "val", "test")}
    found = [name for dataset in splits.values() for name in dataset.classes]
    assert sorted(found, key=natural_sort_key) == [f"class {c}" for c in range(1, 11)]
    # two at least: with one alone every neighbour is right
    assert all(len(dataset.classes) >= 2 for dataset in splits.values())
    assert all(dataset.classes == sorted(dataset.classes, key=natural_sort_key) for dataset in splits.values())
    assert "the classes are divided by their names" in splits["val"].notes()[0]
    assert f"'val' has {len(splits['val'].classes)} of 10" in splits["val"].notes()[0]
    assert len(ImageFolder(str(plain)).classes) == 10
    assert all(dataset.labels[-1] == len(dataset.classes) - 1 for dataset in splits.values())


def test_split_folders_are_used(tmp_path):
    root = fill(tmp_path, *(f"{split}/{name}/1.jpg" for split in ("train", "test") for name in (split, "extra")))
    assert ImageFolder(str(root), "train").classes == ["extra", "train"]
    assert [item[0] for item in ImageFolder(str(root), "test").items] == ["test/extra/1.jpg", "test/test/1.jpg"]
    everything = ImageFolder(str(root))
    assert everything.classes == ["extra", "test", "train"]
    assert len(everything) == 4
    (problem,) = ImageFolder(str(root), "val").check()
    assert "train/, test/ but no val/" in problem.message


def test_labels_mean_the_same_in_train_and_val(tmp_path):
    root = fill(tmp_path, "train/a/1.jpg", "train/b/1.jpg", "train/c/1.jpg", "val/c/1.jpg", "test/x/1.jpg")
    val = ImageFolder(str(root), "val")
    assert val.classes == ImageFolder(str(root), "train").classes == ["a", "b", "c"]
    assert val.labels == [2]
    assert ImageFolder(str(root), "test").classes == ["x"]


def test_a_class_may_be_called_train(tmp_path):
    root = fill(tmp_path, *(f"{name}/{i}.jpg" for name in ("bus", "car", "train") for i in range(2)))
    assert ImageFolder(str(root)).classes == ["bus", "car", "train"]


def test_check_finds_what_is_missing(plain, tmp_path):
    (problem,) = ImageFolder(str(tmp_path / "none")).check()
    assert "does not exist" in problem.message
    (plain / "class 7/0.jpg").unlink()
    (plain / "class 7/1.jpg").unlink()
    (problem,) = ImageFolder(str(plain)).check()
    assert "hold no image: class 7" in problem.message
    (tmp_path / "texts/a").mkdir(parents=True)
    (tmp_path / "texts/a/1.txt").write_text("")
    (problem,) = ImageFolder(str(tmp_path / "texts")).check()
    assert "no images" in problem.message
    assert "1 .txt" in problem.message
    flat = fill(tmp_path / "flat", "1.jpg", "2.jpg")
    (problem,) = ImageFolder(str(flat)).check()
    assert "no images in class folders" in problem.message


@pytest.mark.parametrize("count", [1, 2, 5, 6, 7])
def test_few_classes_are_divided_by_two_each_or_refused(tmp_path, count):
    root = fill(tmp_path, *(f"{c}/{i}.jpg" for c in range(count) for i in range(2)))
    found = {split: ImageFolder(str(root), split) for split in ("train", "val", "test")}
    if count < 6:
        for dataset in found.values():
            (problem,) = dataset.check()
            assert f"has {count} class folder" in problem.message
        assert ImageFolder(str(root)).check() == []
        return
    classes = [set(dataset.classes) for dataset in found.values()]
    assert min(len(names) for names in classes) == 2
    assert sum(len(names) for names in classes) == count
    assert len(set.union(*classes)) == count


def test_prepare_reports(plain, tmp_path):
    assert "all 20 images of 10 classes" in ImageFolder.prepare(str(plain))
    root = fill(tmp_path / "split", "train/a/1.jpg", "val/a/1.jpg")
    (root / "val/a/x.txt").write_text("")
    assert "train 1 images of 1 classes, val 1 images of 1 classes (1 other" in ImageFolder.prepare(str(root))
    with pytest.raises(ValueError, match="does not exist"):
        ImageFolder.prepare(str(tmp_path / "none"))


@pytest.mark.parametrize(
    "arguments", [{"split": "dev"}, {"val_share": 1}, {"test_share": 0}, {"test_share": 0.9}, {"extensions": []}]
)
def test_nonsense_is_refused(arguments):
    with pytest.raises(ValueError, match=next(iter(arguments))):
        ImageFolder("data", **arguments)


def test_a_text_file_with_an_image_name_is_named(plain):
    (plain / "class 1/0.jpg").write_text("text")
    with pytest.raises(OSError, match=r"class 1/0\.jpg"):
        ImageFolder(str(plain))[0]


# ---- which folders are splits, and which are classes


@pytest.mark.parametrize(
    "names",
    [
        ("Training", "Testing", "Validation"),
        ("Train", "Test", "Val"),
        ("TRAIN", "TEST", "valid"),
        ("train", "test", "dev"),
        ("training", "Test", "VALID"),
    ],
)
@pytest.mark.parametrize("wrap", ["", "Dataset/", "archive/My Data/"])
def test_splits_by_their_usual_names(tmp_path, names, wrap):
    root = fill(tmp_path, *(f"{wrap}{name}/{c}/{i}.jpg" for name in names for c in "ab" for i in range(2)))
    for split, name in zip(("train", "test", "val"), names, strict=True):
        dataset = ImageFolder(str(root), split)
        assert dataset.check() == []
        assert (dataset.classes, len(dataset)) == (["a", "b"], 4)
        assert dataset.items[0] == (f"{wrap}{name}/a/0.jpg", 0)
        assert ("the only folder there" in " ".join(dataset.notes())) == bool(wrap)
    assert len(ImageFolder(str(root))) == 12


def test_a_folder_that_wraps_classes_is_passed_through(tmp_path):
    root = fill(tmp_path, *(f"Dataset/{c}/{i}.jpg" for c in "abcdef" for i in range(2)))
    (root / "readme.txt").write_text("")
    dataset = ImageFolder(str(root), "train", divide="images")
    assert dataset.classes == list("abcdef")
    assert f"the classes are looked for in {root}/Dataset" in dataset.notes()[0]
    one = fill(tmp_path / "one", "cat/1.jpg", "cat/indoors/1.jpg", "cat/outdoors/1.jpg")
    assert ImageFolder(str(one)).classes == ["cat"]  # it holds an image itself
    assert ImageFolder(str(fill(tmp_path / "deep", "cat/a/b/1.jpg"))).classes == ["cat"]


def test_other_folders_beside_splits_are_left_out_and_told(tmp_path):
    root = fill(tmp_path, *(f"{split}/{c}/1.jpg" for split in ("train", "val") for c in "ab"), "extra/1.jpg")
    fill(root, "test/1.jpg", "test/2.jpg", "train/stray.jpg")
    dataset = ImageFolder(str(root), "train")
    assert dataset.classes == ["a", "b"]
    told = " | ".join(dataset.notes())
    assert f"test/ in {root} holds no class folders and is left out" in told
    assert f"left out beside train/, val/ in {root}: extra/" in told
    assert "1 images of" in told
    assert "lie in no class folder" in told
    (problem,) = ImageFolder(str(root), "test").check()
    assert "has train/, val/ but no test/ with class folders" in problem.message


def test_a_class_called_like_a_split_is_a_class_or_refused(tmp_path):
    root = fill(tmp_path / "flat", *(f"{name}/1.jpg" for name in ("cat", "dog", "test")))
    dataset = ImageFolder(str(root))
    assert dataset.classes == ["cat", "dog", "test"]
    assert f"test/ in {root} is taken for a class: it holds no class folders" in dataset.notes()
    deep = fill(tmp_path / "deep", *(f"{name}/{kind}/1.jpg" for name in ("bus", "plane", "train") for kind in "xy"))
    for split in ("all", "train"):
        (problem,) = ImageFolder(str(deep), split).check()
        assert "train/ holds folders as a split does, and bus/, plane/ beside it would be classes" in problem.message
        assert f"set root='{deep}/train'; if it is a class, rename it" in problem.message
    thirty = fill(tmp_path / "thirty", *(f"c{n}/1.jpg" for n in range(30)), "test/x/1.jpg")
    (problem,) = ImageFolder(str(thirty)).check()
    assert "test/ holds folders as a split does" in problem.message


def test_folders_that_cannot_be_told_apart_are_refused(tmp_path):
    twice = fill(tmp_path / "twice", "train/a/1.jpg", "Training/a/1.jpg", "test/a/1.jpg")
    (problem,) = ImageFolder(str(twice), "train").check()
    assert "both of which are called like 'train'" in problem.message
    high = fill(tmp_path / "high", *(f"{d}/train/{c}/1.jpg" for d in ("first", "second") for c in "ab"))
    (problem,) = ImageFolder(str(high)).check()
    assert f"is one level too high. Set root='{high}/first'" in problem.message


def test_names_of_classes_are_composed(tmp_path):
    """macOS writes 'é' as two characters, Linux as one: the same class, also in one folder."""
    root = fill(tmp_path, "train/caf\u00e9/1.jpg", "train/tea/1.jpg", "test/cafe\u0301/2.jpg", "test/tea/1.jpg")
    train, test = ImageFolder(str(root), "train"), ImageFolder(str(root), "test")
    assert train.classes == test.classes == ["caf\u00e9", "tea"]
    assert test[0]["label"] == 0
    fill(root, "train/cafe\u0301/3.jpg")
    assert ImageFolder(str(root), "train").labels == [0, 0, 1]


def test_classes_that_differ_in_case_are_told(tmp_path):
    root = fill(tmp_path, "Cat/1.jpg", "cat/1.jpg", "dog/1.jpg")
    dataset = ImageFolder(str(root))
    assert len(dataset.classes) == 3
    assert "1 times different labels look alike, and stay different classes: 'Cat' and 'cat'" in dataset.notes()


def test_what_is_left_out_is_told_by_ending(tmp_path):
    root = fill(tmp_path, "cat/1.jpg", "dog/1.jpg")
    (root / "cat/2.heic").write_bytes(b"")
    assert ImageFolder(str(root)).ignored_files() == {str(root): {".heic": 1}}
    (root / "dog/1.jpg").rename(root / "dog/1.heic")
    (problem,) = ImageFolder(str(root)).check()
    assert "hold no image: dog. Other files below" in problem.message
    assert "2 .heic" in problem.message


def test_links_do_not_add_items(tmp_path):
    root = fill(tmp_path, "a/1.jpg", "a/2.jpg", "b/1.jpg")
    (root / "a/all").symlink_to("../a")
    (root / "b/friends").symlink_to("../a")
    assert [name for name, _ in ImageFolder(str(root)).items] == ["a/1.jpg", "a/2.jpg", "b/1.jpg"]
    splits = fill(tmp_path / "splits", "images/1.jpg", "images/2.jpg")  # a split made of links
    for split, number in (("train", 1), ("test", 2)):
        for name in "ab":
            (splits / split / name).mkdir(parents=True)
            (splits / split / name / "x.jpg").symlink_to(f"../../../images/{number}.jpg")
    assert len(ImageFolder(str(splits), "train")) == 1  # both lead to one file


# ---- folders that grow


def splits_of(root: Path, **arguments) -> dict[str, str]:
    """{class and file, or class alone where classes are divided: its split}."""
    found = {}
    for split in ("train", "val", "test"):
        dataset = ImageFolder(str(root), split, **arguments)
        names = [path for path, _ in dataset.items] if arguments else dataset.classes
        found |= dict.fromkeys(names, split)
    return found


def test_a_folder_that_grows_moves_no_trained_picture(tmp_path):
    root = fill(tmp_path, *(f"{c}/img{i}.jpg" for c in "abc" for i in range(12)))
    before = first = splits_of(root, divide="images")
    for step in range(5):
        fill(root, *(f"{c}/a{step}.jpg" for c in "abc"), f"new{step}/1.jpg", f"new{step}/2.jpg")
        after = splits_of(root, divide="images")
        assert all(after[path] == "train" for path, split in before.items() if split == "train")
        before |= after
    assert sum(after[path] != split for path, split in first.items()) <= 3  # what stood in for a class in "val"


def test_a_folder_that_grows_moves_no_class(tmp_path):
    root = fill(tmp_path, *(f"class {c}/{i}.jpg" for c in range(30) for i in range(2)))
    before = splits_of(root)
    for name in ("0 first", "class 7b", "zebra", "another"):
        fill(root, f"{name}/1.jpg")
        after = splits_of(root)
        assert {name: after[name] for name in before} == before
        before = after


def test_where_a_folder_lies_and_its_layout_move_no_picture(tmp_path):
    paths = [f"{c}/{i}.jpg" for c in "abc" for i in range(12)]
    flat, wrapped = fill(tmp_path / "flat", *paths), fill(tmp_path / "x", *(f"Dataset/{path}" for path in paths))
    found = splits_of(wrapped, divide="images")
    assert {path.removeprefix("Dataset/"): split for path, split in found.items()} == splits_of(flat, divide="images")


def test_classes_of_links_to_loose_pictures_are_read(tmp_path):
    """Sorted by links: the pictures lie beside the class folders, which hold a link to each."""
    root = fill(tmp_path, "1.jpg", "2.jpg")
    (root / "notes.txt").write_text("no image")
    for name, number in (("cat", 1), ("dog", 2)):
        (root / name).mkdir()
        (root / name / f"{number}.jpg").symlink_to(f"../{number}.jpg")
    for only in (None, ["cat", "dog"]):
        found = list_class_files(root, root, only=only)
        assert found.files == {"cat": ["cat/1.jpg"], "dog": ["dog/2.jpg"]}
        assert found.images.repeated == 0
    dataset = ImageFolder(str(root))
    assert "2 images of" in " ".join(dataset.notes())
    assert dataset.ignored == {".txt": 1}
