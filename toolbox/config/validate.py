"""Find everything that is wrong with a recipe before anything is built: names, keys, arguments, types."""

from __future__ import annotations

import copy
import inspect
from typing import Any

from toolbox.config.schema import REQUIRED, TOP_LEVEL, Key
from toolbox.config.types import fits
from toolbox.errors import Problem, ToolboxError
from toolbox.registry import get_catalog
from toolbox.registry.build import SLOT_KEYS, check_names
from toolbox.registry.foreign_keys import load_foreign_keys
from toolbox.registry.messages import add_article, list_names, suggest_nearest
from toolbox.registry.signature import EMPTY, Parameter, accepts, check_plain, describe, read_parameters
from toolbox.utils.key_paths import get_value, is_within


def validate(recipe: dict[str, Any]) -> list[Problem]:
    """All problems of names, keys, arguments and types; `where` of each is its key path."""
    problems = _check_dict(recipe, TOP_LEVEL, "")
    if not problems:
        problems += _check_combinations(recipe)
        problems += get_catalog().check_config(recipe)
    return problems


def complete(recipe: dict[str, Any]) -> dict[str, Any]:
    """A copy of a recipe with the default of every plain key filled in."""
    return _fill_defaults(recipe, TOP_LEVEL)


def _fill_defaults(value: dict[str, Any], keys: dict[str, Key]) -> dict[str, Any]:
    filled = copy.deepcopy(value)
    for name, key in keys.items():
        if key.keys is not None and not key.optional:
            filled[name] = _fill_defaults(filled.get(name) or {}, key.keys)
        elif key.keys is not None and filled.get(name) is not None:
            filled[name] = _fill_defaults(filled[name], key.keys)
        elif name not in filled or (filled[name] is None and not fits(None, key.annotation)):
            filled[name] = None if key.default is REQUIRED else copy.deepcopy(key.default)
    return filled


def _check_combinations(recipe: dict[str, Any]) -> list[Problem]:
    """Problems of several keys together."""
    problems = []
    length = recipe.get("train_cfg") or {}
    if (length.get("max_epochs") is None) == (length.get("max_steps") is None):
        problems.append(Problem("Give either max_epochs or max_steps.", "train_cfg"))
    loader = recipe.get("train_dataloader", {})
    if loader.get("sampler") and loader.get("batch_size") is not None:
        problems.append(
            Problem(
                "The sampler decides the batch, so batch_size has no effect.",
                "train_dataloader.batch_size",
                "Remove it.",
            )
        )
    if not loader.get("sampler") and loader.get("batch_size") is None:
        problems.append(Problem("Give a sampler or a batch_size.", "train_dataloader"))
    if recipe.get("load_parts") is not None and not (recipe.get("load_from") and recipe["load_parts"]):
        what = "It names no part." if recipe.get("load_from") else "It has no effect without load_from."
        problems.append(Problem(what, "load_parts", "Remove it."))
    problems += _check_moved_parts(recipe.get("load_parts"))
    problems += _check_prepare(recipe.get("prepare") or [])
    clip = (recipe.get("optim_wrapper") or {}).get("clip_grad") or {}
    if clip.get("max_norm", 1) <= 0:
        problems.append(Problem(f"It must be above 0, not {clip['max_norm']}.", "optim_wrapper.clip_grad.max_norm"))
    for part, settings in ((recipe.get("optim_wrapper") or {}).get("parts") or {}).items():
        for name, value in settings.items():
            if value is not None and value < 0:
                problems.append(Problem(f"It must be at least 0, not {value}.", f"optim_wrapper.parts.{part}.{name}"))
    for path, lowest in _LOWEST.items():
        value = get_value(recipe, path)
        if value is not None and value < lowest:
            problems.append(Problem(f"It must be at least {lowest}, not {value}.", path))
    return problems


