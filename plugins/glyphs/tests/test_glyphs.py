"""Letters are distinct and split class-disjointly, pictures repeat exactly, written folders are whole or absent."""

from __future__ import annotations

import hashlib
import json
import pickle
import shutil
import subprocess
import sys
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from fontTools.pens.recordingPen import DecomposingRecordingPen
from fontTools.ttLib import TTFont
from forked_python import run_python
from PIL import Image
from toolbox_glyphs import glyphs, letters
from toolbox_glyphs.folder import MARKER
from toolbox_glyphs.glyphs import Glyphs
from toolbox_glyphs.layouts import TEST_FACES, TRAIN_FACES, LetterImage
from toolbox_glyphs.letters import FACES, SCRIPTS, Letter, find_font_file, list_distinct_letters, list_shared_letters
from toolbox_glyphs.render import LUMA, draw_colors, render

SPLITS = ("train", "val", "test")


def outlines(face: str, chars: list[str]) -> list[str]:
    """The exact outline of each character, moved so that it starts at the origin."""
    pens = []
    with TTFont(find_font_file(face), lazy=True) as font:
        glyph_set, cmap = font.getGlyphSet(), font.getBestCmap()
        for char in chars:
            pens.append(DecomposingRecordingPen(glyph_set))
            glyph_set[cmap[ord(char)]].draw(pens[-1])
    found = []
    for pen in pens:
        points = [point for _, arguments in pen.value for point in arguments if point is not None]
        left, bottom = (min(coordinate) for coordinate in zip(*points, strict=True))
        moved = [
            (command, tuple(p and (p[0] - left, p[1] - bottom) for p in arguments)) for command, arguments in pen.value
        ]
        found.append(repr(moved))
    return found


def same_outline(seen: list[Letter], unseen: list[Letter], face: str) -> list[str]:
    known = set(outlines(face, [letter.char for letter in seen]))
    drawn = outlines(face, [letter.char for letter in unseen])
    return [letter.name for letter, outline in zip(unseen, drawn, strict=True) if outline in known]


def test_about_eleven_hundred_letters_of_five_scripts():
    count = Counter(letter.script for letter in list_distinct_letters())
    assert set(count) == set(SCRIPTS)
    assert 1050 < count.total() < 1250
    assert 1300 < len(list_shared_letters()) < 1450
    assert min(count.values()) >= 40
    assert all(letter.name.lower().startswith(letter.script) for letter in list_distinct_letters())


def test_splits_share_no_class_and_cover_all_letters():
    sets = {split: set(Glyphs(split).classes) for split in SPLITS}
    assert not sets["train"] & sets["val"]
    assert not (sets["train"] | sets["val"]) & sets["test"]
    assert set.union(*sets.values()) == {letter.name for letter in list_distinct_letters()}
    assert set(Glyphs("test").groups) == {"greek", "armenian", "georgian"}
    assert set(Glyphs("val").groups) == {"latin", "cyrillic"}
    assert 60 < len(sets["val"]) < 100  # about a tenth of 816


def test_what_identifies_a_picture_does_not_depend_on_how_many_there_are():
    one, two, other = (Glyphs("val", views=views, seed=seed).identities() for views, seed in ((1, 0), (2, 0), (1, 1)))
    assert len(one) == len(set(one)) == len(Glyphs("val"))
    assert set(one) < set(two)
    assert set(one).isdisjoint(other)
    assert set(one).isdisjoint(Glyphs("train").identities())


@pytest.mark.parametrize("face", FACES)
def test_no_outline_of_a_test_letter_occurs_in_training(face):
    seen = [*Glyphs("train").letters, *Glyphs("val").letters]
    assert same_outline(seen, Glyphs("test").letters, face) == []


def test_without_the_selection_the_same_outlines_do_occur():
    seen = [letter for letter in list_shared_letters() if letter.script in glyphs.TRAINING_SCRIPTS]
    unseen = [letter for letter in list_shared_letters() if letter.script not in glyphs.TRAINING_SCRIPTS]
    shared = same_outline(seen, unseen, "DejaVuSans")
    assert "GREEK CAPITAL LETTER ALPHA" in shared
    assert len(shared) > 20


