"""Texts in a file: those that a command embeds."""

from __future__ import annotations

import json
from pathlib import Path

from toolbox.base import Dataset, Sample
from toolbox.errors import ToolboxError
from toolbox.inference.list_file import read_list

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
            texts, self._repeated = read_list(
                path,
                lambda line, where: (line, line) if path.suffix.lower() == ".txt" else _read_json(line, where),
                describe=lambda text: "another text",
                hint="Give every text an id of its own.",
            )
        except FileNotFoundError as error:
            raise ToolboxError(f"{path} does not exist.", hint="Write a text a line into it.") from error
        except OSError as error:
            raise ToolboxError(f"{path} cannot be read: {error.strerror or error}.") from error
        if not texts:
            raise ToolboxError(f"{path} holds no text.", hint="Write a text a line into it.")
        self.ids, self.texts = list(texts), list(texts.values())

    def __len__(self) -> int:
        return len(self.texts)

    def __getitem__(self, index: int) -> Sample:
        return {"text": self.texts[index], "id": self.ids[index]}

    def notes(self) -> list[str]:
        return [f"{self._repeated:,} lines that return are counted once"] if self._repeated else []


def _read_json(line: str, where: str) -> tuple[str, str]:
    """The text and the id of a line of JSON."""
    try:
        value = json.loads(line)
    except ValueError as error:
        raise ToolboxError(f"This line is not JSON: {error}.", where=where) from error
    text = value.get("text") if isinstance(value, dict) else value
    if not isinstance(text, str) or not text.strip():
        hint = 'Write a string, or {"text": ..., "id": ...}.'
        raise ToolboxError("This line holds no text.", where=where, hint=hint)
    key = value.get("id", text) if isinstance(value, dict) else text
    if isinstance(key, bool) or not isinstance(key, str | int):
        raise ToolboxError(f"The id {key!r} is neither a number nor a text.", where=where)
    return text, str(key)
