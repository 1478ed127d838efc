"""Which records of a file have no label."""

from __future__ import annotations

from collections import Counter
from typing import Any


class LabelCount:
    """How many records have a label, the first ones with and without, and which texts meant that there is none."""

    def __init__(self) -> None:
        self.total = self.missing = 0
        self.first: dict[bool, int] = {}
        self.texts: Counter[str] = Counter()

    def add(self, number: int, label: str | None, value: Any) -> None:
        """Count the record of line or row `number`, whose `value` was read as `label`."""
        self.total += 1
        self.first.setdefault(label is not None, number)
        if label is None:
            self.missing += 1
            if isinstance(value, str) and value.strip():
                self.texts[value.strip()] += 1

    def missing_texts(self) -> str:
        """The texts that meant "no label", with counts and the way to make labels of them; "" without any."""
        if not self.texts:
            return ""
        counts = ", ".join(f"'{text}' ({count:,} times)" for text, count in self.texts.most_common(3))
        return f"; {counts} means that there is none: if it is a class, set missing_labels=[]"