def test_twins_are_found_and_mere_relatives_are_not():
    def letter(char):
        return Letter(char, "", "")

    chars = "A\u0410\u0391\u00c0Oo"  # Latin, Cyrillic and Greek A; A with grave; two sizes of o
    assert letters.find_letters_alike([letter(char) for char in chars], FACES[0]) == [(0, 1), (0, 2), (1, 2)]


def test_a_missing_matplotlib_is_said(monkeypatch):
    letters.find_font_folder.cache_clear()
    monkeypatch.setattr(letters, "find_spec", lambda name: None)
    with pytest.raises(OSError, match="make venv"):
        letters.find_font_folder()
    monkeypatch.undo()
    letters.find_font_folder.cache_clear()


def test_length_labels_and_samples_agree():
    dataset = Glyphs("val", views=2)
    assert len(dataset) == len(dataset.labels) == len(dataset.groups) == len(dataset.classes) * 24
    assert Counter(dataset.labels) == dict.fromkeys(range(len(dataset.classes)), 24)
    ids = set()
    for index in range(0, len(dataset), 37):
        sample = dataset[index]
        ids.add(sample["id"])
        assert sample["label"] == dataset.labels[index]
        assert sample["text"] == dataset.classes[sample["label"]]
        assert sample["group"] == dataset.groups[index]
        assert (sample["image"].size, sample["image"].mode) == ((32, 32), "RGB")
    assert len(ids) == len(range(0, len(dataset), 37))
    assert dataset[-1]["id"] == dataset[len(dataset) - 1]["id"]
    with pytest.raises(IndexError):
        dataset[len(dataset)]


def test_pictures_repeat_and_depend_on_seed_view_and_face():
    dataset = Glyphs("test", views=2)
    image = dataset[0]["image"].tobytes()
    assert image == dataset[0]["image"].tobytes() == pickle.loads(pickle.dumps(dataset))[0]["image"].tobytes()
    assert image == Glyphs("test")[0]["image"].tobytes()  # more views leave the first as it was
    others = {
        dataset[1]["image"].tobytes(),
        dataset[2]["image"].tobytes(),
        Glyphs("test", seed=1)[0]["image"].tobytes(),
    }
    assert image not in others
    assert len(others) == 3


def test_another_process_draws_the_same():
    code = (
        "import hashlib; from toolbox_glyphs.glyphs import Glyphs; d = Glyphs('test', size=24);"
        "print(len(d), hashlib.sha256(b''.join(d[i]['image'].tobytes() for i in range(0, 600, 7))).hexdigest())"
    )
    printed = run_python("-c", code).stdout.split()
    dataset = Glyphs("test", size=24)
    digest = hashlib.sha256(b"".join(dataset[i]["image"].tobytes() for i in range(0, 600, 7))).hexdigest()
    assert printed == [str(len(dataset)), digest]


def test_letters_stand_out_and_stay_inside():
    rng = np.random.default_rng(0)
    for _ in range(200):
        ink, ground = draw_colors(rng)
        assert (ground - ink) @ LUMA >= 0.35
    for number, letter in enumerate(list_distinct_letters()[::40]):
        pixels = np.asarray(render(letter, FACES[number % 12], 48, np.random.default_rng(number)), dtype=float) @ LUMA
        border = np.concatenate([pixels[0], pixels[-1], pixels[:, 0], pixels[:, -1]])
        assert pixels.max() - pixels.min() > 50, letter.name
        assert (np.abs(border - np.median(border)) > 70).sum() < 6, letter.name


def test_pictures_of_a_letter_resemble_each_other_more_than_others():
    dataset = Glyphs("test")
    pixels = np.stack([np.asarray(dataset[index]["image"]) for index in range(1200)]).reshape(1200, -1) / 255.0
    pixels -= pixels.mean(axis=1, keepdims=True)
    pixels /= np.linalg.norm(pixels, axis=1, keepdims=True)
    similarity = pixels @ pixels.T - 2 * np.eye(1200)
    labels = np.array(dataset.labels[:1200])
    recall = (labels[similarity.argmax(axis=1)] == labels).mean()
    shuffled = np.random.default_rng(0).permutation(labels)
    chance = (shuffled[similarity.argmax(axis=1)] == shuffled).mean()
    assert chance < 0.03 < 0.05 < recall < 0.5


