"""A recipe changed so that it must learn a few items by heart: whether it can learn at all."""

from __future__ import annotations

from typing import Any

from toolbox.config.mmengine_config import Config
from toolbox.errors import ToolboxError

STEPS = 300
"""How long such a run is."""


def limit_to_few_items(config: Config, count: int, name: str) -> None:
    """Change a loaded recipe: it trains for `STEPS` steps on a few training items, and is evaluated on the same.

    - `count`: how many items; `name`: of the recipe, for the run's folder.

    Random views are left out, except several of one item, which a loss may need. Raises ToolboxError for a count below
    2 and for a recipe without training data or metrics.
    """
    if count < 2:
        raise ToolboxError(f"overfit takes a number of items from 2 up, not {count}.")
    loader = config.get("train_dataloader")
    evaluator = config.get("val_evaluator") or config.get("test_evaluator")
    if not loader or not evaluator:
        raise ToolboxError(
            "To see whether items are learned by heart, a recipe needs training data and a metric.",
            where="val_evaluator" if loader else "train_dataloader",
        )
    items = {"type": "core.FewItems", "dataset": loader["dataset"], "count": count}
    changes: dict[str, Any] = {"dataset": items}
    if not _makes_views(loader.get("augment")):
        changes["augment"] = None
    if loader.get("mix") is not None:
        changes["mix"] = None
    if loader.get("batch_size"):
        changes["batch_size"] = min(loader["batch_size"], count)
    config.train_dataloader = dict(loader) | changes
    evaluated = config.get("val_dataloader") or config.get("test_dataloader") or {}
    config.val_dataloader = dict(evaluated) | {"dataset": items}
    config.val_evaluator = evaluator
    config.test_dataloader = config.test_evaluator = None
    config.train_cfg = {"max_steps": STEPS, "val_interval": STEPS}
    config.evaluate_before = config.evaluate_pixels = False
    if not config.get("work_dir"):
        config.work_dir = f"work_dirs/{name}_overfit"


def _makes_views(augment: Any) -> bool:
    """Whether an augment makes several views of an item, or another one for each input."""
    return isinstance(augment, dict) and ("type" not in augment or augment.get("views", 1) > 1)
