"""The SOP layout: index, class-disjoint splits, images of every kind, what `check` and `prepare` find."""

from __future__ import annotations

import io
import json
import pickle
import sys
import tarfile
import warnings
import zipfile
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from forked_python import run_python
from PIL import Image, PngImagePlugin
from toolbox_datasets import unpack
from toolbox_datasets.retrieval_dataset import ListedImage
from toolbox_datasets.sop import HEADER, SOP
from toolbox_datasets.sop_prepare import find_next_of_class

from toolbox.base import read_image

GROUPS = ("bicycle", "chair", "自行 车")  # Chinese characters and a space


def make_sop(root: Path, per_group: int = 10, per_class: int = 2) -> Path:
    """A small dataset; class ids alternate between super-classes, and those of the test index go on."""
    root.mkdir(parents=True, exist_ok=True)
    image_id = class_id = 0
    for name in ("train", "test"):
        lines = [HEADER]
        for number in range(per_group * len(GROUPS)):
            class_id += 1
            group = GROUPS[number % len(GROUPS)]
            (root / f"{group}_final").mkdir(exist_ok=True)
            for view in range(per_class):
                image_id += 1
                path = f"{group}_final/{1000 + class_id}_{view}.JPG"
                color = (class_id % 256, 8 * view, 100)
                Image.new("RGB", (8, 6), color).save(root / path, format="JPEG", quality=95)
                lines.append(f"{image_id} {class_id} {GROUPS.index(group) + 1} {path}")
        (root / f"Ebay_{name}.txt").write_text("\n".join(lines) + "\n", encoding="utf-8")
    return root


@pytest.fixture
def root(tmp_path):
    return make_sop(tmp_path / "my data")


def test_nothing_is_read_before_first_use(tmp_path):
    dataset = SOP(str(tmp_path / "nowhere"))
    with pytest.raises(FileNotFoundError, match="nowhere does not exist"):
        len(dataset)


def test_splits_are_disjoint_and_complete(root):
    train, val, both, test = (SOP(str(root), split) for split in ("train", "val", "trainval", "test"))
    assert len(train) + len(val) == len(both) == len(test) == 60
    assert 4 <= len(val) <= 18
    assert not set(train.class_ids) & set(val.class_ids)
    assert set(train.class_ids) | set(val.class_ids) == set(both.class_ids)
    assert not set(both.class_ids) & set(test.class_ids)
    assert [item.image_id for item in both.items] == list(range(1, 61))
    assert {item.image_id for item in train.items} | {item.image_id for item in val.items} == set(range(1, 61))
    assert 9 < len(SOP(str(root), "val", val_share=0.5).classes) < 21


def test_samples_carry_label_id_path_and_group(root):
    dataset = SOP(str(root), "val")
    assert sorted(set(dataset.labels)) == list(range(len(dataset.classes)))
    for index, item in enumerate(dataset.items):
        sample = dataset[index]
        assert sample["id"] == item.image_id
        assert sample["label"] == dataset.labels[index]
        assert dataset.classes[sample["label"]] == str(1000 + item.class_id)
        assert sample["group"] == dataset.groups[index] in GROUPS
        assert Path(sample["path"]).is_file()
        assert abs(sample["image"].getpixel((3, 3))[0] - item.class_id) <= 3
    assert len({dataset[index]["id"] for index in range(len(dataset))}) == len(dataset)


def test_class_names_fall_back_on_ids(root):
    index = root / "Ebay_test.txt"
    index.write_text(index.read_text(encoding="utf-8").replace("1031_1", "other_1"), encoding="utf-8")
    assert SOP(str(root), "test").classes[:2] == ["31", "32"]