def _check_moved_parts(parts: Any) -> list[Problem]:
    """Problems of `load_parts` that says from where each part is taken."""
    if not isinstance(parts, dict):
        return []
    hint = "Name a module of each model, e.g. {'model.vision.image.backbone': 'model.backbone'}."
    names = [name for pair in parts.items() for name in pair if not name.startswith("model.")]
    problems = [Problem(f"'{name}' is no path of a model's part.", "load_parts", hint) for name in names]
    for part in parts:
        if around := [other for other in parts if other != part and is_within(part, other)]:
            message = f"'{part}' is a part of '{around[0]}', which is taken too."
            problems.append(Problem(message, "load_parts", "Remove one of them."))
    return problems


def _check_prepare(entries: list[dict[str, Any]]) -> list[Problem]:
    """Problems of the data that a recipe prepares: names of datasets and of their options."""
    problems = []
    for index, entry in enumerate(entries):
        where = f"prepare.{index}"
        if missing := [name for name in ("dataset", "out") if not isinstance(entry.get(name), str)]:
            problems.append(
                Problem(f"It needs '{missing[0]}', a text.", where, "dict(dataset='glyphs.Glyphs', out=...)")
            )
            continue
        try:
            cls: Any = get_catalog().resolve(entry["dataset"], "dataset", where=f"{where}.dataset")
        except ToolboxError as error:
            problems += error.problems
            continue
        options = [*inspect.signature(cls.prepare).parameters, "dataset"]
        for name in entry.keys() - set(options):
            hint = suggest_nearest(str(name), options) or list_names("Its options", options)
            problems.append(Problem(f"{entry['dataset']} has no option '{name}'.", f"{where}.{name}", hint))
    return problems


_LOWEST = {
    "train_cfg.max_epochs": 1,
    "train_cfg.max_steps": 1,
    "train_cfg.val_interval": 1,
    "train_dataloader.num_workers": 0,
    "train_dataloader.prefetch_factor": 1,
    "train_dataloader.batch_size": 1,
    "val_dataloader.num_workers": 0,
    "val_dataloader.batch_size": 1,
    "val_dataloader.prefetch_factor": 1,
    "test_dataloader.num_workers": 0,
    "test_dataloader.batch_size": 1,
    "test_dataloader.prefetch_factor": 1,
    "optim_wrapper.accumulative_counts": 1,
    "optim_wrapper.grad_cache.chunk_size": 1,
    "optim_wrapper.max_skipped": 0,
    "optim_wrapper.max_skipped_in_a_row": 1,
    "default_hooks.logger.interval": 1,
    "default_hooks.checkpoint.interval": 1,
    "default_hooks.checkpoint.max_keep_ckpts": 1,
    "env_cfg.threads": 1,
    "randomness.seed": 0,
}


def _check_dict(value: Any, keys: dict[str, Key], path: str) -> list[Problem]:
    """A plain dict with fixed keys."""
    if not isinstance(value, dict):
        return [Problem(f"A dict is expected here, not {value!r}.", path)]
    problems = []
    for name, item in value.items():
        where = f"{path}.{name}" if path else name
        if name not in keys:
            hint = suggest_nearest(str(name), keys) or list_names("Keys here", keys)
            if not path and name in (foreign := load_foreign_keys().keys):
                hint = foreign[name].hint
            problems.append(Problem(f"There is no key '{name}'.", where, hint))
        elif item is not None:
            problems += _check_key(item, keys[name], where)
        elif keys[name].default is REQUIRED:
            problems.append(Problem("It must not be None.", where, keys[name].doc))
    for name, key in keys.items():
        if key.default is REQUIRED and name not in value:
            problems.append(Problem(f"The key '{name}' is missing: {key.doc}", path or name))
    if not path:
        missing = [name for name in ("train_dataloader", "optim_wrapper", "train_cfg") if not value.get(name)]
        problems += [Problem(f"The key '{name}' is missing: {keys[name].doc}", name) for name in missing]
    return problems


