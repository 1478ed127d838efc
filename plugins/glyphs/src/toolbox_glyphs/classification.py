"""The layouts of data to classify: letters that no training on glyphs has seen, the test in faces of its own."""

from __future__ import annotations

import json

from toolbox_glyphs.layouts import Content, Picture, Splits, file_name
from toolbox_glyphs.letters import FACES, Letter

TEST_FACES = tuple(range(2, len(FACES), 3))
"""Faces of the test: one of each family, and none of them is a face of the training."""

TRAIN_FACES = tuple(face for face in range(len(FACES)) if face not in TEST_FACES)

CLASSES, BATCHES = 10, 5
"""Of CIFAR-10: its classes, and the files of its training images. The letters are the first of the Georgian alphabet:
one script is harder than ten letters of three, of which raw pixels tell nine in ten."""


def drawn(letter: Letter, part: str, views: int) -> list[Picture]:
    """The pictures of one letter in "train" or "test"."""
    faces = TRAIN_FACES if part == "train" else TEST_FACES
    return [Picture(letter, face, view) for face in faces for view in range(views)]


def food101(splits: Splits, views: int) -> Content:
    """images/<class>/<number>.jpg, with the lists of classes, training and test in meta/, as Food-101 has them."""
    pictures: dict[str, Picture] = {}
    lists: dict[str, dict[str, list[str]]] = {"train": {}, "test": {}}
    folders = {file_name(letter).lower(): letter for letter in splits["test"]}
    for name, letter in sorted(folders.items()):
        for part, stems in lists.items():
            stems[name] = []
            for picture in drawn(letter, part, views):
                stem = f"{name}/{1000 * (picture.face + 1) + picture.view}"
                stems[name].append(stem)
                pictures[f"images/{stem}.jpg"] = picture
    texts = {
        "meta/classes.txt": "".join(f"{name}\n" for name in sorted(folders)),
        "meta/labels.txt": "".join(f"{folders[name].name.capitalize()}\n" for name in sorted(folders)),
    }
    for part, stems in lists.items():
        texts[f"meta/{part}.txt"] = "".join(f"{stem}\n" for of_class in stems.values() for stem in of_class)
        texts[f"meta/{part}.json"] = json.dumps(stems) + "\n"
    return Content(pictures, texts)


def imagenet(splits: Splits, views: int) -> Content:
    """train/<wnid>/<wnid>_<number>.JPEG, val/<wnid>/ILSVRC2012_val_<number>.JPEG and labels.txt, as ImageNet has them.

    The wnid of a letter is n and its code point in eight digits.
    """
    pictures: dict[str, Picture] = {}
    tested = 0
    names = {f"n{ord(letter.char):08d}": letter for letter in splits["test"]}
    for wnid, letter in sorted(names.items()):
        for number, picture in enumerate(drawn(letter, "train", views)):
            pictures[f"train/{wnid}/{wnid}_{number}.JPEG"] = picture
        for picture in drawn(letter, "test", views):
            tested += 1
            pictures[f"val/{wnid}/ILSVRC2012_val_{tested:08d}.JPEG"] = picture
    return Content(pictures, {"labels.txt": "".join(f"{wnid},{names[wnid].name.lower()}\n" for wnid in sorted(names))})


def cifar10(splits: Splits, views: int) -> Content:
    """data_batch_1.bin to data_batch_5.bin, test_batch.bin and batches.meta.txt, as CIFAR-10's binary version has them.

    Ten letters in turn, so that every file has as many of each as of the others, within one.
    """
    letters = [letter for letter in splits["test"] if letter.script == "georgian"][:CLASSES]
    parts = {part: [drawn(letter, part, views) for letter in letters] for part in ("train", "test")}
    mixed = {
        part: [pair for turn in zip(*found, strict=True) for pair in enumerate(turn)] for part, found in parts.items()
    }
    records = {f"data_batch_{number}.bin": [] for number in range(1, BATCHES + 1)}
    for place, pair in enumerate(mixed["train"]):
        records[f"data_batch_{place // len(letters) % BATCHES + 1}.bin"].append(pair)
    records["test_batch.bin"] = mixed["test"]
    names = "".join(f"{file_name(letter).lower()}\n" for letter in letters)
    return Content({}, {"batches.meta.txt": names}, records)