@pytest.mark.parametrize(
    "arguments",
    [{"split": "all"}, {"size": 4}, {"views": 0}, {"seed": -1}],
    ids=lambda arguments: next(iter(arguments)),
)
def test_nonsense_is_refused(arguments):
    with pytest.raises(ValueError, match=next(iter(arguments))):
        Glyphs(**arguments)


# ---- files


@pytest.fixture
def few(monkeypatch):
    """Every fortieth letter only, so that a whole folder takes a moment."""
    chosen = list_distinct_letters()[::40]
    monkeypatch.setattr(glyphs, "list_distinct_letters", lambda: chosen)
    return chosen


def files_in(folder: Path) -> dict[str, bytes]:
    return {p.relative_to(folder).as_posix(): p.read_bytes() for p in folder.rglob("*") if p.is_file()}


def test_sop_layout(tmp_path, few):
    out = tmp_path / "sop"
    summary = Glyphs.prepare(str(out), size=16)
    count = len(few) * 12
    assert f"{count:,} images" in summary
    rows = {}
    for name in ("train", "test", "info"):
        header, *lines = (out / f"Ebay_{name}.txt").read_text().splitlines()
        assert header == "image_id class_id super_class_id path"
        rows[name] = [line.split(" ") for line in lines]
    assert rows["info"] == rows["train"] + rows["test"]
    assert [int(row[0]) for row in rows["info"]] == list(range(1, count + 1))
    assert sorted({int(row[1]) for row in rows["info"]}) == list(range(1, len(few) + 1))
    assert not {row[1] for row in rows["train"]} & {row[1] for row in rows["test"]}
    assert {row[2] for row in rows["train"]} == {"1", "2"}
    assert {row[2] for row in rows["test"]} == {"3", "4", "5"}
    for _, _, _, path in rows["info"]:
        with Image.open(out / path) as image:
            assert (image.format, image.size, image.mode) == ("JPEG", (16, 16), "RGB")
    assert {row[3] for row in rows["info"]} == {name for name in files_in(out) if name.endswith(".JPG")}


def test_imagefolder_layout_holds_the_drawings_of_the_dataset(tmp_path, few):
    out = tmp_path / "folder"
    Glyphs.prepare(str(out), layout="imagefolder", size=32)
    for split in SPLITS:
        dataset = Glyphs(split)
        assert {p.name for p in (out / split).iterdir()} == {name.replace(" ", "_") for name in dataset.classes}
    sample = Glyphs("test")[5]
    name = sample["text"].replace(" ", "_")
    with Image.open(out / "test" / name / f"{name}_5.jpg") as image:
        error = np.abs(np.asarray(image, dtype=float) - np.asarray(sample["image"], dtype=float)).mean()
    assert error < 6


def test_a_finished_folder_is_kept_and_a_damaged_one_made_whole(tmp_path, few):
    out = tmp_path / "sop"
    assert "wrote" in Glyphs.prepare(str(out), size=16)
    before = files_in(out)
    stamp = (out / MARKER).stat().st_mtime_ns
    assert "complete" in Glyphs.prepare(str(out), size=16)
    assert (out / MARKER).stat().st_mtime_ns == stamp
    (out / "Ebay_test.txt").unlink()
    next((out / "latin_final").iterdir()).unlink()
    assert "wrote" in Glyphs.prepare(str(out), size=16)
    assert files_in(out) == before


def test_an_interrupted_command_leaves_nothing_and_a_killed_one_is_cleared_up(tmp_path, few, monkeypatch):
    out = tmp_path / "sop"
    drawn = []

    def interrupted(picture, size, seed):
        drawn.append(picture)
        if len(drawn) == 20:
            raise KeyboardInterrupt
        return Image.new("RGB", (size, size))

    with monkeypatch.context() as patch:
        patch.setattr(glyphs, "draw_image", interrupted)
        with pytest.raises(KeyboardInterrupt):
            Glyphs.prepare(str(out), size=16)
    assert list(tmp_path.iterdir()) == []
    ended = subprocess.Popen([sys.executable, "-c", ""])
    ended.wait()
    leftover = tmp_path / f".sop.{ended.pid}.partial"
    leftover.mkdir()
    (leftover / "half.JPG").write_bytes(b"\xff\xd8")
    alive = tmp_path / ".sop.1.partial"  # process 1 always runs
    alive.mkdir()
    assert "wrote" in Glyphs.prepare(str(out), size=16)
    assert {p.name for p in tmp_path.iterdir()} == {"sop", ".sop.1.partial"}
    assert len([name for name in files_in(out) if name.endswith(".JPG")]) == len(few) * 12


