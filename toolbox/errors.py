"""Errors for users: what went wrong, where, and what to try."""

from __future__ import annotations

import sys
from collections.abc import Iterable
from dataclasses import dataclass, replace
from pathlib import Path

PROGRAM = "vision-encoder-toolbox"
"""The console command; `python -m toolbox` is the same."""


@dataclass(frozen=True)
class Problem:
    """A single problem.

    - `message`: what is wrong, a full sentence.
    - `where`: where it is: a key path (`model.backbone.dpeth`), a file, or a file with a line.
    - `hint`: what to try: a command, a value, the nearest name.
    """

    message: str
    where: str = ""
    hint: str = ""

    def with_prefix(self, path: str) -> Problem:
        """The same problem with its place below the key path `path`."""
        return replace(self, where=f"{path}.{self.where}" if self.where else path)

    def __str__(self) -> str:
        text = f"{self.where}: {self.message}" if self.where else self.message
        if not self.hint:
            return text
        return f"{text}{'' if text.endswith(('.', '!', '?', ':')) else '.'} {self.hint}"


class ToolboxError(Exception):
    """A mistake that the user can mend. The command line prints its problems without a traceback, and exits with 2."""

    def __init__(self, message: str, *, where: str = "", hint: str = "") -> None:
        self.problems: tuple[Problem, ...] = (Problem(message, where, hint),)
        super().__init__(str(self.problems[0]))

    @classmethod
    def from_problems(cls, problems: Iterable[Problem]) -> ToolboxError:
        """One error that carries several problems."""
        problems = tuple(problems)
        error = cls(problems[0].message, where=problems[0].where, hint=problems[0].hint)
        error.problems = problems
        error.args = ("\n".join(map(str, problems)),)
        return error

    def __reduce__(self):
        return (ToolboxError.from_problems, (self.problems,))


def format_command(name: str) -> str:
    """The words that run a sub-command, for messages, in the way in which this process was started.

    In a checkout they are `python tools/train.py`, and where the toolbox is installed `vision-encoder-toolbox train`.

    - `name`: the sub-command, e.g. "train".
    """
    started = Path(sys.argv[0] if sys.argv else "")
    script = started.with_name(f"{name}.py") if started.name else started
    if started.parent.name == "tools" and script.is_file():
        return f"python {script}"
    if started.name == "__main__.py" and started.parent.name == "toolbox":
        return f"python -m toolbox {name}"
    return f"{PROGRAM} {name}"


def place_backbone_keys(message: str, where: str) -> str:
    """What a backbone says of its keys, such as `model.backbone.name`, with the key path that it has in a recipe."""
    return message.replace("model.backbone.", f"{where}.") if where else message
