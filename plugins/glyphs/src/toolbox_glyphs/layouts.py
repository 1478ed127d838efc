"""Where each picture goes in the layout of a real dataset."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple

from toolbox_glyphs.letters import FACES, SCRIPTS, Letter

Splits = Mapping[str, Sequence[Letter]]


class Picture(NamedTuple):
    """What is drawn in one file.

    - `letter`: the class.
    - `face`: index into `FACES`.
    - `view`: number of the picture among those of this letter and face.
    """

    letter: Letter
    face: int
    view: int


class Content(NamedTuple):
    """What a layout consists of.

    - `pictures`: {path: what is drawn there}; `texts`: {path: text}.
    - `records`: {path: (label, picture) of each record} of files in the binary form of CIFAR-10.
    """

    pictures: dict[str, Picture]
    texts: dict[str, str]
    records: Mapping[str, Sequence[tuple[int, Picture]]] = {}


def pictures_of(letter: Letter, views: int) -> list[tuple[str, Picture]]:
    """The (file name without suffix, picture) of one letter."""
    numbered = ((face, view) for face in range(len(FACES)) for view in range(views))
    return [
        (f"{file_name(letter)}_{number}", Picture(letter, face, view)) for number, (face, view) in enumerate(numbered)
    ]


def file_name(letter: Letter) -> str:
    """The letter's Unicode name, without spaces."""
    return letter.name.replace(" ", "_")


def sop(splits: Splits, views: int) -> Content:
    """Images, and lists of them, as Stanford Online Products has them.

    Ids count from 1 and go on from the training into the test index; "val" is part of the training index, as there.
    """
    pictures: dict[str, Picture] = {}
    lines: dict[str, list[str]] = {"train": [], "test": []}
    class_id = 0
    for index, letters in (("train", merged(splits["train"], splits["val"])), ("test", splits["test"])):
        for letter in letters:
            class_id += 1
            for name, picture in pictures_of(letter, views):
                path = f"{letter.script}_final/{name}.JPG"
                pictures[path] = picture
                lines[index].append(f"{len(pictures)} {class_id} {SCRIPTS.index(letter.script) + 1} {path}\n")
    header = "image_id class_id super_class_id path\n"
    texts = {f"Ebay_{index}.txt": header + "".join(index_lines) for index, index_lines in lines.items()}
    texts["Ebay_info.txt"] = header + "".join(lines["train"] + lines["test"])
    return Content(pictures, texts)


def merged(train: Sequence[Letter], val: Sequence[Letter]) -> list[Letter]:
    """Both, in the order of scripts and code points."""
    return sorted([*train, *val], key=lambda letter: (SCRIPTS.index(letter.script), letter.char))


def imagefolder(splits: Splits, views: int) -> Content:
    """split/class/file.jpg."""
    pictures = {
        f"{split}/{file_name(letter)}/{name}.jpg": picture
        for split, letters in splits.items()
        for letter in letters
        for name, picture in pictures_of(letter, views)
    }
    return Content(pictures, {})