def test_other_options_and_foreign_files_are_refused(tmp_path, few):
    out = tmp_path / "sop"
    Glyphs.prepare(str(out), size=16)
    before = files_in(out)
    with pytest.raises(ValueError, match=r"size 16.*another --out, or delete"):
        Glyphs.prepare(str(out), size=24)
    with pytest.raises(ValueError, match="layout sop"):
        Glyphs.prepare(str(out), size=16, layout="imagefolder")
    (out / "notes.txt").write_text("mine")
    with pytest.raises(ValueError, match=r"notes\.txt"):
        Glyphs.prepare(str(out), size=16)
    (out / "notes.txt").unlink()
    assert files_in(out) == before
    (out / MARKER).write_text("[1]")
    with pytest.raises(ValueError, match="other options"):
        Glyphs.prepare(str(out), size=16)
    foreign = tmp_path / "photos"
    foreign.mkdir()
    (foreign / "cat.jpg").write_bytes(b"cat")
    with pytest.raises(ValueError, match="not made by this command"):
        Glyphs.prepare(str(foreign), size=16)
    assert (foreign / "cat.jpg").read_bytes() == b"cat"
    with pytest.raises(ValueError, match="is a file"):
        Glyphs.prepare(str(foreign / "cat.jpg"), size=16)
    with pytest.raises(ValueError, match="layout must be"):
        Glyphs.prepare(str(tmp_path / "x"), layout="tar")


def test_an_empty_folder_and_a_link_to_one_are_filled(tmp_path, few):
    target = tmp_path / "disk" / "data"
    target.mkdir(parents=True)
    link = tmp_path / "link"
    link.symlink_to(target)
    Glyphs.prepare(str(link), size=16)
    assert link.is_symlink()
    assert json.loads((target / MARKER).read_text())["size"] == 16
    shutil.rmtree(target)


# ---- layouts of data to classify


def seen_letters() -> set[str]:
    return {name for split in ("train", "val") for name in Glyphs(split).classes}


def test_faces_of_the_test_are_not_those_of_the_training():
    assert set(TRAIN_FACES) | set(TEST_FACES) == set(range(len(FACES)))
    assert not set(TRAIN_FACES) & set(TEST_FACES)
    assert (len(TRAIN_FACES), len(TEST_FACES)) == (8, 4)
    families = {name: {face for face in TEST_FACES if name in FACES[face].split("-")[0]} for name in ("Mono", "Serif")}
    assert all(families.values())


def test_food101_layout(tmp_path, few):
    out = tmp_path / "food"
    assert "unseen letters" in Glyphs.prepare(str(out), layout="food101", size=16)
    letters = {letter.name: letter for letter in glyphs.choose_letters("test")}
    assert not set(letters) & seen_letters()
    names = (out / "meta/classes.txt").read_text().splitlines()
    assert names == sorted(name.lower().replace(" ", "_") for name in letters)
    assert (out / "meta/labels.txt").read_text().splitlines()[0].replace(" ", "_").lower() == names[0]
    listed = {}
    for part, count in (("train", 16), ("test", 8)):
        stems = (out / f"meta/{part}.txt").read_text().splitlines()
        assert Counter(stem.split("/")[0] for stem in stems) == dict.fromkeys(names, count)
        assert json.loads((out / f"meta/{part}.json").read_text()) == {
            name: [stem for stem in stems if stem.startswith(f"{name}/")] for name in names
        }
        listed[part] = stems
    images = {path.removeprefix("images/").removesuffix(".jpg") for path in files_in(out) if path.endswith(".jpg")}
    assert images == {*listed["train"], *listed["test"]}
    with Image.open(out / "images" / f"{listed['test'][0]}.jpg") as image:
        assert (image.format, image.size, image.mode) == ("JPEG", (16, 16), "RGB")


