"""Where each image goes in the layout of a real dataset."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple

from toolbox_glyphs.letters import FACES, SCRIPTS, Letter

Splits = Mapping[str, Sequence[Letter]]


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
    for index, letters in (("train", merge_letters(splits["train"], splits["val"])), ("test", splits["test"])):
        for letter in letters:
            class_id += 1
            for name, image in list_letter_images(letter, views):
                path = f"{letter.script}_final/{name}.JPG"
                images[path] = image
                lines[index].append(f"{len(images)} {class_id} {SCRIPTS.index(letter.script) + 1} {path}\n")
    header = "image_id class_id super_class_id path\n"
    texts = {f"Ebay_{index}.txt": header + "".join(index_lines) for index, index_lines in lines.items()}
    texts["Ebay_info.txt"] = header + "".join(lines["train"] + lines["test"])
    return LayoutContent(images, texts)


def merge_letters(train: Sequence[Letter], val: Sequence[Letter]) -> list[Letter]:
    """The letters of both, in the order of scripts and code points."""
    return sorted([*train, *val], key=lambda letter: (SCRIPTS.index(letter.script), letter.char))


def lay_out_image_folder(splits: Splits, views: int) -> LayoutContent:
    """split/class/file.jpg."""
    images = {
        f"{split}/{make_file_name(letter)}/{name}.jpg": image
        for split, letters in splits.items()
        for letter in letters
        for name, image in list_letter_images(letter, views)
    }
    return LayoutContent(images, {})
