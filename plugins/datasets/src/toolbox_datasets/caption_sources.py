"""Images with captions as others hand them out: COCO, the splits of Karpathy, Flickr30k, text files beside images."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from toolbox.base import compose_unicode, find_images, split_by_hash
from toolbox_datasets.files import read_lines

SPLITS = ("all", "train", "val", "test")
_OWN_SPLITS = {"train": "train", "restval": "train", "val": "val", "test": "test"}
"""What the splits of Karpathy's files are used as: "restval" is trained on, as in the papers."""

_KNOWN = (
    "the captions of COCO (captions_train2017.json), Karpathy's splits (dataset_coco.json, dataset_flickr30k.json), "
    "those of Flickr30k (results_20130124.token), or a folder of images with a .txt beside each"
)


@dataclass
class CaptionSource:
    """What a source says.

    - `captions`: {image: its captions}, images by their paths below the folder of images, with forward slashes.
    - `splits`: {image: its split}, where the source divides them itself, else None.
    - `left_out`: {why: how many}.
    """

    captions: dict[str, list[str]]
    splits: dict[str, str] | None = None
    left_out: Counter[str] = field(default_factory=Counter)

    def take(self, split: str, source: Path) -> dict[str, list[str]]:
        """The captions of one split, without images that have none.

        A source that has no splits is divided by a hash of the images' names: 80 % "train", 10 % "val", 10 % "test".
        Raises ValueError for "all" of a source that keeps a test set apart, and where nothing is left.
        """
        names = list(self.captions)
        if self.splits is not None:
            if split == "all":
                raise ValueError(f"{source} divides its images: choose --split train, val or test")
            names = [name for name in names if self.splits[name] == split]
        elif split != "all":
            parts = split_by_hash(names, val_share=0.1, test_share=0.1)
            names = [names[place] for place in parts[split].tolist()]
        kept = {name: list(dict.fromkeys(self.captions[name])) for name in names if self.captions[name]}
        self.left_out["images without a caption"] += len(names) - len(kept)
        if not kept:
            raise ValueError(f"{source} has no image with a caption" + ("" if split == "all" else f" in {split}"))
        return kept


def read_captions(source: Path) -> CaptionSource:
    """The images and captions of a file or folder. Raises OSError or ValueError where it is none that is known."""
    if source.is_dir():
        return _read_text_files(source)
    if not source.exists():
        raise ValueError(f"{source} does not exist: give {_KNOWN}")
    if source.suffix == ".token":
        return _read_token_file(source)
    try:
        content = json.loads(source.read_text(encoding="utf-8-sig"))
    except ValueError:
        raise ValueError(f"{source} is no JSON: give {_KNOWN}") from None
    images = content.get("images") if isinstance(content, dict) else None
    try:
        if isinstance(images, list) and isinstance(content.get("annotations"), list):
            return _read_coco(images, content["annotations"])
        if isinstance(images, list) and images and "sentences" in images[0]:
            return _read_karpathy(images)
    except (KeyError, TypeError, AttributeError) as error:
        raise ValueError(f"{source} is not as COCO and Karpathy have it ({type(error).__name__}: {error})") from None
    raise ValueError(f"{source} holds no images with captions: give {_KNOWN}")


def _read_coco(images: list[Mapping[str, Any]], annotations: list[Mapping[str, Any]]) -> CaptionSource:
    names = {image["id"]: image["file_name"] for image in images}
    found = CaptionSource({name: [] for name in names.values()})
    if annotations and not any("caption" in annotation for annotation in annotations):
        raise ValueError("these annotations of COCO have no captions: give captions_train2017.json, say")
    for annotation in annotations:
        if annotation["image_id"] not in names:
            found.left_out["captions of images that it does not list"] += 1
        elif text := _tidy(annotation["caption"]):
            found.captions[names[annotation["image_id"]]].append(text)
        else:
            found.left_out["empty captions"] += 1
    return found


def _read_karpathy(images: list[Mapping[str, Any]]) -> CaptionSource:
    found = CaptionSource({}, splits={})
    assert found.splits is not None
    for image in images:
        name = "/".join(filter(None, [image.get("filepath"), image["filename"]]))
        if image["split"] not in _OWN_SPLITS:
            raise ValueError(f"the image {name} has the split {image['split']!r}, which is none of Karpathy's")
        found.splits[name] = _OWN_SPLITS[image["split"]]
        found.captions[name] = _keep_filled(found, (sentence["raw"] for sentence in image["sentences"]))
    return found


def _read_token_file(source: Path) -> CaptionSource:
    """Lines such as `1000092795.jpg#0<tab>Two young guys with shaggy hair`."""
    found = CaptionSource({})
    for number, line in enumerate(read_lines(source), start=1):
        name, tab, text = line.partition("\t")
        image, mark, _ = name.rpartition("#")
        if not tab or not mark:
            raise ValueError(f"{source}:{number} is no line of Flickr30k, such as image.jpg#0<tab>caption")
        found.captions.setdefault(image, []).extend(_keep_filled(found, [text]))
    return found


def _read_text_files(folder: Path) -> CaptionSource:
    """Each image below a folder with the lines of the .txt of its name beside it."""
    found = CaptionSource({})
    texts = {compose_unicode(path.relative_to(folder).as_posix()): path for path in sorted(folder.rglob("*.txt"))}
    for name in find_images(folder).paths:
        path = texts.pop(compose_unicode(f"{name.rpartition('.')[0]}.txt"), None)
        lines = [] if path is None else path.read_text(encoding="utf-8-sig").splitlines()
        found.captions[name] = [text for text in map(_tidy, lines) if text]
    if texts:
        found.left_out[".txt files without an image"] = len(texts)
    if not found.captions:
        raise ValueError(f"{folder} holds no images: give {_KNOWN}")
    return found


def _keep_filled(found: CaptionSource, texts: Iterable[Any]) -> list[str]:
    tidied = [_tidy(text) for text in texts]
    found.left_out["empty captions"] += tidied.count("")
    return [text for text in tidied if text]


def _tidy(text: Any) -> str:
    """A caption without the spaces and line breaks around and within that files have by accident."""
    if not isinstance(text, str):
        raise TypeError(f"a caption is {text!r}, and no text")
    return " ".join(text.split())
