"""What recipes of runs say: the set that they are judged on, and the keys in which they differ."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

_NO_SETTINGS = ("work_dir", "resume")


def judged_split(recipe: Mapping[str, Any]) -> str:
    """The set that a run is judged on in the end: "test" where there is one, else "val"; empty for none."""
    for name in ("test", "val"):
        if recipe.get(f"{name}_dataloader") is not None and recipe.get(f"{name}_evaluator") is not None:
            return name
    return ""


def flat(recipe: Mapping[str, Any], path: str = "") -> dict[str, Any]:
    """{key path: value}, through dicts and lists of dicts; an empty dict is a value."""
    found: dict[str, Any] = {}
    for key, value in recipe.items():
        place = f"{path}.{key}" if path else str(key)
        if isinstance(value, list) and value and all(isinstance(item, dict) for item in value):
            value = dict(enumerate(value))
        if isinstance(value, Mapping) and value:
            found |= flat(value, place)
        else:
            found[place] = value
    return found


def differing(
    recipes: list[Mapping[str, Any] | None], *, text: Callable[[Any], str] = repr
) -> list[tuple[str, list[str]]]:
    """(key path, what each recipe sets it to) of the keys that are not the same in all.

    The text is empty where a recipe does not set the key, and "?" where a recipe is None: not known. The folder of a
    run is no setting.

    - `text`: how a value is written.
    """
    keys = [None if recipe is None else flat(recipe) for recipe in recipes]
    known = [found for found in keys if found is not None]
    names = dict.fromkeys(name for found in known for name in found if name not in _NO_SETTINGS)
    rows = []
    for name in names:
        texts = ["?" if found is None else text(found[name]) if name in found else "" for found in keys]
        if len({shown for shown, found in zip(texts, keys, strict=True) if found is not None}) > 1:
            rows.append((name, texts))
    return rows
