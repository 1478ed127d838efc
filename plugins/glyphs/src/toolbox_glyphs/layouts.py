"""Where each image goes in the layout of a real dataset.

In the layouts of data to classify, letters are those that no training on glyphs has seen, the test in faces of its own.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import NamedTuple

from toolbox.base import split_by_hash
from toolbox_glyphs.captions import write_captions
from toolbox_glyphs.letters import FACES, SCRIPTS, Letter

Splits = Mapping[str, Sequence[Letter]]

TEST_FACES = tuple(range(2, len(FACES), 3))
"""Faces of the test: one of each family, and none of them is a face of the training."""

TRAIN_FACES = tuple(face for face in range(len(FACES)) if face not in TEST_FACES)

CLASSES, BATCHES = 10, 5
"""Of CIFAR-10: its classes, and the files of its training images. The letters are the first of the Georgian alphabet:
one script is harder than ten letters of three, of which raw pixels tell nine in ten."""


HELD_SHARES = {"test_letters": 0.3, "val": 0.1}
"""Of the letters of "pairs" that are Greek, Armenian or Georgian: the shares whose names are not trained on."""


class LetterImage(NamedTuple):
    """What is drawn in one image.

    - `letter`: the class.
    - `face`: index into `FACES`.
    - `view`: number of the image among those of this letter and face.
    """

    letter: Letter
    face: int
    view: int


class LayoutContent(NamedTuple):
    """What a layout consists of.

    - `images`: {path: what is drawn there}; `texts`: {path: text}.
    - `records`: {path: (label, image) of each record} of files in the binary form of CIFAR-10.
    """

    images: dict[str, LetterImage]
    texts: dict[str, str]
    records: Mapping[str, Sequence[tuple[int, LetterImage]]] = {}


def list_letter_images(letter: Letter, views: int) -> list[tuple[str, LetterImage]]:
    """The (file name without suffix, image) of one letter."""
    images = (LetterImage(letter, face, view) for face in range(len(FACES)) for view in range(views))
    return [(f"{make_file_name(letter)}_{number}", image) for number, image in enumerate(images)]


def make_file_name(letter: Letter) -> str:
    """The letter's Unicode name, without spaces."""
    return letter.name.replace(" ", "_")


def lay_out_sop(splits: Splits, views: int) -> LayoutContent:
    """Images, and lists of them, as Stanford Online Products has them.

    Ids count from 1 and go on from the training into the test index; "val" is part of the training index, as there.
    """
    images: dict[str, LetterImage] = {}
    lines: dict[str, list[str]] = {"train": [], "test": []}
    class_id = 0
    order = {script: number for number, script in enumerate(SCRIPTS, start=1)}
    train = sorted([*splits["train"], *splits["val"]], key=lambda letter: (order[letter.script], letter.char))
    for index, letters in (("train", train), ("test", splits["test"])):
        for letter in letters:
            class_id += 1
            for name, image in list_letter_images(letter, views):
                path = f"{letter.script}_final/{name}.JPG"
                images[path] = image
                lines[index].append(f"{len(images)} {class_id} {order[letter.script]} {path}\n")
    header = "image_id class_id super_class_id path\n"
    texts = {f"Ebay_{index}.txt": header + "".join(index_lines) for index, index_lines in lines.items()}
    texts["Ebay_info.txt"] = header + "".join(lines["train"] + lines["test"])
    return LayoutContent(images, texts)


def lay_out_image_folder(splits: Splits, views: int) -> LayoutContent:
    """split/class/file.jpg."""
    images = {
        f"{split}/{make_file_name(letter)}/{name}.jpg": image
        for split, letters in splits.items()
        for letter in letters
        for name, image in list_letter_images(letter, views)
    }
    return LayoutContent(images, {})


def list_part_images(letter: Letter, part: str, views: int) -> list[LetterImage]:
    """The images of one letter in "train" or "test"."""
    faces = TRAIN_FACES if part == "train" else TEST_FACES
    return [LetterImage(letter, face, view) for face in faces for view in range(views)]


