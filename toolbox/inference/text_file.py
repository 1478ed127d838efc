"""Texts in a file: those that a command embeds."""

from __future__ import annotations

import json
from pathlib import Path

from toolbox.base import Dataset, Sample
from toolbox.errors import ToolboxError

ENDINGS = (".txt", ".jsonl")


class TextFile(Dataset):
    """The texts of a file, in its order.

    - `path`: a .txt, a text a line; or a .jsonl, each line a string or a dict with "text" and perhaps "id".

    The id of a text is the text itself where the file gives none; lines that return count once. Raises ToolboxError,
    naming the line, for what is no text, and for an id that belongs to two texts.
    """

    unit = "texts"

    def __init__(self, path: str | Path) -> None:
        path = Path(path).expanduser()
        if path.suffix.lower() not in ENDINGS:
            raise ToolboxError(f"{path} is no list of texts.", hint=f"Such a file ends in {' or '.join(ENDINGS)}.")
        try:
            lines = path.read_text(encoding="utf-8-sig").split("\n")
        except FileNotFoundError as error:
            raise ToolboxError(f"{path} does not exist.", hint="Write a text a line into it.") from error
        except UnicodeDecodeError as error:
            raise ToolboxError(f"{path} is not a text in UTF-8: {error}.") from error
        except OSError as error:
            raise ToolboxError(f"{path} cannot be read: {error.strerror or error}.") from error
        texts: dict[str, str] = {}
        count = 0
        for number, line in enumerate(lines, start=1):
            if not line.strip():
                continue
            key, text = _read_line(line.strip(), path, number)
            if texts.setdefault(key, text) != text:
                raise ToolboxError(
                    f"The id {key!r} belongs to another text on an earlier line.",
                    where=f"{path}:{number}",
                    hint="Give every text an id of its own.",
                )
            count += 1
        if not texts:
            raise ToolboxError(f"{path} holds no text.", hint="Write a text a line into it.")
        self.ids, self.texts, self._repeated = list(texts), list(texts.values()), count - len(texts)

    def __len__(self) -> int:
        return len(self.texts)

    def __getitem__(self, index: int) -> Sample:
        return {"text": self.texts[index], "id": self.ids[index]}

    def notes(self) -> list[str]:
        return [f"{self._repeated:,} lines that return are counted once"] if self._repeated else []


def _read_line(line: str, path: Path, number: int) -> tuple[str, str]:
    """The id and the text of a line."""
    if path.suffix.lower() == ".txt":
        return line, line
    try:
        value = json.loads(line)
    except ValueError as error:
        raise ToolboxError(f"This line is not JSON: {error}.", where=f"{path}:{number}") from error
    text = value.get("text") if isinstance(value, dict) else value
    if not isinstance(text, str) or not text.strip():
        raise ToolboxError(
            "This line holds no text.", where=f"{path}:{number}", hint='Write a string, or {"text": ..., "id": ...}.'
        )
    key = value.get("id", text) if isinstance(value, dict) else text
    if isinstance(key, bool) or not isinstance(key, str | int):
        raise ToolboxError(f"The id {key!r} is neither a number nor a text.", where=f"{path}:{number}")
    return str(key), text
