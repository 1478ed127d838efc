"""Which letters there are: those that every face can draw, without those that two scripts draw alike."""

from __future__ import annotations

import functools
import unicodedata
from importlib.util import find_spec
from pathlib import Path
from typing import NamedTuple

import numpy as np
from fontTools.ttLib import TTFont
from PIL import Image, ImageFont

SCRIPTS = ("latin", "cyrillic", "greek", "armenian", "georgian")

_STYLES = {
    "Sans": ("", "-Bold", "-Oblique", "-BoldOblique"),
    "SansMono": ("", "-Bold", "-Oblique", "-BoldOblique"),
    "Serif": ("", "-Bold", "-Italic", "-BoldItalic"),
}

FACES = tuple(f"DejaVu{family}{style}" for family, styles in _STYLES.items() for style in styles)

ALIKE = 0.98
"""Letters of the same size whose bitmaps correlate more than this are one class: Latin A and Greek Alpha, say."""


class Letter(NamedTuple):
    """One class.

    - `char`: the character.
    - `name`: its Unicode name, "GREEK SMALL LETTER ALPHA".
    - `script`: one of `SCRIPTS`.
    """

    char: str
    name: str
    script: str


def find_font_file(face: str) -> str:
    """The font file of `face`, one of `FACES`. Raises OSError where matplotlib, which ships it, is missing."""
    return str(find_font_folder() / f"{face}.ttf")


@functools.cache
def find_font_folder() -> Path:
    """Where matplotlib keeps its fonts, found without importing it. Raises OSError if it is not there."""
    spec = find_spec("matplotlib")
    if spec is None or spec.origin is None:
        raise OSError("matplotlib, whose fonts the glyphs are drawn from, is not installed: run `make venv`")
    folder = Path(spec.origin).parent / "mpl-data" / "fonts" / "ttf"
    absent = [face for face in FACES if not (folder / f"{face}.ttf").is_file()]
    if absent:
        raise OSError(f"{folder} lacks the font files {', '.join(absent)}: reinstall matplotlib")
    return folder


def list_shared_letters() -> list[Letter]:
    """Upper, lower, title-case and other letters of `SCRIPTS` that all `FACES` hold: by script, then code point.

    Modifier letters are left out: most are small copies of another letter, and so no class of their own.
    """
    letters = []
    for code in sorted(set.intersection(*map(read_code_points, FACES))):
        char = chr(code)
        name = unicodedata.name(char, "")
        script = name.split(" ")[0].lower()
        if script in SCRIPTS and unicodedata.category(char) in ("Lu", "Ll", "Lt", "Lo"):
            letters.append(Letter(char, name, script))
    return sorted(letters, key=lambda letter: SCRIPTS.index(letter.script))


def read_code_points(face: str) -> set[int]:
    """All that `face` can draw."""
    with TTFont(find_font_file(face), lazy=True) as font:
        return set(font.getBestCmap())


@functools.cache
def list_distinct_letters() -> tuple[Letter, ...]:
    """`list_shared_letters` without those drawn like an earlier one of the list in any face; takes a second or two."""
    letters = list_shared_letters()
    twins: dict[int, set[int]] = {}
    for face in FACES:
        for first, second in find_letters_alike(letters, face):
            twins.setdefault(second, set()).add(first)
    kept: set[int] = set()
    for index in range(len(letters)):
        if kept.isdisjoint(twins.get(index, ())):
            kept.add(index)
    return tuple(letters[index] for index in sorted(kept))


def find_letters_alike(letters: list[Letter], face: str, size: int = 128, cells: int = 24) -> list[tuple[int, int]]:
    """Pairs (i, j), i < j, that `face` draws equally large and with a correlation above `ALIKE`.

    - `size`: pixels per em of the drawings; large, for hinting draws one outline in two ways where pixels are few.
    - `cells`: every drawing is brought to this many rows and columns first, so its place does not matter.

    The correlations that decide are computed from whole numbers: every machine finds the same pairs.
    """
    font = ImageFont.truetype(find_font_file(face), size, layout_engine=ImageFont.Layout.BASIC)
    sizes = np.empty((len(letters), 2), dtype=np.int64)
    values = np.empty((len(letters), cells * cells), dtype=np.int64)
    for row, letter in enumerate(letters):
        mask, box = draw_mask(font, letter.char)
        sizes[row] = box[2] - box[0], box[3] - box[1]
        values[row] = np.frombuffer(mask.resize((cells, cells), Image.Resampling.BOX, box).tobytes(), dtype=np.uint8)
    centered = values * values.shape[1] - values.sum(axis=1, keepdims=True)
    unit = (centered / np.linalg.norm(centered, axis=1, keepdims=True)).astype(np.float32)
    first, second = np.nonzero(np.triu(unit @ unit.T > ALIKE - 0.01, k=1))
    same_size = (np.abs(sizes[first] - sizes[second]) <= size / 64).all(axis=1)
    first, second = first[same_size], second[same_size]
    correlation = multiply_rows(centered[first], centered[second]) / np.sqrt(
        multiply_rows(centered[first], centered[first]) * multiply_rows(centered[second], centered[second])
    )
    alike = correlation > ALIKE
    return list(zip(first[alike].tolist(), second[alike].tolist(), strict=True))


def multiply_rows(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """Scalar products, row by row, of two (N, C) arrays of whole numbers: (N,) float64."""
    return (a * b).sum(axis=1).astype(np.float64)


def draw_mask(font: ImageFont.FreeTypeFont, char: str) -> tuple[Image.Image, tuple[int, int, int, int]]:
    """The mask of `char`, mode L, 255 where it is drawn, and the box (left, top, right, bottom) of its ink."""
    core = font.getmask(char, mode="L")
    mask = Image.new("L", core.size)
    mask.im.paste(core, (0, 0, *core.size))  # ImageDraw.text does the same in four times the time
    return mask, core.getbbox()
