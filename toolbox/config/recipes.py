"""Recipes by name: files, and those that the toolbox and its plugins ship."""

from __future__ import annotations

import ast
import difflib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from toolbox.config.yaml_recipe import translate_keys
from toolbox.errors import ToolboxError, format_command
from toolbox.registry import get_catalog

CORE = "core"
"""The plugin whose recipes need no namespace."""


@dataclass(frozen=True)
class ShippedRecipe:
    """A recipe that is installed.

    - `name`: what a command takes: "demo/dinov3_sop" for the toolbox's own, "acme:patchmixer" for a plugin's.
    - `path`: its file.
    """

    name: str
    path: Path

    @property
    def summary(self) -> str:
        """The first line of its docstring, "" if it has none."""
        try:
            text = ast.get_docstring(ast.parse(self.path.read_text(encoding="utf-8"))) or ""
        except (OSError, SyntaxError, UnicodeDecodeError):
            return ""
        return text.partition("\n")[0]


def list_recipes() -> list[ShippedRecipe]:
    """The recipes that are installed, the toolbox's own first, demos after others.

    Files and folders that begin with `_` are none.
    """
    recipes = []
    for namespace in sorted(get_catalog().config_dirs(), key=lambda name: (name != CORE, name)):
        prefix = "" if namespace == CORE else f"{namespace}:"
        files = _list_files(namespace, bases=False)
        recipes += [
            ShippedRecipe(prefix + name, files[name]) for name in sorted(files, key=lambda n: (n.count("/"), n))
        ]
    return recipes


def is_shipped(name: str) -> bool:
    """Whether a name means a recipe that is installed: `dinov3_sop`, `namespace:recipe`."""
    namespace, colon, _ = name.partition(":")
    if colon:
        return namespace in {plugin.namespace for plugin in get_catalog().plugins}
    return name in _list_files(CORE, bases=False)


def find_recipe(name: str) -> Path:
    """The file that a recipe's name stands for: a path that exists, or what is installed.

    Raises ToolboxError, with the nearest names, where there is none.
    """
    path = Path(name)
    if path.is_file():
        if path.suffix in (".yaml", ".yml"):
            raise ToolboxError(
                "A recipe is a Python file, and this is YAML.", where=name, hint="\n".join(translate_keys(path))
            )
        if path.suffix != ".py":
            raise ToolboxError(f"A recipe is a Python file, and this is {path.suffix or 'none'}.", where=name)
        return path
    if ":" in name and name.partition(":")[0].isidentifier():
        return _find_shipped(name)
    for folder in (path, path.parent):  # a run's folder, or a checkpoint in it
        if path.is_dir() and (folder / "config.py").is_file():
            raise ToolboxError(
                "This is a folder of a run, and no recipe.", where=name, hint=f"Its recipe is {folder / 'config.py'}."
            )
    if is_shipped(name):
        return _find_shipped(f"{CORE}:{name}")
    raise ToolboxError("There is no such recipe.", where=name, hint=suggest_recipes(path))


def find_base(recipe: str | Path, base: str) -> Path:
    """The file that an entry of a recipe's `_base_` names: relative to it, or `namespace:recipe` for what is installed.

    Raises ToolboxError where the plugin of that namespace is not usable, or ships no such recipe.
    """
    return _find_shipped(base) if base.partition(":")[0].isidentifier() and ":" in base else Path(recipe).parent / base


def suggest_recipes(path: Path, *, base: bool = False) -> str:
    """The recipes nearest in name to one that is missing: beside its path, below ./configs, and installed.

    - `base`: whether a recipe's base is looked for, which needs a namespace where it is installed.
    """
    bases = base or "_base_" in path.parts
    names_by_file: dict[Path, str] = {}
    for namespace in get_catalog().config_dirs():
        prefix = "" if namespace == CORE and not base else f"{namespace}:"
        names_by_file |= {file.resolve(): prefix + name for name, file in _list_files(namespace, bases=bases).items()}
    local_files = [*path.parent.glob("*.py"), *_find_recipes_below(Path("configs"), bases=bases)]
    names_by_file |= {file.resolve(): str(file) for file in local_files}
    by_stem: dict[str, list[str]] = {}
    for file, name in sorted(names_by_file.items(), key=lambda item: len(item[1])):
        by_stem.setdefault(file.stem, []).append(name)
    close = difflib.get_close_matches(path.stem, by_stem, n=2, cutoff=0.5)
    names = [name for stem in close for name in by_stem[stem]]
    name_in_checkout = path.as_posix().removeprefix("configs/")  # as in a checkout
    names = sorted(names, key=lambda name: -difflib.SequenceMatcher(None, name_in_checkout, name).ratio())[:3]
    if names:
        return f"Did you mean {' or '.join(names)}?"
    examples = ", ".join(recipe.name for recipe in list_recipes()[:3])
    return f"Recipes are, e.g., {examples}; `{format_command('recipes')}` lists all."


def _find_shipped(fullname: str) -> Path:
    namespace, _, recipe = fullname.partition(":")
    path = _list_files(namespace, bases=True).get(recipe.removesuffix(".py"))
    if path is None:
        get_catalog().plugin(namespace)  # an unknown plugin is the better message
        shipped = [f"{namespace}:{name}" for name in sorted(_list_files(namespace, bases=False))]
        close = difflib.get_close_matches(fullname, shipped, n=2)
        hint = f"Did you mean {' or '.join(close)}?" if close else f"It ships {', '.join(shipped) or 'none'}."
        raise ToolboxError(f"The plugin '{namespace}' ships no recipe '{recipe}'.", hint=hint)
    return path


def _list_files(namespace: str, *, bases: bool) -> dict[str, Path]:
    """{name: file} of the recipes that a plugin ships; `bases`: also those that begin with `_`."""
    folders = get_catalog().config_dirs().get(namespace, [])
    return {
        file.relative_to(folder).with_suffix("").as_posix(): file
        for folder in folders
        for file in _find_recipes_below(folder, bases=bases)
    }


def _find_recipes_below(folder: Path, *, bases: bool) -> Iterator[Path]:
    for file in sorted(folder.rglob("*.py")):
        if bases or not any(part.startswith("_") for part in file.relative_to(folder).parts):
            yield file