def lay_out_food101(splits: Splits, views: int) -> LayoutContent:
    """images/<class>/<number>.jpg, with the lists of classes, training and test in meta/, as Food-101 has them."""
    images: dict[str, LetterImage] = {}
    lists: dict[str, dict[str, list[str]]] = {"train": {}, "test": {}}
    folders = {make_file_name(letter).lower(): letter for letter in splits["test"]}
    for name, letter in sorted(folders.items()):
        for part, stems in lists.items():
            stems[name] = []
            for image in list_part_images(letter, part, views):
                stem = f"{name}/{1000 * (image.face + 1) + image.view}"
                stems[name].append(stem)
                images[f"images/{stem}.jpg"] = image
    texts = {
        "meta/classes.txt": "".join(f"{name}\n" for name in sorted(folders)),
        "meta/labels.txt": "".join(f"{folders[name].name.capitalize()}\n" for name in sorted(folders)),
    }
    for part, stems in lists.items():
        texts[f"meta/{part}.txt"] = "".join(f"{stem}\n" for class_stems in stems.values() for stem in class_stems)
        texts[f"meta/{part}.json"] = json.dumps(stems) + "\n"
    return LayoutContent(images, texts)


def lay_out_imagenet(splits: Splits, views: int) -> LayoutContent:
    """train/<wnid>/<wnid>_<number>.JPEG, val/<wnid>/ILSVRC2012_val_<number>.JPEG and labels.txt, as ImageNet has them.

    The wnid of a letter is n and its code point in eight digits.
    """
    images: dict[str, LetterImage] = {}
    test_number = 0
    names = {f"n{ord(letter.char):08d}": letter for letter in splits["test"]}
    for wnid, letter in sorted(names.items()):
        for number, image in enumerate(list_part_images(letter, "train", views)):
            images[f"train/{wnid}/{wnid}_{number}.JPEG"] = image
        for image in list_part_images(letter, "test", views):
            test_number += 1
            images[f"val/{wnid}/ILSVRC2012_val_{test_number:08d}.JPEG"] = image
    return LayoutContent(
        images, {"labels.txt": "".join(f"{wnid},{names[wnid].name.lower()}\n" for wnid in sorted(names))}
    )


def lay_out_cifar10(splits: Splits, views: int) -> LayoutContent:
    """data_batch_1.bin to data_batch_5.bin, test_batch.bin and batches.meta.txt, as CIFAR-10's binary version has them.

    Ten letters in turn, so that every file has as many of each as of the others, within one.
    """
    letters = [letter for letter in splits["test"] if letter.script == "georgian"][:CLASSES]
    parts = {part: [list_part_images(letter, part, views) for letter in letters] for part in ("train", "test")}
    mixed = {
        part: [pair for turn in zip(*images_of_letters, strict=True) for pair in enumerate(turn)]
        for part, images_of_letters in parts.items()
    }
    files = [f"data_batch_{number}.bin" for number in range(1, BATCHES + 1)]
    records: dict[str, list[tuple[int, LetterImage]]] = {name: [] for name in files}
    for place, pair in enumerate(mixed["train"]):
        records[files[place // len(letters) % BATCHES]].append(pair)
    records["test_batch.bin"] = mixed["test"]
    names = "".join(f"{make_file_name(letter).lower()}\n" for letter in letters)
    return LayoutContent({}, {"batches.meta.txt": names}, records)


def lay_out_pairs(splits: Splits, views: int) -> LayoutContent:
    """Images with captions, as `datasets.Records` reads them in the mode "i2t": a JSONL file a split, and images/.

    - "train": letters of all five scripts in `TRAIN_FACES`; "val": others in these faces.
    - "test_letters": Greek, Armenian and Georgian letters that are in no other file, in `TRAIN_FACES`.
    - "test_faces": the Greek, Armenian and Georgian letters of "train" in `TEST_FACES`.
    """
    unseen = splits["test"]
    parts = split_by_hash(
        [letter.name for letter in unseen], val_share=HELD_SHARES["val"], test_share=HELD_SHARES["test_letters"]
    )
    train, val, test = ([unseen[index] for index in parts[part]] for part in ("train", "val", "test"))
    files = {
        "train": ([*splits["train"], *train], "train"),
        "val": ([*splits["val"], *val], "train"),
        "test_letters": (test, "train"),
        "test_faces": (train, "test"),
    }
    images: dict[str, LetterImage] = {}
    texts = {}
    for name, (letters, part) in files.items():
        lines = []
        for letter in letters:
            record = {"positive": write_captions(letter), "label": letter.name.lower(), "group": letter.script}
            for image in list_part_images(letter, part, views):
                path = f"images/{letter.script}/{make_file_name(letter)}_{image.face}_{image.view}.jpg"
                images[path] = image
                lines.append(json.dumps({"query_image": path} | record))
        texts[f"{name}.jsonl"] = "".join(f"{line}\n" for line in lines)
    return LayoutContent(images, texts)
