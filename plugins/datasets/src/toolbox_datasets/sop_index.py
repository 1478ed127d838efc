"""The index files of Stanford Online Products: one line an image."""

from __future__ import annotations

from pathlib import Path, PurePosixPath

from toolbox_datasets.retrieval_dataset import ListedImage

HEADER = "image_id class_id super_class_id path"


def read_index(path: Path) -> list[ListedImage]:
    """All items of an index file, in its order.

    Raises OSError if it cannot be read, and ValueError naming file and line if the header is another one, a line has
    not three numbers and a relative path, an image id returns, or a class lies in two super-classes.
    """
    try:
        lines = path.read_text(encoding="utf-8-sig").splitlines()
    except UnicodeDecodeError as error:
        raise ValueError(f"{path} is not a text file in UTF-8 ({error}): unpack the dataset again") from None
    if not lines or lines[0].strip() != HEADER:
        raise ValueError(f"{path}:1: the header must be '{HEADER}', not '{lines[0].strip()[:80] if lines else ''}'")
    items: list[ListedImage] = []
    seen: set[int | str] = set()
    group_of: dict[int | str, str] = {}
    for number, line in enumerate(lines[1:], start=2):
        item = parse_line(line)
        if item is None:
            raise ValueError(f"{path}:{number}: expected '{HEADER}' with a path below the folder, not '{line[:80]}'")
        if item.image_id in seen:
            raise ValueError(f"{path}:{number}: image id {item.image_id} stands on an earlier line already")
        if group_of.setdefault(item.class_id, item.group) != item.group:
            raise ValueError(
                f"{path}:{number}: class {item.class_id} is in the super-class '{item.group}' here and in "
                f"'{group_of[item.class_id]}' above"
            )
        seen.add(item.image_id)
        items.append(item)
    if not items:
        raise ValueError(f"{path} lists no images: unpack the dataset again")
    return items


def parse_line(line: str) -> ListedImage | None:
    """The item of one line, None if it is malformed."""
    fields = line.rstrip().split(" ", 3)
    if len(fields) != 4 or not all(field.isdecimal() for field in fields[:3]):
        return None
    path = PurePosixPath(fields[3])
    if path.is_absolute() or ".." in path.parts or len(path.parts) < 2:
        return None
    return ListedImage(int(fields[0]), int(fields[1]), str(path), path.parts[0].removesuffix("_final"))