def test_another_process_and_a_pickled_copy_hold_out_the_same(root):
    dataset = SOP(str(root), "val")
    code = (
        "import json, sys; from toolbox_datasets.sop import SOP;"
        "print(json.dumps([item.image_id for item in SOP(sys.argv[1], 'val').items]))"
    )
    assert json.loads(run_python("-c", code, root).stdout) == [item.image_id for item in dataset.items]
    assert pickle.loads(pickle.dumps(dataset)).labels == dataset.labels


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        ("61 31 1", "expected"),
        ("sixty 31 1 chair_final/a_1.JPG", "expected"),
        ("61 31 1 ../secret_1.JPG", "expected"),
        ("61 31 1 /etc/passwd", "expected"),
        ("61 31 1 alone.JPG", "expected"),
        ("", "expected"),
        ("1 31 1 chair_final/a_1.JPG", "image id 1"),
        ("61 1 2 chair_final/a_1.JPG", "class 1"),
    ],
)
def test_a_malformed_line_is_named(root, line, expected):
    index = root / "Ebay_train.txt"
    index.write_text(index.read_text(encoding="utf-8") + line + "\n", encoding="utf-8")
    dataset = SOP(str(root))
    with pytest.raises(ValueError, match=rf"Ebay_train\.txt:62: {expected}"):
        len(dataset)
    (problem,) = SOP(str(root)).check()
    assert "Ebay_train.txt:62" in problem.message


@pytest.mark.parametrize("content", [b"", b"1 1 1 a_final/b.JPG\n", b"\xef\xbb\xbf" + HEADER.encode(), b"\xff\xfe"])
def test_another_header_is_refused(root, content):
    (root / "Ebay_train.txt").write_bytes(content)
    with pytest.raises(ValueError, match=r"Ebay_train\.txt"):
        len(SOP(str(root)))


def test_line_ends_of_windows_are_fine(root):
    index = root / "Ebay_train.txt"
    expected = SOP(str(root), "trainval").items
    index.write_bytes(index.read_bytes().replace(b"\n", b"\r\n"))
    assert SOP(str(root), "trainval").items == expected


@pytest.mark.parametrize("arguments", [{"split": "all"}, {"val_share": 0.0}, {"val_share": 1.5}])
def test_nonsense_is_refused(arguments):
    with pytest.raises(ValueError, match=next(iter(arguments))):
        SOP("data", **arguments)


def test_too_few_classes_to_divide_are_refused(tmp_path):
    root = make_sop(tmp_path / "few", per_group=1)
    with pytest.raises(ValueError, match="take 2 each, and there are 3"):
        len(SOP(str(root), "val"))


def test_check_finds_missing_folder_index_and_images(root):
    assert SOP(str(root), "trainval").check() == []
    (problem,) = SOP(str(root / "nowhere")).check()
    assert "does not exist" in problem.message
    assert f"vision-encoder-toolbox prepare_data sop --out {root / 'nowhere'}" in problem.hint
    assert "train demo/dinov3_sop" in problem.hint
    for number in (1, 4, 7, 10):
        (root / f"bicycle_final/{1000 + number}_0.JPG").unlink()
    (problem,) = SOP(str(root), "trainval").check()
    assert "4 of 60 images" in problem.message
    assert problem.message.count(".JPG") == 3
    for file in (root / "chair_final").iterdir():
        file.unlink()
    (root / "chair_final").rmdir()
    (problem,) = SOP(str(root), "trainval").check()
    assert "24 of 60 images" in problem.message
    (root / "Ebay_test.txt").unlink()
    (problem,) = SOP(str(root), "test").check()
    assert "has no Ebay_test.txt" in problem.message


# ---- prepare


def test_prepare_checks_counts(root, monkeypatch):
    assert "not the published dataset" in SOP.prepare(str(root))
    assert "published: 59,551 of 11,318" in SOP.prepare(str(root))
    monkeypatch.setattr(SOP, "published", {"train": (60, 30), "test": (60, 30)})
    assert "is complete" in SOP.prepare(str(root))
    (root / "bicycle_final/1001_0.JPG").unlink()
    with pytest.raises(ValueError, match="1 of 60 images"):
        SOP.prepare(str(root))
    with pytest.raises(ValueError, match="Download"):
        SOP.prepare(str(root / "none"))


