"""What is said of a letter: its Unicode name, and the same told in other words."""

from __future__ import annotations

from toolbox_glyphs.letters import Letter

_CASES = {"capital": "upper", "small": "lower"}


def write_captions(letter: Letter) -> list[str]:
    """Texts of a letter, its Unicode name in lower case first; no two letters have one in common.

    "greek small letter alpha", "the small letter alpha of the greek script", "alpha, greek, small", "greek alpha in
    lower case", "lower-case greek alpha". A letter without case has those that do not speak of it.
    """
    name = letter.name.lower()
    script, *words = name.split(" ")
    case = words.pop(0) if words[0] in _CASES else ""
    if words[0] == "letter" and len(words) > 1:
        words.pop(0)
    rest = " ".join(words)
    if not case:
        return [name, f"the letter {rest} of the {script} script", f"{rest}, {script}", f"{script} {rest} without case"]
    return [
        name,
        f"the {case} letter {rest} of the {script} script",
        f"{rest}, {script}, {case}",
        f"{script} {rest} in {_CASES[case]} case",
        f"{_CASES[case]}-case {script} {rest}",
    ]
