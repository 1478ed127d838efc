"""Items that could not be read: counted, named in bad_items.jsonl, and too many of them end the run."""

from __future__ import annotations

import json
from pathlib import Path

from toolbox.base import Batch
from toolbox.engine.console import Console
from toolbox.engine.files import write_text
from toolbox.errors import ToolboxError


class BadItems:
    """The unreadable items of a run, under the policy 'skip'.

    - `file`: where they are listed.
    - `total`: items of the dataset; `share`: how much of it may be unreadable.
    - `found`: {index as text: message}; the run saves and restores it.
    """

    def __init__(self, file: Path, total: int, share: float, console: Console) -> None:
        self.file, self.total, self.share, self.console = file, total, share, console
        self.found: dict[str, str] = {}

    def note(self, batches: list[Batch]) -> None:
        """Take in the batches of a step. Raises ToolboxError if nothing could be read, or too little of all."""
        fresh = {str(index): message for batch in batches for index, message in batch["bad"]}
        fresh = {index: message for index, message in fresh.items() if index not in self.found}
        if fresh:
            self.found |= fresh
            for index, message in fresh.items():
                self.console.warn(f"Left out item {index}: {message}")
            lines = [{"index": int(index), "error": message} for index, message in self.found.items()]
            write_text(self.file, "".join(json.dumps(line, ensure_ascii=False) + "\n" for line in lines))
        if len(self.found) > self.share * self.total:
            raise ToolboxError(
                f"{len(self.found)} of {self.total} items cannot be read: max_bad_share is {self.share:g}.",
                where="train_dataloader", hint=f"They are named in {self.file}.",
            )  # fmt: skip
        if not any(batch["items"] for batch in batches):
            raise ToolboxError("No item of this batch can be read.", where="train_dataloader", hint="Mend the files.")
