"""Images with captions as others hand them out: COCO, the splits of Karpathy, Flickr30k, text files beside images."""

from __future__ import annotations

import json
import posixpath
import re
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from toolbox.base import compose_unicode, find_images, split_by_hash

_OWN_SPLITS = {"train": "train", "restval": "train", "val": "val", "test": "test"}
"""What the splits of Karpathy's files are used as: "restval" is trained on, as in the papers."""

_TOKEN_LINE = re.compile(r"(?P<image>[^\t]+)#\d+\t(?P<caption>.*)")
"""A line such as `1000092795.jpg#0<tab>Two young guys with shaggy hair`."""

_KNOWN = (
    "the captions of COCO (captions_train2017.json), Karpathy's splits (dataset_coco.json, dataset_flickr30k.json), "
    "those of Flickr30k (results_20130124.token), or a folder of images with a .txt beside each"
)


@dataclass
class CaptionSource:
    """What a source says.

    - `captions`: {image: its captions, also empty ones}, images by their paths below the folder of images, with forward
      slashes.
    - `splits`: {image: its split}, where the source divides them itself, else empty.
    - `left_out`: {why: how many}.
    """

    captions: dict[str, list[str]] = field(default_factory=dict)
    splits: dict[str, str] = field(default_factory=dict)
    left_out: Counter[str] = field(default_factory=Counter)

    def add(self, image: str, captions: Iterable[Any] = (), split: str | None = None) -> None:
        """Take in captions of an image. Raises ValueError where it had another split before."""
        name = posixpath.normpath(image)
        self.captions.setdefault(name, []).extend(map(_tidy, captions))
        if split is not None and self.splits.setdefault(name, split) != split:
            raise ValueError(f"the image {name} is in '{self.splits[name]}' and in '{split}': it can only be in one")

    def take(self, split: str, source: Path) -> dict[str, list[str]]:
        """The captions of one split, each once, without empty ones and without images that have none.

        A source that has no splits is divided by a hash of the images' names: 80 % "train", 10 % "val", 10 % "test".
        Raises ValueError for "all" of a source that keeps a test set apart, and where nothing is left.
        """
        names = list(self.captions)
        if self.splits:
            if split == "all":
                raise ValueError(f"{source} divides its images: choose --split train, val or test")
            names = [name for name in names if self.splits[name] == split]
        elif split != "all":
            parts = split_by_hash(names, val_share=0.1, test_share=0.1)
            names = [names[place] for place in parts[split].tolist()]
        kept: dict[str, list[str]] = {}
        for name in names:
            filled = [text for text in self.captions[name] if text]
            self.left_out["empty captions"] += len(self.captions[name]) - len(filled)
            if filled:
                kept[name] = list(dict.fromkeys(filled))
                self.left_out["captions that repeat one of the same image"] += len(filled) - len(kept[name])
        self.left_out["images without a caption"] += len(names) - len(kept)
        if not kept:
            where = "" if split == "all" else f" in {split}"
            reasons = "".join(f"; left out: {reason}" for reason in self.list_left_out())
            hint = (
                "" if self.splits or not where else f" ({len(self.captions):,} images in all; a .jsonl file gets them)"
            )
            raise ValueError(f"{source} has no image with a caption{where}{hint}{reasons}")
        return kept

    def list_left_out(self) -> list[str]:
        """What was left out until now, with counts."""
        return [f"{count:,} {why}" for why, count in self.left_out.items() if count]