def _check_key(value: Any, key: Key, where: str) -> list[Problem]:
    if key.kind is not None:
        if key.many and isinstance(value, list):
            return [p for i, item in enumerate(value) for p in _check_component(item, key.kind, f"{where}.{i}")]
        if key.named and isinstance(value, dict) and "type" not in value:
            return [p for name, item in value.items() for p in _check_component(item, key.kind, f"{where}.{name}")]
        return _check_component(value, key.kind, where)
    if key.keys is not None:
        return _check_dict(value, key.keys, where)
    if key.any_key is not None:
        if not isinstance(value, dict):
            return [Problem(f"A dict is expected here, not {value!r}.", where)]
        return [p for name, item in value.items() for p in _check_key(item, key.any_key, f"{where}.{name}")]
    return _check_type(value, key.annotation, where)


def _check_type(value: Any, annotation: Any, where: str) -> list[Problem]:
    if fits(value, annotation):
        return []
    choices = [choice for choice in getattr(annotation, "__args__", ()) if isinstance(choice, str)]
    hint = suggest_nearest(value, choices) if isinstance(value, str) else ""
    return [Problem(f"{describe(annotation)} is expected here, not {value!r}.", where, hint)]


def _check_component(value: Any, kind: str, where: str) -> list[Problem]:
    """A dict with `type`, its arguments, and the components nested in them."""
    if not isinstance(value, dict):
        return [Problem(f"{add_article(kind).capitalize()} is a dict with 'type', not {value!r}.", where)]
    arguments = dict(value)
    fullname = arguments.pop("type", None) or get_catalog().default(kind)
    if not isinstance(fullname, str):
        message = f"The 'type' of this {kind} is missing." if fullname is None else "'type' must be a string."
        fullnames = ", ".join(entry.fullname for entry in get_catalog().find(kind))
        return [Problem(message, where, f"There are: {fullnames}.")]
    try:
        cls = get_catalog().resolve(fullname, kind, where=f"{where}.type")
        accepted = {parameter.name: parameter for parameter in read_parameters(cls)}
    except ToolboxError as error:
        return [*error.problems, *_find_absent_plugins(arguments, where)]
    problems = []
    for name, expected in SLOT_KEYS.get(kind, {}).items():
        item, place = arguments.pop(name, None), f"{where}.{name}"
        if item is not None and isinstance(expected, str):
            problems += _check_component(item, expected, place)
        elif item is not None:
            problems += _check_type(item, expected, place)
    problems += check_names(fullname, accepted, arguments, where)
    for name, item in arguments.items():
        if name in accepted:
            problems += _check_argument(item, accepted[name], f"{where}.{name}")
    return problems


def _find_absent_plugins(value: Any, where: str) -> list[Problem]:
    """Plugins that are not here, below a component of which no argument is known: all are to be installed at once."""
    if isinstance(value, list):
        return [p for i, item in enumerate(value) for p in _find_absent_plugins(item, f"{where}.{i}")]
    if not isinstance(value, dict):
        return []
    problems = []
    if isinstance(fullname := value.get("type"), str) and fullname.count(".") == 1:
        try:
            get_catalog().plugin(fullname.partition(".")[0])
        except ToolboxError as error:
            problems = [Problem(p.message, f"{where}.type", p.hint) for p in error.problems]
    return problems + [p for name, item in value.items() for p in _find_absent_plugins(item, f"{where}.{name}")]


def _check_argument(value: Any, parameter: Parameter, where: str) -> list[Problem]:
    kind = parameter.kind_of_component
    if parameter.annotation is EMPTY:
        return []
    if kind is None:
        return check_plain(value, parameter, where) or _check_type(value, parameter.annotation, where)
    if value is None:
        if parameter.default is None or accepts(parameter.annotation, type(None)):
            return []
        hint = f"{kind.capitalize()}s: {', '.join(entry.fullname for entry in get_catalog().find(kind))}."
        return [Problem("It must not be None.", where, hint)]
    if isinstance(value, str) and parameter.accepts_string:
        return [] if fits(value, parameter.annotation) else _check_component(value, kind, where)
    if isinstance(value, list) and parameter.container == "list":
        return [p for i, item in enumerate(value) for p in _check_component(item, kind, f"{where}.{i}")]
    if parameter.container == "dict" and isinstance(value, dict) and "type" not in value:
        return [p for name, item in value.items() for p in _check_component(item, kind, f"{where}.{name}")]
    return _check_component(value, kind, where)