def pack(root: Path, archive: Path, extra: dict[str, bytes] | None = None) -> Path:
    members = {f"Stanford Online/{p.relative_to(root).as_posix()}": p.read_bytes() for p in root.rglob("*.*")}
    members |= {"__MACOSX/junk": b"", **(extra or {})}
    if archive.suffix == ".zip":
        with zipfile.ZipFile(archive, "w") as file:
            for name, content in members.items():
                file.writestr(name, content)
        return archive
    with tarfile.open(archive, "w:gz") as file:
        for name, content in members.items():
            info = tarfile.TarInfo(name)
            info.size = len(content)
            file.addfile(info, io.BytesIO(content))
        link = tarfile.TarInfo("Stanford Online/link")
        link.type, link.linkname = tarfile.SYMTYPE, "/etc/passwd"
        file.addfile(link)
    return archive


@pytest.mark.parametrize("name", ["sop.zip", "sop.tar.gz"])
def test_prepare_unpacks(root, tmp_path, name):
    out = tmp_path / "new" / "sop"
    SOP.prepare(str(out), source=str(pack(root, tmp_path / name)))
    expected = {p.relative_to(root): p.read_bytes() for p in root.rglob("*") if p.is_file()}
    assert {p.relative_to(out): p.read_bytes() for p in out.rglob("*") if p.is_file()} == expected
    assert [p.name for p in out.parent.iterdir()] == ["sop"]


def test_prepare_links_a_folder(root, tmp_path, monkeypatch):
    SOP.prepare(str(tmp_path / "linked"), source=str(root.parent / "my data"))
    linked = tmp_path / "linked" / "Ebay_train.txt"
    assert linked.samefile(root / "Ebay_train.txt")

    def no_links(source, target):
        raise OSError("another file system")

    monkeypatch.setattr(unpack.os, "link", no_links)
    SOP.prepare(str(tmp_path / "copied"), source=str(root))
    copied = tmp_path / "copied" / "Ebay_train.txt"
    assert not copied.samefile(root / "Ebay_train.txt")
    assert copied.read_bytes() == linked.read_bytes()
    with pytest.raises(ValueError, match="elsewhere"):
        SOP.prepare(str(root / "inside"), source=str(root))


@pytest.mark.parametrize("evil", ["../evil.txt", "/evil.txt", "Stanford Online/../../evil.txt", "..\\evil.txt"])
@pytest.mark.parametrize("name", ["sop.zip", "sop.tar.gz"])
def test_a_path_that_leads_out_is_refused(root, tmp_path, name, evil):
    archive = pack(root, tmp_path / name, {evil: b"evil"})
    with pytest.raises(ValueError, match=r"evil\.txt"):
        SOP.prepare(str(tmp_path / "deep" / "out"), source=str(archive))
    assert not list(tmp_path.rglob("*evil*"))
    assert list((tmp_path / "deep").iterdir()) == []


def test_sources_that_will_not_do(root, tmp_path):
    with pytest.raises(ValueError, match="holds files already"):
        SOP.prepare(str(root), source=str(root))
    with pytest.raises(FileNotFoundError, match="does not exist"):
        SOP.prepare(str(tmp_path / "a"), source=str(tmp_path / "none.zip"))
    (tmp_path / "half.zip").write_bytes(b"PK\x03\x04 and no more")
    with pytest.raises(OSError, match="download complete"):
        SOP.prepare(str(tmp_path / "b"), source=str(tmp_path / "half.zip"))
    (tmp_path / "other").mkdir()
    with pytest.raises(ValueError, match=r"no Ebay_train\.txt"):
        SOP.prepare(str(tmp_path / "c"), source=str(tmp_path / "other"))
    assert not any((tmp_path / name).exists() for name in "abc")


