"""Items that could not be read: all are named where one ends a run; else counted, and too many of them end it."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from toolbox.base import Batch, Dataset
from toolbox.engine.checkpoint.files import write_text
from toolbox.engine.console import Console
from toolbox.engine.device import cores
from toolbox.errors import ToolboxError, format_command

AUDIT = f"`{format_command('audit_data')}` lists every unreadable file of a recipe's data or of a folder"
"""The end of a hint."""

SHARE, FEW = 0.01, 5
"""What `max_bad_share` is where a recipe does not say: this share of the items, or so many where these are more."""

LISTED = 20


@dataclass
class Unreadable:
    """The items of a batch that cannot be read, under the policy 'raise': pairs (index, message)."""

    items: list[tuple[int, str]]


def allowed_bad(loader: Mapping[str, Any], total: int) -> float:
    """How many of `total` items may be unreadable under 'skip', as a dataloader's `max_bad_share` says.

    By default a hundredth, but in small datasets up to five items, or a quarter of them and at least one.
    """
    share = loader.get("max_bad_share")
    return max(SHARE * total, min(FEW, max(1, total // 4))) if share is None else share * total


def check_share(bad: int, loader: Mapping[str, Any], total: int, *, where: str, hint: str) -> None:
    """Raise ToolboxError if `bad` of `total` items are more than the dataloader at `where` allows under 'skip'."""
    allowed = allowed_bad(loader, total)
    if bad > allowed:
        given = loader.get("max_bad_share") is not None
        limit = f"max_bad_share allows {allowed:g}" if given else f"by default {allowed:g} may be (max_bad_share)"
        raise ToolboxError(f"{bad} of {total} items cannot be read, and {limit}.", where=where, hint=hint)


def find_unreadable(
    dataset: Dataset,
    known: Mapping[int, str],
    *,
    read: Callable[[int], Any] | None = None,
    seconds: float = 30.0,
    threads: int | None = None,
) -> tuple[dict[int, str], int]:
    """Read all items of a dataset for those that cannot be read; returns {index: message} and how many were looked at.

    - `known`: those that are known already; `read`: reads an item, by default the whole one.
    - `seconds`: after which it ends; `threads`: that read, by default one a core, 8 at most.
    """

    read = read or dataset.__getitem__

    def explain(index: int) -> str | None:
        try:
            read(index)
        except (OSError, ValueError) as error:
            return str(error) or type(error).__name__
        except Exception:  # a defect of the dataset: not what is looked for
            return None
        return None

    found, looked, end = dict(known), len(known), time.monotonic() + seconds
    rest = [index for index in range(len(dataset)) if index not in found]
    threads = threads or min(8, cores())
    with ThreadPoolExecutor(threads) as pool:
        for start in range(0, len(rest), 4 * threads):
            if time.monotonic() > end:
                break
            window = rest[start : start + 4 * threads]
            found |= {i: text for i, text in zip(window, pool.map(explain, window), strict=True) if text is not None}
            looked += len(window)
    return dict(sorted(found.items())), looked


def list_messages(messages: list[str]) -> str:
    """The first messages in one line, and how many more there are."""
    more = f"; and {len(messages) - LISTED:,} more" if len(messages) > LISTED else ""
    return "; ".join(message.replace("\n", "\\n") for message in messages[:LISTED]) + more


def unreadable_error(
    dataset: Dataset,
    bad: list[tuple[int, str]],
    *,
    where: str = "",
    hint: str = "",
    looked: int | None = None,
    read: Callable[[int], Any] | None = None,
) -> ToolboxError:
    """The error that names all unreadable items of a dataset, of which `bad` were met: the others are looked for.

    - `where`: the recipe's key of the dataloader; `hint`: what to do about them, by default for a recipe.
    - `looked`: at how many items one has looked already, None to look now; `read`: as of `find_unreadable`.
    """
    found, looked = find_unreadable(dataset, dict(bad), read=read) if looked is None else (dict(bad), looked)
    total, (first, *others) = len(dataset), found.items()
    message = f"Item {first[0]} of {type(dataset).__name__} cannot be read: {list_messages([first[1]])}"
    if others:
        count = f"{len(others):,} others" if len(others) > 1 else "another one"
        among = f"of its {total:,} items" if looked >= total else f"of the {looked:,} that were looked at"
        message += f"; nor can {count} {among}: {list_messages([f'item {index}: {text}' for index, text in others])}"
    hint = hint or "Mend or remove the files or texts, or set on_bad_item='skip' in the dataloader."
    return ToolboxError(message, where=where, hint=f"{hint} {AUDIT}.")


class BadItems:
    """The unreadable items of a run, under the policy 'skip'.

    - `file`: where they are listed.
    - `total`: items of the dataset; `loader`: its dataloader's settings, which say how many may be unreadable.
    - `writes`: whether this process writes the file.
    - `found`: {index as text: message}; the run saves and restores it.
    """

    def __init__(
        self, file: Path, total: int, loader: Mapping[str, Any], console: Console, writes: bool = True
    ) -> None:
        self.file, self.total, self.loader, self.console, self.writes = file, total, loader, console, writes
        self.found: dict[str, str] = {}

    def check(self, batches: list[Batch], processes: int) -> None:
        """Raise ToolboxError if nothing of a step, or of a process's share of a batch, could be read."""
        empty = [batch for batch in batches if not len(batch)]
        if not empty or (processes == 1 and len(empty) < len(batches)):
            return
        message = empty[0]["bad"][0][1] if empty[0]["bad"] else ""
        whole = "this batch" if processes == 1 else "a process's share of this batch"
        raise ToolboxError(
            f"No item of {whole} can be read: {message}", where="train_dataloader", hint=f"Mend the files: {AUDIT}."
        )

    def fresh(self, batches: list[Batch]) -> list[tuple[int, str]]:
        """The unreadable items of a step that are not known yet."""
        return [(index, text) for batch in batches for index, text in batch.bad if str(index) not in self.found]

    def note(self, fresh: list[tuple[int, str]]) -> None:
        """Take in items. Raises ToolboxError if too little of all can be read."""
        new = {str(index): text for index, text in fresh if str(index) not in self.found}
        if new:
            self.found |= new
            for index, text in new.items():
                self.console.warn(f"Left out item {index}: {text}")
            lines = [{"index": int(index), "error": text} for index, text in self.found.items()]
            if self.writes:
                write_text(self.file, "".join(json.dumps(line, ensure_ascii=False) + "\n" for line in lines))
        hint = f"They are named in {self.file}; {AUDIT}."
        check_share(len(self.found), self.loader, self.total, where="train_dataloader", hint=hint)
