"""From what a user wrote to a released encoder or a folder; for anything else, the name that was meant."""

from __future__ import annotations

import re
from difflib import get_close_matches
from pathlib import Path

from toolbox_dinov3.ids import BY_NAME, BY_TIMM_NAME, COMPONENTS, KNOWN, Family, ReleasedModel

_SPELLINGS = (
    (r"convnext.*tiny", "convnext-tiny"),
    (r"convnext.*small", "convnext-small"),
    (r"convnext.*base", "convnext-base"),
    (r"convnext.*large", "convnext-large"),
    (r"7b|giant|vit-?g", "vit7b16"),
    (r"huge|vit-?h", "vith16plus"),
    (r"large|vit-?l", "vitl16"),
    (r"(small|vit-?s).*(plus|\+)", "vits16plus"),
    (r"small|tiny|vit-?[st]", "vits16"),
    (r"base|vit-?b", "vitb16"),
)
"""How other projects and hasty fingers spell a size, the more special ones first."""


def find_model(name: str, family: Family) -> ReleasedModel | Path:
    """The released encoder called `name`, by timm too (with or without "timm/"), or the existing folder of that name.

    A released name wins over a folder of the same name; write `./vitb16` to mean the folder.
    Raises ValueError, naming what was probably meant, for anything else.
    """
    known = BY_NAME.get(name) or BY_TIMM_NAME.get(name.removeprefix("timm/"))
    if known is not None:
        if known.family != family:
            raise ValueError(f"{name!r} is no {COMPONENTS[family]}: use {COMPONENTS[known.family]}.")
        return known
    path = Path(name).expanduser()
    if name and path.is_dir():
        return path
    if name and path.is_file():
        raise ValueError(
            f"{name!r} is a file; give the folder that holds config.json and model.safetensors (Hugging Face format), "
            f"or name one of {_list_short_names(family)} and checkpoint={name!r}."
        )
    if _is_path(name):
        raise ValueError(
            f"The folder {name!r} does not exist (looked in {Path.cwd()}). Give a folder with config.json and "
            f"model.safetensors, or one of {_list_short_names(family)}."
        )
    advice = _suggest_model(_guess_model(name), family)
    if "dinov2" in name.lower():
        raise ValueError(f"{name!r} is DINOv2, and this is DINOv3. {advice}")
    if re.search(r"vit.*14", name.lower()):
        advice = f"DINOv3 has patch size 16 only. {advice}"
    raise ValueError(f"There is no {name!r}. {advice}")


def _is_path(name: str) -> bool:
    if name.startswith((".", "~", "/")) or "\\" in name:
        return True
    owner, slash, rest = name.partition("/")
    return bool(slash) and owner.lower() not in ("facebook", "timm") and not rest.isdigit()  # digits: "ViT-B/16"


def _list_short_names(family: Family) -> str:
    return ", ".join(known.short for known in KNOWN if known.family == family)


def _suggest_model(meant: ReleasedModel | None, family: Family) -> str:
    if meant is None:
        return f"{COMPONENTS[family]} knows {_list_short_names(family)}; or give a folder in Hugging Face format."
    other = "" if meant.family == family else f" with {COMPONENTS[meant.family]}"
    return f"Use {meant.short!r} ({meant.id}){other}."


def _guess_model(name: str) -> ReleasedModel | None:
    """The released encoder that `name` is another spelling of, None when it is none's."""
    text = re.sub(r"[_/. ]", "-", name.lower())
    if re.search(r"vit|dino|convnext", text):
        for pattern, short in _SPELLINGS:
            if re.search(pattern, text):
                return BY_NAME.get(f"{short}-sat" if "sat" in text else short, BY_NAME[short])
    close = get_close_matches(name.lower(), BY_NAME, 1, cutoff=0.75)
    return BY_NAME[close[0]] if close else None
