"""What recipes of runs say: the set that they are evaluated on, and the keys in which they differ."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from toolbox.utils.key_paths import flatten

_NO_SETTINGS = ("work_dir", "resume")


def find_evaluated_split(recipe: Mapping[str, Any]) -> str:
    """The set that a run is evaluated on in the end: "test" where there is one, else "val"; empty for none."""
    for name in ("test", "val"):
        if recipe.get(f"{name}_dataloader") is not None and recipe.get(f"{name}_evaluator") is not None:
            return name
    return ""


def list_differences(
    recipes: Sequence[Mapping[str, Any] | None], *, text: Callable[[Any], str] = repr
) -> list[tuple[str, list[str]]]:
    """(key path, what each recipe sets it to) of the keys that are not the same in all.

    The text is empty where a recipe does not set the key, and "?" where a recipe is None: not known. The folder of a
    run is no setting.

    - `text`: how a value is written.
    """
    values_of = [None if recipe is None else flatten(recipe) for recipe in recipes]
    known = [values for values in values_of if values is not None]
    names = dict.fromkeys(name for values in known for name in values if name not in _NO_SETTINGS)
    rows = []
    for name in names:
        texts = ["?" if values is None else text(values[name]) if name in values else "" for values in values_of]
        if len({shown for shown, values in zip(texts, values_of, strict=True) if values is not None}) > 1:
            rows.append((name, texts))
    return rows
