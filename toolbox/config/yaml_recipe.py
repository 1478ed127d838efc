"""Flat YAML recipes of other tools, of which every key is answered."""

from __future__ import annotations

import re
from pathlib import Path

from toolbox.registry.foreign_keys import load_foreign_keys


def translate_keys(file: Path) -> list[str]:
    """What the keys of a flat YAML recipe are here: a line each."""
    lines = file.read_text(encoding="utf-8", errors="replace").splitlines()
    names = [match[1] for line in lines if (match := re.match(r"(\w+)\s*:", line))]
    table = load_foreign_keys()
    answers = {name: key.here or key.note for name, key in table.keys.items()}
    start = f"Start from {' or '.join(table.start_from)}, with" if table.start_from else "Write"
    return [
        f"{start} these as --cfg-options, your values in place of the examples:",
        *(f"  {name}: {answers.get(name, 'unknown here')}" for name in names),
        "See docs/from_other_scripts.md.",
    ]
