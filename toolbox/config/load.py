"""Load a recipe: mmengine's text-style configs with `_base_`, plus typed overrides and readable errors."""

from __future__ import annotations

import ast
import traceback
from collections.abc import Iterable, Mapping
from keyword import iskeyword
from pathlib import Path
from typing import Any
from unittest import mock

from toolbox.config.mmengine_config import Config, ConfigDict
from toolbox.config.overrides import apply_overrides
from toolbox.config.places import Places, read_base_names
from toolbox.config.recipes import find_base, find_recipe, suggest_recipes
from toolbox.config.references import resolve
from toolbox.errors import ToolboxError
from toolbox.recipe_text import read_recipe
from toolbox.registry import add_local, expand_home, get_catalog
from toolbox.utils.key_paths import copy_plain


def load_config(
    path: str | Path, overrides: Mapping[str, Any] | Iterable[str] = (), plugins: Iterable[str] = ()
) -> Config:
    """Load a recipe.

    - `path`: a file; or the name of a recipe that the toolbox ships, `dinov3_sop`, or a plugin, `namespace:recipe`.
    - `overrides`: `{"a.b": value}`, or strings `"a.b=value"` as the command line takes them.
    - `plugins`: local plugins to load, beside those that the recipe names: Python files or modules.

    A recipe is Python, and runs. Only config.py in the folder of a run is read as data, since runs are passed on: none
    of its lines is run, and the plugins that it names are loaded where `plugins` names them too.

    A key may refer to another one, as `root='{train_dataloader.dataset.root}'`. The loaded recipe keeps such a text,
    so that a later change of the other key counts; `to_dict` replaces it.

    Raises ToolboxError for a missing file (with the nearest names), a syntax error, a mistyped `_base_`, or a
    reference that leads nowhere.
    """
    file, plugins = find_recipe(expand_home(str(path))), expand_home(list(plugins))
    if _is_written_by_run(file):
        config = Config(ConfigDict(replace_local_plugins(_read_as_data(file), plugins, str(file))), filename=str(file))
    else:
        config = Config(ConfigDict(_run_recipe(file)), filename=str(file))
        config._cfg_dict["plugins"] = [
            _find_plugin_file(file, name) for name in [*(config.get("plugins") or []), *plugins]
        ]
        if str(config.get("load_from") or "").endswith(".py"):
            config._cfg_dict["load_from"] = _find_recipe_file(file, config.load_from)
        load_plugins(config.plugins)
    object.__setattr__(config, "original", copy_plain(config._cfg_dict))
    overridden = apply_overrides(config._cfg_dict, overrides, Places(file))
    object.__setattr__(config, "overridden", frozenset(overridden))
    try:
        to_dict(config)  # a reference that leads nowhere is found now
    except ToolboxError as error:
        problem = error.problems[0]
        place = Places(file, config.overridden).find(problem.where)
        raise ToolboxError(problem.message, where=f"{place} {problem.where}".strip(), hint=problem.hint) from None
    return config


def apply_changes(
    recipe: Mapping[str, Any],
    overrides: Mapping[str, Any] | Iterable[str],
    plugins: Iterable[str] = (),
    where: str = "",
) -> dict[str, Any]:
    """A copy of a plain recipe that others may have written, that of a checkpoint say, with overrides applied.

    - `plugins`: local plugins to load. Those that the recipe names are not.
    - `where`: what holds the recipe, for messages.

    Raises ToolboxError for components of plugins that are not here, naming those that the recipe names.
    """
    copy = replace_local_plugins(to_dict(recipe), plugins, where)
    apply_overrides(copy, overrides, None)
    return resolve(copy)


