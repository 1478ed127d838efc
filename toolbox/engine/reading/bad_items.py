"""Items that could not be read: counted, named in bad_items.jsonl, and too many of them end the run."""

from __future__ import annotations

import json
from pathlib import Path

from toolbox.base import Batch
from toolbox.engine.console import Console
from toolbox.engine.saving.files import write_text
from toolbox.errors import ToolboxError


class BadItems:
    """The unreadable items of a run, under the policy 'skip'.

    - `file`: where they are listed.
    - `total`: items of the dataset; `share`: how much of it may be unreadable.
    - `writes`: whether this process writes the file.
    - `found`: {index as text: message}; the run saves and restores it.
    """

    def __init__(self, file: Path, total: int, share: float, console: Console, writes: bool = True) -> None:
        self.file, self.total, self.share, self.console, self.writes = file, total, share, console, writes
        self.found: dict[str, str] = {}

    def check(self, batches: list[Batch], processes: int) -> None:
        """Raise ToolboxError if nothing of a step, or of a process's share of a batch, could be read."""
        empty = [batch for batch in batches if not batch["items"]]
        if not empty or (processes == 1 and len(empty) < len(batches)):
            return
        message = empty[0]["bad"][0][1] if empty[0]["bad"] else ""
        whole = "this batch" if processes == 1 else "a process's share of this batch"
        raise ToolboxError(
            f"No item of {whole} can be read: {message}", where="train_dataloader", hint="Mend the files."
        )

    def fresh(self, batches: list[Batch]) -> list[tuple[int, str]]:
        """The unreadable items of a step that are not known yet."""
        return [(index, text) for batch in batches for index, text in batch["bad"] if str(index) not in self.found]

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
        if len(self.found) > self.share * self.total:
            raise ToolboxError(
                f"{len(self.found)} of {self.total} items cannot be read: max_bad_share is {self.share:g}.",
                where="train_dataloader", hint=f"They are named in {self.file}.",
            )  # fmt: skip
