"""Labels as text: which values of a file are the same label, which are none, and which are refused."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Collection, Iterable
from decimal import Decimal
from typing import Any

import numpy as np

# pandas.read_csv's default na_values; then other spellings of programs and databases, and Excel's error values
_MISSING = (
    "#N/A|#N/A N/A|#NA|-1.#IND|-1.#QNAN|-NaN|-nan|1.#IND|1.#QNAN|<NA>|N/A|NA|NULL|NaN|None|n/a|nan|null"
    "|NaT|NAN|Nan|-NAN|Null|(null)|\\N"
    "|#NULL!|#DIV/0!|#VALUE!|#REF!|#NAME?|#NUM!|#GETTING_DATA|#SPILL!|#CALC!|#FIELD!|#BLOCKED!|#CONNECT!|#UNKNOWN!"
)
MISSING_LABELS = frozenset(_MISSING.split("|"))
"""Texts that mean "no label", unless a recipe says otherwise."""

_WHOLE = re.compile(r"(-?(?:0|[1-9][0-9]*))\.0+")
_FRACTION = re.compile(r"-?(?:0|[1-9][0-9]*)?\.[0-9]+")
_SCIENTIFIC = re.compile(r"-?[0-9]+(?:\.[0-9]+)?[eE][+-][0-9]+")  # as pandas and Excel write long numbers
_INVISIBLE = "\ufeff\u200b"
_EXACT = 2**53  # above it, neighbouring integers are one float


def read_label(value: Any, *, missing: Collection[str] = MISSING_LABELS) -> str | None:
    """The label that a value in a file means, as text; None for a missing one.

    7, 7.0, "7", " 7" and "7.0" are one label, as Python, NumPy and Arrow scalars alike. "007" is another one. Text is
    stripped of spaces around it and brought to Unicode's form NFC.

    - `missing`: texts that mean "no label", beside None, NaN, NaT, pandas' NA and blank text, which always do.

    Raises ValueError with the end of a sentence ("must be ...") for values that name no class: booleans, lists, bytes,
    numbers with a fraction, infinity, and numbers that were rounded on their way (floats above 2**53, "1.2e+18").
    """
    if isinstance(value, np.generic):
        value = value.item()
    if isinstance(value, str):
        return _read_text(value, missing)
    if type(value) is int:
        return str(value)
    if value is None or type(value).__name__ in ("NAType", "NaTType"):
        return None
    if not isinstance(value, float | Decimal):
        text = repr(value)
        raise ValueError(
            f"must be a number or a string, not {text if len(text) <= 80 else f'a {type(value).__name__}'}"
        )
    if value != value:
        return None
    if abs(value) == float("inf") or value != int(value):
        raise ValueError(_explain_fraction(value))
    if isinstance(value, float) and abs(value) > _EXACT:
        raise ValueError(_explain_rounding(value))
    return str(int(value))


def _read_text(value: str, missing: Collection[str]) -> str | None:
    text = value.strip().strip(_INVISIBLE).strip()
    if not text or text in missing:
        return None
    if text[0] in "-.0123456789":
        if whole := _WHOLE.fullmatch(text):
            return whole[1] if whole[1] != "-0" else "0"
        if _FRACTION.fullmatch(text):
            raise ValueError(_explain_fraction(text))
        if _SCIENTIFIC.fullmatch(text):
            raise ValueError(_explain_rounding(text))
    return text if text.isascii() else unicodedata.normalize("NFC", text)


def _explain_fraction(value: object) -> str:
    return f"is {value}, and must be a whole number or a name: write names as text with a letter, such as 'x{value}'"


def _explain_rounding(value: object) -> str:
    return f"is {value}, a number that was rounded, so that different ones may have become the same: write it as text"


def find_similar_labels(labels: Iterable[str]) -> list[str]:
    """A note of different labels that look like one: by case, inner spaces, leading zeros, forms of a character.

    Empty where there are none, as for a file that says "7" and "007", or "Cat" and "cat".
    """
    groups: dict[str, list[str]] = {}
    for label in labels:
        groups.setdefault(_simplify(label), []).append(label)
    alike = [names for names in groups.values() if len(names) > 1]
    if not alike:
        return []
    examples = "; ".join(" and ".join(map(repr, names[:4])) for names in alike[:3])
    more = " ..." if len(alike) > 3 else ""
    return [f"{len(alike):,} times different labels look alike, and stay different classes: {examples}{more}"]


def _simplify(label: str) -> str:
    text = " ".join(unicodedata.normalize("NFKC", label).casefold().split())
    number = text.removeprefix("+")
    return str(int(number)) if number.removeprefix("-").isdecimal() and len(number) < 1000 else text