def replace_local_plugins(recipe: dict[str, Any], plugins: Iterable[str], where: str) -> dict[str, Any]:
    """A recipe that others may have written, with `plugins` loaded in the place of those that it names itself.

    Raises ToolboxError where it needs one of its own.
    """
    trusted = list(plugins)
    load_plugins(trusted)
    untrusted = [name for name in recipe.get("plugins") or [] if name not in trusted]
    absent = sorted(list_namespaces(recipe) - {plugin.namespace for plugin in get_catalog().plugins})
    if untrusted and absent:
        files = ", ".join(map(str, untrusted))
        raise ToolboxError(
            f"It needs the plugin {' and '.join(map(repr, absent))}, and names the local {files}, "
            "which was not loaded: code that comes with a checkpoint or a run never is.",
            where=where,
            hint=f"If you trust that code, name it yourself: plugins={untrusted!r}",
        )
    return recipe | {"plugins": trusted}


def list_namespaces(value: Any) -> set[str]:
    """The namespaces of all components that a recipe names."""
    if isinstance(value, list):
        return set().union(*map(list_namespaces, value))
    if not isinstance(value, dict):
        return set()
    fullname = value.get("type")
    namespaces = {fullname.partition(".")[0]} if isinstance(fullname, str) and "." in fullname else set()
    return namespaces.union(*map(list_namespaces, value.values()))


def get_places(config: Any) -> Places | None:
    """Where the keys of a loaded recipe stand; None for a config made in code."""
    filename = getattr(config, "filename", None) if isinstance(config, Config) else None
    return Places(filename, getattr(config, "overridden", frozenset())) if filename else None


def to_dict(config: Config | Mapping[str, Any]) -> dict[str, Any]:
    """A recipe as plain dicts and lists, detached from the original, its references replaced by what they refer to.

    Paths that start with `~` become absolute.
    """
    return expand_home(resolve(copy_plain(config._cfg_dict if isinstance(config, Config) else config)))


def dump(config: Mapping[str, Any]) -> str:
    """A recipe as Python source that loads to the same recipe."""
    return "".join(f"{key} = {_write_source(value)}\n" for key, value in to_dict(config).items())


def _write_source(value: Any, indent: str = "") -> str:
    """A value as Python source; what fits on a line stays on one."""
    inner = indent + "    "
    if isinstance(value, dict):
        words = all(isinstance(key, str) and key.isidentifier() and not iskeyword(key) for key in value)
        left, right = ("dict(", ")") if words else ("{", "}")
        items = [f"{key}=" if words else f"{key!r}: " for key in value]
        items = [f"{item}{_write_source(value[key], inner)}" for item, key in zip(items, value, strict=True)]
    elif isinstance(value, list):
        left, right, items = "[", "]", [_write_source(item, inner) for item in value]
    else:
        return repr(value)
    line = f"{left}{', '.join(items)}{right}"
    if "\n" not in line and len(indent) + len(line) <= 100:
        return line
    return left + "".join(f"\n{inner}{item}," for item in items) + f"\n{indent}{right}"


def _is_written_by_run(file: Path) -> bool:
    """Whether a file is the recipe that a run, or an evaluation, wrote into its folder."""
    beside = ("environment.json", "metrics.jsonl", "train_results.json", "test_results.json", "manifest.json")
    return file.name == "config.py" and (
        any((file.parent / name).exists() for name in beside) or any(file.parent.glob("*/manifest.json"))
    )


def _read_as_data(file: Path) -> dict[str, Any]:
    """The recipe of a run. Raises ToolboxError where its text is more than data."""
    try:
        recipe = read_recipe(file.read_text(encoding="utf-8"))
        if str(recipe.get("load_from") or "").endswith(".py"):
            raise ValueError("load_from names a recipe, which is not run from here")
    except (OSError, ValueError) as error:
        raise ToolboxError(
            f"The recipe of a run is read as data, and this one cannot be: {error}.",
            where=str(file),
            hint="If it is yours, copy it out of the run's folder: elsewhere a recipe may be any Python.",
        ) from error
    return recipe