def test_imagenet_layout(tmp_path, few):
    out = tmp_path / "in1k"
    Glyphs.prepare(str(out), layout="imagenet", size=16, views=1)
    lines = [line.split(",") for line in (out / "labels.txt").read_text().splitlines()]
    expected = {f"n{ord(letter.char):08d}": letter.name.lower() for letter in glyphs.choose_letters("test")}
    assert dict(lines) == expected
    assert [wnid for wnid, _ in lines] == sorted(expected)
    for part, count in (("train", 8), ("val", 4)):
        folders = {path.name: len(list(path.iterdir())) for path in (out / part).iterdir()}
        assert folders == dict.fromkeys(expected, count)
    assert (out / "val" / lines[0][0] / "ILSVRC2012_val_00000001.JPEG").is_file()


def test_cifar10_layout_holds_the_drawings_of_ten_letters(tmp_path):
    out = tmp_path / "cifar"
    assert "10 unseen letters" in Glyphs.prepare(str(out), layout="cifar10", views=2)
    names = (out / "batches.meta.txt").read_text().splitlines()
    assert len(set(names)) == 10
    assert all(name.startswith("georgian") for name in names)
    letters = {letter.name.lower().replace(" ", "_"): letter for letter in glyphs.choose_letters("test")}
    batches = [f"data_batch_{number}.bin" for number in range(1, 6)]
    total = Counter()
    for file in batches:
        records = np.frombuffer((out / file).read_bytes(), np.uint8).reshape(-1, 3073)
        count = Counter(records[:, 0].tolist())
        assert set(count) == set(range(10))
        assert len(set(count.values())) == 1
        total += count
    assert total == dict.fromkeys(range(10), 16)
    test = np.frombuffer((out / "test_batch.bin").read_bytes(), np.uint8).reshape(-1, 3073)
    assert Counter(test[:, 0].tolist()) == dict.fromkeys(range(10), 8)
    drawn = glyphs.draw_image(LetterImage(letters[names[3]], TEST_FACES[0], 1), 32, 0)
    row = next(row for number, row in enumerate(test) if row[0] == 3 and number // 10 == 1)
    assert (row[1:].reshape(3, 32, 32).transpose(1, 2, 0) == np.asarray(drawn)).all()
    assert "complete" in Glyphs.prepare(str(out), layout="cifar10", views=2)
    (out / "test_batch.bin").unlink()
    assert "wrote" in Glyphs.prepare(str(out), layout="cifar10", views=2)
    assert (out / "test_batch.bin").stat().st_size == 80 * 3073
    with pytest.raises(ValueError, match="size must be 32"):
        Glyphs.prepare(str(tmp_path / "other"), layout="cifar10", size=48)
    with pytest.raises(ValueError, match="views 2"):
        Glyphs.prepare(str(out), layout="cifar10")


def test_an_interrupted_binary_layout_leaves_nothing(tmp_path, monkeypatch):
    def interrupted(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr(glyphs, "draw_image", interrupted)
    with pytest.raises(KeyboardInterrupt):
        Glyphs.prepare(str(tmp_path / "cifar"), layout="cifar10", views=1)
    assert list(tmp_path.iterdir()) == []


def test_a_folder_that_another_process_has_finished_meanwhile_stays(tmp_path, monkeypatch):
    from PIL import Image
    from toolbox_glyphs import folder

    out, images = tmp_path / "out", ["a/1.jpg", "b/2.jpg"]

    def draw(target):
        if not out.exists():
            monkeypatch.setattr(folder.os, "getpid", lambda: 1)
            out.mkdir()  # so that the other process does not come by here
            assert folder.publish_folder(out, {"seed": 0}, files)
            monkeypatch.undo()
            inodes.update({path: (out / path).stat().st_ino for path in images})
        Image.new("RGB", (4, 4)).save(target)

    inodes, files = {}, dict.fromkeys(images, draw)
    assert not folder.publish_folder(out, {"seed": 0}, files)
    assert {path: (out / path).stat().st_ino for path in images} == inodes
    assert [path.name for path in tmp_path.iterdir()] == ["out"]