def test_an_interrupted_unpacking_starts_anew(root, tmp_path, monkeypatch):
    archive, out = pack(root, tmp_path / "sop.zip"), tmp_path / "out"

    def interrupted(read, write):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(unpack.shutil, "copyfileobj", interrupted)
        with pytest.raises(KeyboardInterrupt):
            SOP.prepare(str(out), source=str(archive))
    assert not out.exists()
    (tmp_path / ".out.partial").mkdir()
    (tmp_path / ".out.partial" / "half.JPG").write_bytes(b"")
    SOP.prepare(str(out), source=str(archive))
    assert not (out / "half.JPG").exists()
    assert SOP(str(out), "test").check() == []


# ---- images


def test_broken_files_are_named(root):
    dataset = SOP(str(root), "trainval")
    first, second, third = (root / dataset.items[index].path for index in range(3))
    noise = np.random.default_rng(0).integers(0, 255, (64, 64, 3), dtype=np.uint8)
    Image.fromarray(noise).save(first, format="JPEG")
    whole = first.read_bytes()
    assert dataset[0]["image"].size == (64, 64)
    first.write_bytes(whole[: len(whole) // 2])
    second.write_text("this is a text file")
    third.unlink()
    for index, path in enumerate((first, second, third)):
        with pytest.raises(OSError, match=path.name):
            dataset[index]


def test_a_broken_png_is_an_os_error(tmp_path):
    path = tmp_path / "broken.png"
    Image.new("RGB", (8, 8)).save(path)
    data = bytearray(path.read_bytes())
    data[40:44] = b"\xff\xff\xff\xff"
    path.write_bytes(bytes(data))
    with pytest.raises(OSError, match=r"broken\.png"):
        read_image(path)


def test_exif_orientation_is_applied(tmp_path):
    image = Image.new("RGB", (20, 10), "black")
    image.paste("white", (0, 0, 10, 10))  # left half white
    exif = Image.Exif()
    exif[0x0112] = 6  # the camera was turned: show it rotated clockwise by 90 degrees
    image.save(tmp_path / "turned.jpg", exif=exif, quality=95)
    turned = read_image(tmp_path / "turned.jpg")
    assert turned.size == (10, 20)
    assert turned.getpixel((5, 2)) > (200, 200, 200)
    assert turned.getpixel((5, 17)) < (50, 50, 50)
    image.save(tmp_path / "plain.jpg", quality=95)
    assert read_image(tmp_path / "plain.jpg").size == (20, 10)


@pytest.mark.parametrize(
    ("mode", "color", "suffix", "expected"),
    [
        ("L", 90, "jpg", (90, 90, 90)),
        ("CMYK", (0, 255, 255, 0), "jpg", (255, 0, 0)),
        ("1", 1, "png", (255, 255, 255)),
        ("LA", (90, 0), "png", (255, 255, 255)),
        ("RGBA", (200, 0, 0, 0), "png", (255, 255, 255)),
        ("RGBA", (200, 0, 0, 255), "png", (200, 0, 0)),
        ("I;16", 0x8000, "png", (128, 128, 128)),
    ],
)
def test_other_modes_become_rgb(tmp_path, mode, color, suffix, expected):
    path = tmp_path / f"a.{suffix}"
    Image.new(mode, (8, 8), color).save(path)
    image = read_image(path)
    assert image.mode == "RGB"
    assert np.abs(np.array(image.getpixel((4, 4)), dtype=int) - expected).max() <= 3


def test_palettes_with_transparency_become_white(tmp_path):
    image = Image.new("P", (8, 8), 0)
    image.putpalette([10, 20, 30, 200, 100, 0])
    image.putpixel((1, 1), 1)
    image.save(tmp_path / "a.png", transparency=0)
    assert read_image(tmp_path / "a.png").getpixel((4, 4)) == (255, 255, 255)
    assert read_image(tmp_path / "a.png").getpixel((1, 1)) == (200, 100, 0)


def test_a_decompression_bomb_is_an_error(tmp_path, monkeypatch):
    Image.new("RGB", (30, 30)).save(tmp_path / "bomb.png")
    for limit in (800, 100):  # PIL warns above the limit and raises above twice the limit
        monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", limit)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            with pytest.raises(OSError, match=rf"bomb\.png is larger than {limit} pixels"):
                read_image(tmp_path / "bomb.png")
    monkeypatch.undo()
    chunk = PngImagePlugin.PngInfo()
    chunk.add_text("note", "x" * 100)
    Image.new("RGB", (4, 4)).save(tmp_path / "note.png", pnginfo=chunk)
    assert read_image(tmp_path / "note.png").size == (4, 4)


# ---- records and download


def test_records_are_written_for_disjoint_splits(root):
    said = SOP.prepare(str(root), jsonl=True, val_share=0.2)
    assert f"wrote to {root}: train.jsonl 48 records, val.jsonl 12 records, test.jsonl 60 records" in said
    for split in ("train", "val", "test"):
        items = SOP(str(root), split, 0.2).items
        class_of = {item.path: item.class_id for item in items}
        lines = [json.loads(line) for line in (root / f"{split}.jsonl").read_text(encoding="utf-8").splitlines()]
        assert [line["query_image"] for line in lines] == [item.path for item in items]
        assert all(list(line) == ["query_image", "positive", "label"] for line in lines)
        assert all(class_of[line["query_image"]] == class_of[line["positive"]] == line["label"] for line in lines)
        assert all(line["query_image"] != line["positive"] for line in lines)
    before = (root / "train.jsonl").stat().st_mtime_ns, (root / "train.jsonl").read_bytes()
    SOP.prepare(str(root), jsonl=True, val_share=0.2)
    assert (root / "train.jsonl").read_bytes() == before[1]
    with pytest.raises(ValueError, match=r"train\.jsonl holds something else already"):
        SOP.prepare(str(root), jsonl=True, val_share=0.3)
    assert not list(root.glob(".*.partial"))


def test_a_product_with_one_photo_has_no_record_and_is_counted(tmp_path):
    root = make_sop(tmp_path / "sop", per_class=1)
    assert "train.jsonl 0 records (27 images alone in their class left out)" in SOP.prepare(str(root), jsonl=True)


def test_positives_go_round_the_class():
    items = [ListedImage(i, class_id, str(i)) for i, class_id in enumerate([1, 2, 1, 3, 1, 2])]
    assert [item.image_id for item in find_next_of_class(items)] == [2, 5, 4, 3, 0, 1]


def test_download_links_what_kagglehub_fetched(root, tmp_path, monkeypatch):
    asked = []
    fake = SimpleNamespace(dataset_download=lambda handle: asked.append(handle) or str(root.parent))
    monkeypatch.setitem(sys.modules, "kagglehub", fake)
    out = tmp_path / "here"
    for _ in range(2):  # the second time it is there
        assert "train 60 images" in SOP.prepare(str(out), download=True)
    assert asked == ["liucong12601/stanford-online-products-dataset"]
    assert (out / "Ebay_train.txt").samefile(root / "Ebay_train.txt")


def test_download_says_what_it_needs(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "kagglehub", None)
    with pytest.raises(ValueError, match=r"pip install kagglehub.*By hand: Download Stanford_Online_Products\.zip"):
        SOP.prepare(str(tmp_path / "a"), download=True)

    def refused(handle):
        raise RuntimeError("403")

    monkeypatch.setitem(sys.modules, "kagglehub", SimpleNamespace(dataset_download=refused))
    with pytest.raises(OSError, match=r"RuntimeError: 403.*By hand"):
        SOP.prepare(str(tmp_path / "a"), download=True)
    with pytest.raises(ValueError, match="give one of them"):
        SOP.prepare(str(tmp_path / "a"), download=True, source="x.zip")
    assert list(tmp_path.iterdir()) == []
