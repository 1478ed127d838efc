"""Letters with captions: what is said of a letter, and which letters and faces each file of pairs holds."""

from __future__ import annotations

import json
from collections import Counter

import pytest
from PIL import Image
from toolbox_datasets.records import Records
from toolbox_glyphs import glyphs
from toolbox_glyphs.captions import write_captions
from toolbox_glyphs.glyphs import Glyphs
from toolbox_glyphs.layouts import TEST_FACES, TRAIN_FACES, lay_out_pairs
from toolbox_glyphs.letters import list_distinct_letters

FILES = ("train", "val", "test_letters", "test_faces")
UNSEEN = {"greek", "armenian", "georgian"}


@pytest.fixture(scope="module")
def content():
    return lay_out_pairs({split: glyphs.choose_letters(split) for split in ("train", "val", "test")}, views=1)


@pytest.fixture(scope="module")
def records(content):
    """{file: its records}."""
    assert set(content.texts) == {f"{name}.jsonl" for name in FILES}
    return {name: [json.loads(line) for line in content.texts[f"{name}.jsonl"].splitlines()] for name in FILES}


def letters_of(lines) -> set[str]:
    return {line["label"] for line in lines}


def test_captions_begin_with_the_name_and_no_two_letters_share_one():
    captions = {letter.name: write_captions(letter) for letter in list_distinct_letters()}
    assert captions["GREEK SMALL LETTER ALPHA WITH PSILI"] == [
        "greek small letter alpha with psili",
        "a small greek alpha with psili",
        "alpha with psili, greek, small",
    ]
    assert captions["GEORGIAN LETTER AN"] == [
        "georgian letter an",
        "a georgian an",
        "an, georgian",
    ]
    assert all(texts[0] == name.lower() for name, texts in captions.items())
    every = [text for texts in captions.values() for text in texts]
    assert len(every) == len(set(every))
    assert max(map(len, every)) < 80


def test_no_held_out_letter_is_trained_on_and_the_encoder_of_the_demos_has_seen_none_of_the_test(records):
    letters = {name: letters_of(lines) for name, lines in records.items()}
    assert not letters["train"] & (letters["val"] | letters["test_letters"])
    assert not letters["val"] & letters["test_letters"]
    assert letters["train"] | letters["val"] | letters["test_letters"] == {
        letter.name.lower() for letter in list_distinct_letters()
    }
    scripts = {name: {line["group"] for line in lines} for name, lines in records.items()}
    assert scripts["train"] == scripts["val"] == {"latin", "cyrillic", *UNSEEN}
    assert scripts["test_letters"] == scripts["test_faces"] == UNSEEN
    seen = {name.lower() for name in Glyphs("train").classes}  # with labels, by the encoder
    assert not seen & (letters["val"] | letters["test_letters"] | letters["test_faces"])
    assert letters["test_faces"] == letters["train"] - seen
    assert min(len(letters["val"]), len(letters["test_letters"]), len(letters["test_faces"])) >= 100


def test_each_file_has_its_faces(content, records):
    for name, lines in records.items():
        faces = TEST_FACES if name == "test_faces" else TRAIN_FACES
        drawn = Counter((line["label"], content.images[line["query_image"]].face) for line in lines)
        assert drawn == {(letter, face): 1 for letter in letters_of(lines) for face in faces}
    paths = [line["query_image"] for lines in records.values() for line in lines]
    assert len(paths) == len(set(paths)) == len(content.images)


def test_a_caption_is_of_the_drawn_letter(content, records):
    for lines in records.values():
        for line in lines:
            assert line["positive"] == write_captions(content.images[line["query_image"]].letter)


def test_written_files_are_read_as_pairs(tmp_path, monkeypatch):
    chosen = list_distinct_letters()[::30]
    monkeypatch.setattr(glyphs, "list_distinct_letters", lambda: chosen)
    out = tmp_path / "pairs"
    assert f" of {len(chosen)} letters " in Glyphs.prepare(str(out), layout="pairs", size=16, views=2)
    for name in FILES:
        dataset = Records(str(out / f"{name}.jsonl"), mode="i2t")
        assert dataset.check() == []
        sample = dataset[len(dataset) - 1]
        assert dataset.classes[sample["label"]] == sample["text"][0]
        assert sample["text"][0].startswith(sample["group"])
        assert (sample["image"].size, len(set(sample["text"]))) == ((16, 16), len(sample["text"]))
    images = sorted(path for path in out.rglob("*.jpg"))
    assert len(images) == sum(len((out / f"{name}.jsonl").read_text().splitlines()) for name in FILES)
    with Image.open(images[0]) as image:
        assert (image.format, image.mode) == ("JPEG", "RGB")
    assert "complete" in Glyphs.prepare(str(out), layout="pairs", size=16, views=2)