def _run_recipe(file: Path) -> dict[str, Any]:
    """Run a recipe's file and its bases; returns the keys that they set."""
    _check_chain(file, ())
    try:
        # mmengine takes a base for a path beside the recipe; `namespace:recipe` is for what is installed
        with mock.patch.object(Config, "_get_cfg_path", lambda base, recipe: (str(find_base(recipe, base)), None)):
            loaded = Config.fromfile(str(file), lazy_import=False, import_custom_modules=False)
    except Exception as error:
        raise _explain(error, file) from error
    return {key: value for key, value in loaded._cfg_dict.items() if not key.startswith("_")}


def load_plugins(names: Iterable[str]) -> None:
    """Load local plugins: Python files or modules. Raises ToolboxError for one that is broken or missing."""
    for plugin in add_local(names):
        if plugin.error is not None:
            reason = str(plugin.reason).rstrip(".")
            raise ToolboxError(f"The local plugin cannot be loaded: {reason}.", where=plugin.path) from plugin.error


def _find_plugin_file(recipe: Path, plugin: str) -> str:
    """A plugin's file may be named relative to the recipe; a checkpoint needs its whole path."""
    files = (str(path.resolve()) for path in (recipe.parent / plugin, Path(plugin)) if path.is_file())
    return next(files, plugin)


def _find_recipe_file(recipe: Path, other: str) -> str:
    """Another recipe, as named from here or from beside the recipe that names it."""
    beside = recipe.parent / other
    return str(beside) if beside.is_file() and not Path(other).is_file() else other


def _check_chain(file: Path, visited: tuple[Path, ...]) -> None:
    """Syntax and existence of a recipe and all its bases, with the user's file and line."""
    try:
        tree = ast.parse(file.read_text(encoding="utf-8"), filename=str(file))
    except SyntaxError as error:
        raise ToolboxError(
            f"This is no valid Python: {error.msg}.", where=f"{file}:{error.lineno}", hint=(error.text or "").strip()
        ) from error
    except (OSError, UnicodeDecodeError) as error:
        raise ToolboxError(f"The recipe cannot be read: {error}.", where=str(file)) from error
    for node in ast.walk(tree):
        if isinstance(node, ast.With) and "read_base" in ast.dump(node):
            raise ToolboxError(
                "`with read_base()` is not supported.", where=f"{file}:{node.lineno}", hint="Use `_base_ = ['...py']`."
            )
    try:
        bases = read_base_names(tree)
    except ValueError:
        raise ToolboxError("`_base_` must be a literal list of file names.", where=str(file)) from None
    line = next((n.lineno for n in tree.body if isinstance(n, ast.Assign) and "_base_" in ast.dump(n.targets[0])), 1)
    for base in bases:
        try:
            target = find_base(file, base)
        except ToolboxError as error:
            problem = error.problems[0]
            raise ToolboxError(problem.message, where=f"{file}:{line}", hint=problem.hint) from error
        if not target.is_file():
            hint = suggest_recipes(target, base=True)
            raise ToolboxError(f"The base '{base}' does not exist.", where=f"{file}:{line}", hint=hint)
        if target.resolve() in visited or target.resolve() == file.resolve():
            raise ToolboxError(f"The base '{base}' leads back to this file.", where=f"{file}:{line}")
        _check_chain(target, (*visited, file.resolve()))


def _explain(error: Exception, file: Path) -> ToolboxError:
    """mmengine's failure, or the recipe's own, with the line of the user's file."""
    frames = traceback.extract_tb(error.__traceback__)
    in_files = [
        frame
        for frame in frames
        if frame.name == "<module>"
        and frame.filename.endswith(".py")
        and "mmengine" not in frame.filename
        and Path(frame.filename).resolve().parent.exists()
    ]
    message = str(error).strip("'\"") or type(error).__name__
    if "is reserved for config file" in message:
        return ToolboxError(f"The name '{message.split()[0]}' is reserved: choose another.", where=str(file))
    if "Duplicate key is not allowed among bases" in message:
        return ToolboxError(f"Two bases set the same key: {message.split(':')[-1].strip()}.", where=str(file))
    place = f"{in_files[-1].filename}:{in_files[-1].lineno}" if in_files else str(file)
    return ToolboxError(f"The recipe stopped with {type(error).__name__}: {message}.", where=place)
