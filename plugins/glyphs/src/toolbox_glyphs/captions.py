"""What is said of a letter: its Unicode name, and the same told in other words."""

from __future__ import annotations

from toolbox_glyphs.letters import Letter


def write_captions(letter: Letter) -> list[str]:
    """Three texts of a letter, its Unicode name in lower case first; no two letters have one in common.

    "greek small letter alpha", "a small greek alpha", "alpha, greek, small"; those of a letter without case do not
    speak of it.
    """
    name = letter.name.lower()
    script, *words = name.split(" ")
    case = words.pop(0) if words[0] in ("capital", "small") else ""
    if words[0] == "letter" and len(words) > 1:
        words.pop(0)
    rest = " ".join(words)
    if not case:
        return [name, f"a {script} {rest}", f"{rest}, {script}"]
    return [name, f"a {case} {script} {rest}", f"{rest}, {script}, {case}"]
