"""Files that list what a command reads, an item a line."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from toolbox.errors import ToolboxError


def read_list(
    path: Path, read_line: Callable[[str, str], tuple[str, str]], *, describe: Callable[[str], str], hint: str
) -> tuple[dict[str, str], int]:
    """{id: item} of the lines of a file, in their order, and how many lines return.

    - `read_line`: from a line and its place, for messages, to the item and its id.
    - `describe`: what the message about an id of two items calls the first one; `hint`: what that message advises.

    Raises OSError, and ToolboxError for a file that is not in UTF-8 and an id of two items.
    """
    try:
        lines = path.read_text(encoding="utf-8-sig").split("\n")
    except UnicodeDecodeError as error:
        raise ToolboxError(f"{path} is not a text in UTF-8: {error}.") from error
    items: dict[str, str] = {}
    count = 0
    for number, line in enumerate(lines, start=1):
        if not line.strip():
            continue
        where = f"{path}:{number}"
        item, key = read_line(line.strip(), where)
        if items.setdefault(key, item) != item:
            message = f"The id {key!r} belongs to {describe(items[key])} on an earlier line."
            raise ToolboxError(message, where=where, hint=hint)
        count += 1
    return items, count - len(items)