def read_captions(source: Path) -> CaptionSource:
    """The images and captions of a file or folder. Raises OSError or ValueError where it is none that is known."""
    if source.is_dir():
        return _read_text_files(source)
    if not source.exists():
        raise ValueError(f"{source} does not exist: give {_KNOWN}")
    if source.suffix.lower() in (".csv", ".tsv", ".jsonl", ".parquet"):
        raise ValueError(
            f"{source} needs no --source: datasets.Records reads such a file as it is, and its argument `columns` says "
            "which column is query_image (the image) and which is positive (the caption)"
        )
    text = _read_text(source)
    first = text.lstrip().partition("\n")[0]
    if source.suffix == ".token" or _TOKEN_LINE.match(first):
        return _read_token_file(source)
    try:
        content = json.loads(text)
    except ValueError:
        raise ValueError(f"{source} is no JSON: give {_KNOWN}") from None
    images = content.get("images") if isinstance(content, dict) else None
    try:
        if isinstance(images, list) and isinstance(content.get("annotations"), list):
            return _read_coco(source, images, content["annotations"])
        if isinstance(images, list) and images and "sentences" in images[0]:
            return _read_karpathy(source, images)
    except (KeyError, TypeError, AttributeError) as error:
        raise ValueError(f"{source} is not as COCO and Karpathy have it ({type(error).__name__}: {error})") from None
    raise ValueError(f"{source} holds no images with captions: give {_KNOWN}")


def _read_coco(source: Path, images: list[Mapping[str, Any]], annotations: list[Mapping[str, Any]]) -> CaptionSource:
    names = {image["id"]: image["file_name"] for image in images}
    if annotations and not any("caption" in annotation for annotation in annotations):
        raise ValueError(f"the annotations of {source} have no captions: give captions_train2017.json, say")
    found = CaptionSource()
    for name in names.values():
        found.add(name)
    for annotation in annotations:
        if annotation["image_id"] in names:
            found.add(names[annotation["image_id"]], [annotation["caption"]])
        else:
            found.left_out["captions of images that it does not list"] += 1
    return found


def _read_karpathy(source: Path, images: list[Mapping[str, Any]]) -> CaptionSource:
    found = CaptionSource()
    for image in images:
        name = "/".join(filter(None, [image.get("filepath"), image["filename"]]))
        if image["split"] not in _OWN_SPLITS:
            raise ValueError(
                f"{source}: the image {name} has the split {image['split']!r}, which is none of Karpathy's"
            )
        try:
            found.add(name, (sentence["raw"] for sentence in image["sentences"]), _OWN_SPLITS[image["split"]])
        except ValueError as error:
            raise ValueError(f"{source}: {error}") from None
    return found


def _read_token_file(source: Path) -> CaptionSource:
    found = CaptionSource()
    for number, line in _read_lines(source):
        match = _TOKEN_LINE.match(line)
        if match is None:
            raise ValueError(f"{source}:{number} is no line of Flickr30k, such as image.jpg#0<tab>caption")
        found.add(match["image"].strip(), [match["caption"]])
    return found


def _read_text_files(folder: Path) -> CaptionSource:
    """Each image below a folder with the lines of the .txt of its name beside it; images of one name share it."""
    found = CaptionSource()
    texts = {
        compose_unicode(path.relative_to(folder).with_suffix("").as_posix()): path
        for path in sorted(folder.rglob("*.[tT][xX][tT]"))
    }
    used = set()
    for name in find_images(folder).paths:
        stem = compose_unicode(name.rpartition(".")[0])
        used.add(stem)
        found.add(name, [line for _, line in _read_lines(texts[stem])] if stem in texts else ())
    found.left_out[".txt files without an image"] = len(texts.keys() - used)
    if not found.captions:
        raise ValueError(f"{folder} holds no images: give {_KNOWN}")
    return found


def _read_text(path: Path) -> str:
    try:
        return path.read_bytes().decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise ValueError(f"{path} is no text in UTF-8 ({error.reason}): save it as UTF-8, or give {_KNOWN}") from None


def _read_lines(path: Path) -> Iterator[tuple[int, str]]:
    """The lines that are not blank, with their numbers from 1. Other marks than line breaks end none: U+2028, say."""
    for number, line in enumerate(_read_text(path).split("\n"), start=1):
        if line.strip():
            yield number, line.rstrip("\r")


def _tidy(text: Any) -> str:
    """A caption without the spaces and line breaks around and within that files have by accident."""
    if not isinstance(text, str):
        raise TypeError(f"a caption is {text!r}, and no text")
    return " ".join(text.split())
