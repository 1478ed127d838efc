"""What recipes of runs say: the facts on top of a page, the set that is evaluated, the keys in which they differ."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

from toolbox.utils.key_paths import flatten

_PLACES = ("root", "name", "file", "path")
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


def list_facts(recipe: Mapping[str, Any], results: Mapping[str, Any]) -> list[tuple[str, str]]:
    """(what, text) of a recipe's encoders, data and start; what it does not say is left out.

    - `recipe`: as its config.py says; `results`: what train_results.json holds, "data" with its counts among it, and
      "chosen", the settings that metrics chose.
    """
    facts = [("encoder", text) for text in dict.fromkeys(_describe_encoder(part) for part in _find_backbones(recipe))]
    facts += [("data", text) for text in _describe_data(recipe, results)]
    if isinstance(recipe.get("load_from"), str):
        facts.append(("started from", recipe["load_from"]))
    if results.get("eval_precision"):
        facts.append(("evaluated in", str(results["eval_precision"])))
    if chosen := results.get("chosen"):
        facts.append(("chosen", ", ".join(f"{name} = {value:g}" for name, value in chosen.items())))
    if results.get("checkpoint"):
        facts.append(("checkpoint", str(results["checkpoint"])))
    return facts


def _find_backbones(value: Any) -> Iterator[Mapping[str, Any]]:
    """The components in slots whose name says backbone, in any depth of a recipe's model."""
    for key, item in value.items() if isinstance(value, Mapping) else ():
        if "backbone" in str(key) and isinstance(item, Mapping) and "type" in item:
            yield item
        elif key == "model" or isinstance(item, Mapping):
            yield from _find_backbones(item)


def _describe_encoder(backbone: Mapping[str, Any]) -> str:
    words = [str(backbone["type"])]
    if backbone.get("name"):
        words.append(str(backbone["name"]))
    tune, quantize = backbone.get("tune"), backbone.get("quantize")
    details = []
    if backbone.get("size"):
        details.append(f"{backbone['size']} px")
    if isinstance(tune, Mapping):
        mode = {"lora": "LoRA", "last": "last blocks trained", "full": "fully trained"}.get(
            tune.get("mode", ""), tune.get("mode", "")
        )
        rank = f", rank {tune['rank']}" if tune.get("mode") == "lora" and tune.get("rank") else ""
        details.append(f"{mode}{rank}")
    if isinstance(quantize, Mapping) and quantize.get("bits"):
        details.append(f"{quantize['bits']} bits")
    return " ".join(words) + (f" ({', '.join(filter(None, details))})" if any(details) else "")


def _describe_data(recipe: Mapping[str, Any], results: Mapping[str, Any]) -> list[str]:
    """A text for each dataset; of one dataset in several splits a single one."""
    counts = results.get("data") or {}
    splits: dict[str, list[str]] = {}
    for name in ("train", "val", "test"):
        dataset = (recipe.get(f"{name}_dataloader") or {}).get("dataset")
        if not isinstance(dataset, Mapping) or "type" not in dataset:
            continue
        place = next((str(dataset[key]) for key in _PLACES if dataset.get(key)), "")
        count = counts.get(name) or {}
        items = f" {count['items']:,}" if isinstance(count.get("items"), int) else ""
        splits.setdefault(f"{dataset['type']} {place}".strip(), []).append(f"{name}{items}")
    return [f"{data} ({', '.join(names)})" for data, names in splits.items()]
