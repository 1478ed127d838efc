"""What keys of recipes and arguments of scripts of other tools are called here: tables that plugins ship as TOML files.

start_from = "configs/dinov3_food101.py (classification)"    # where a whole recipe of that tool may begin; optional

[keys.train_split_ratio]
here = "train_dataloader.dataset.ratio=0.1"
note = "The same share of each class."
"""

from __future__ import annotations

import tomllib
from dataclasses import dataclass, field
from pathlib import Path

from toolbox.registry.catalog import get_catalog


@dataclass(frozen=True)
class ForeignKey:
    """A key of another tool.

    - `here`: what to give here, as `key.path=value` for `--cfg-options` or as an argument of a command; None where
      there is nothing to give.
    - `note`: what differs, or why nothing needs to be given.
    """

    here: str | None = None
    note: str = ""

    @property
    def hint(self) -> str:
        """One sentence for whoever wrote the foreign key."""
        if self.here is None:
            return self.note
        return f"Here it is {self.here}{'. ' + self.note if self.note else '.'}"


@dataclass
class ForeignKeys:
    """Tables of foreign keys.

    - `keys`: by name; of several tables with one key the first says what it is.
    - `start_from`: the recipes to start from, in words.
    """

    keys: dict[str, ForeignKey] = field(default_factory=dict)
    start_from: list[str] = field(default_factory=list)


def read_foreign_keys(path: Path) -> ForeignKeys:
    """One table. Raises OSError where there is none, and ValueError where it says something else."""
    table = tomllib.loads(path.read_text(encoding="utf-8"))
    start_from = table.pop("start_from", None)
    try:
        keys = {name: ForeignKey(**entry) for name, entry in table.pop("keys").items()}
    except (TypeError, KeyError, AttributeError) as error:
        raise ValueError(f"{path}: each key is a table [keys.NAME] with `here` and `note`: {error}") from error
    if table:
        raise ValueError(f"{path} holds {', '.join(table)} beside `keys` and `start_from`")
    return ForeignKeys(keys, [start_from] if start_from else [])


def load_foreign_keys() -> ForeignKeys:
    """The tables of all plugins, the core's first; one that cannot be read is left out: `check_plugin` says why."""
    whole = ForeignKeys()
    for paths in get_catalog().foreign_key_files().values():
        for path in paths:
            try:
                table = read_foreign_keys(path)
            except (OSError, ValueError):
                continue
            whole.keys = table.keys | whole.keys
            whole.start_from += table.start_from
    return whole
