"""Which files below a folder are its images: links, what systems leave behind, endings, and how often it is walked."""

from __future__ import annotations

import os
from collections import Counter
from pathlib import Path

import pytest
from PIL import Image

from toolbox.base import image_files
from toolbox.base.image_files import find_images, get_image_suffixes, list_folders
from toolbox.inference.image_sources import find_image_sources


def fill(root: Path, *paths: str) -> Path:
    """Files that nobody decodes."""
    for path in paths:
        (root / path).parent.mkdir(parents=True, exist_ok=True)
        (root / path).write_bytes(b"x")
    return root


def test_each_real_file_once_whatever_links_lead_to_it(tmp_path):
    root = fill(tmp_path / "root", "a/1.png", "a/2.png", "b/1.png", "b/deep/2.png")
    fill(tmp_path / "outside", "x/1.png", "x/2.png", "y.png")
    (root / "a/loop").symlink_to("..")  # to what is above
    (root / "a/up").symlink_to(tmp_path)  # to what is above the root
    (root / "a/sibling").symlink_to("../b")
    (root / "0 first").symlink_to("b/deep")  # whose own name counts, wherever the link sorts
    (root / "b/self").symlink_to("self")
    (root / "b/file.png").symlink_to("../a/1.png")
    (root / "c").symlink_to(tmp_path / "outside/x")
    (root / "d").symlink_to(tmp_path / "outside/x")
    (root / "e.png").symlink_to(tmp_path / "outside/x/1.png")
    (root / "f.png").symlink_to(tmp_path / "outside/y.png")
    (root / "g.png").symlink_to(tmp_path / "outside/y.png")
    found = find_images(root)
    assert list(found.paths) == ["a/1.png", "a/2.png", "b/1.png", "b/deep/2.png", "c/1.png", "c/2.png", "f.png"]
    assert found.repeated == 8
    assert found.notes() == [
        "1 other files ignored (1 without ending)",  # the link to itself
        "8 links left out: what they lead to is read by its own name",
    ]
    assert find_image_sources(root).names == list(found.paths)


def test_links_into_folders_that_are_no_data_are_files_of_their_own(tmp_path):
    """As caches of hubs and splits made of links have it: the names are here, the contents elsewhere."""
    root = fill(tmp_path, ".blobs/aa", ".blobs/bb.png")
    (root / "train").mkdir()
    for name, blob in (("1.png", "aa"), ("2.png", "bb.png"), ("3.png", "aa")):
        (root / "train" / name).symlink_to(f"../.blobs/{blob}")
    assert list(find_images(root).paths) == ["train/1.png", "train/2.png"]


def test_a_link_hides_another_only_where_it_is_read_itself(tmp_path):
    root = fill(tmp_path / "root", "a/1.jpg", "b/2.jpg")
    fill(tmp_path / "outside", "T.jpg")
    (root / "a.txt").symlink_to(tmp_path / "outside/T.jpg")
    (root / "b.jpg").symlink_to(tmp_path / "outside/T.jpg")
    (root / "c.jpg").symlink_to("b.jpg")
    found = find_images(root)
    assert (list(found.paths), found.ignored, found.repeated) == (["a/1.jpg", "b.jpg", "b/2.jpg"], {".txt": 1}, 1)
    (root / "a/2.jpg").symlink_to("../b/2.jpg")
    (root / "a/3.jpg").symlink_to("../b.jpg")
    assert list(find_images(root, only=["a"]).paths) == ["a/1.jpg", "a/2.jpg", "a/3.jpg"]
    assert find_images(root).repeated == 3


@pytest.mark.parametrize(
    "name",
    [
        "@eaDir",
        "__MACOSX",
        ".thumbnails",
        ".ipynb_checkpoints",
        "lost+found",
        "$RECYCLE.BIN",
        "#recycle",
        "@Recycle",
        "System Volume Information",
        "__macosx",
    ],
)
def test_folders_of_the_system_are_passed_over(tmp_path, name):
    root = fill(tmp_path, "a/1.jpg", f"a/{name}/1.jpg", f"{name}/b/1.jpg", "a/Thumbs.db", "a/._1.jpg", ".DS_Store")
    found = find_images(root)
    assert (list(found.paths), found.ignored) == (["a/1.jpg"], Counter())
    assert list_folders(root) == ["a"]


def test_every_ending_that_pillow_reads_and_no_other(tmp_path, monkeypatch):
    suffixes = get_image_suffixes()
    assert {".jpg", ".jpeg", ".jfif", ".png", ".webp", ".gif", ".tif", ".bmp", ".avif", ".jp2", ".mpo"} <= suffixes
    assert suffixes.isdisjoint({".pdf", ".eps", ".ps", ".mpg", ".h5", ".hdf", ".wmf", ".svg", ".heic", ".txt", ""})
    root = fill(tmp_path, "a/1.JFIF", "a/2.Avif", "a/3.heic", "a/4.pdf", "a/5", "a/6.heic")
    found = find_images(root)
    assert list(found.paths) == ["a/1.JFIF", "a/2.Avif"]
    assert found.ignored == {".heic": 2, ".pdf": 1, "": 1}
    assert found.notes() == ["4 other files ignored (2 .heic, 1 without ending, 1 .pdf)"]
    monkeypatch.setattr(Image, "OPEN", Image.OPEN | {"HEIF": (lambda fp, filename: None, None)})
    monkeypatch.setattr(Image, "EXTENSION", Image.EXTENSION | {".heic": "HEIF"})
    assert len(find_images(root).paths) == 4
    assert list(find_images(root, suffixes=[".pdf"]).paths) == ["a/4.pdf"]


def test_a_folder_that_cannot_be_read_is_an_error(tmp_path, monkeypatch):
    root = fill(tmp_path, "a/1.jpg", "b/1.jpg")

    def refuse(path):
        if str(path).rstrip("/").endswith("b"):
            raise PermissionError(13, "Permission denied", str(path))
        return scandir(path)

    scandir = os.scandir
    monkeypatch.setattr(os, "scandir", refuse)
    with pytest.raises(PermissionError, match="b"):
        find_images(root)
    with pytest.raises(FileNotFoundError):
        find_images(root / "none")


def test_a_folder_is_walked_again_only_when_it_has_changed(tmp_path, monkeypatch):
    root = fill(tmp_path, "a/1.jpg", "b/c/1.jpg")
    walks = []
    scandir = os.scandir
    monkeypatch.setattr(os, "scandir", lambda path: walks.append(path) or scandir(path))
    find_images(root), find_images(root)
    assert len(walks) == 8  # twice: it was made just now, and may change within the same tick of the clock
    now = image_files.time.time_ns
    monkeypatch.setattr(image_files.time, "time_ns", lambda: now() + 10_000_000_000)
    walks.clear()
    first = find_images(root)
    assert len(walks) == 4
    assert find_images(str(root)) is first
    assert len(find_images(root, only=["a"]).paths) == 1
    assert len(walks) == 6
    fill(root, "b/c/2.jpg")
    assert len(find_images(root).paths) == 3
    (root / "a/1.jpg").unlink()
    assert len(find_images(root).paths) == 2
