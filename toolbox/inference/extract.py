"""Make the stores of a recipe without training: what `tools/extract.py` does."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch

from toolbox.base import SPLITS, Dataset
from toolbox.engine.assemble import build_model
from toolbox.engine.checkpoint.start import open_start
from toolbox.engine.console import Console, NullConsole
from toolbox.engine.device import choose_device, set_threads
from toolbox.engine.distributed.context import SINGLE_PROCESS, DistributedContext
from toolbox.engine.evaluation.evaluator import Evaluator
from toolbox.engine.feature_extraction.cacheable import list_cacheable
from toolbox.engine.feature_extraction.feature_cache import FeatureCache
from toolbox.engine.precision import Precision, eval_precision
from toolbox.engine.settings import Settings
from toolbox.errors import ToolboxError
from toolbox.registry import build


def extract(
    recipe: dict[str, Any],
    splits: Sequence[str] | None = None,
    *,
    mend: bool = False,
    console: Console | None = None,
    distributed: DistributedContext = SINGLE_PROCESS,
) -> dict[str, Any]:
    """Find or compute the features of a recipe's data; returns how many items were computed and found, and where.

    - `recipe`: complete and validated, with `features`.
    - `splits`: of "train", "val" and "test"; default: all that the recipe has.
    - `mend`: read everything against its checksums; what is damaged or could not be read is computed again.

    Raises ToolboxError with what is wrong with the data or the model.
    """
    settings, console = Settings(recipe), (console or Console()) if distributed.is_main else NullConsole()
    chosen = list(splits or [name for name in SPLITS if recipe[f"{name}_dataloader"]])
    if absent := [name for name in chosen if not recipe[f"{name}_dataloader"]]:
        raise ToolboxError(f"The recipe has no {absent[0]}_dataloader.", where="splits")
    device = choose_device(settings("env_cfg.device"), distributed.rank_info)
    set_threads(settings("env_cfg.threads"), distributed.rank_info.local_world_size)
    distributed.start(device)
    training: Dataset = build(settings("train_dataloader.dataset"), "dataset", where="train_dataloader.dataset")
    targets = {name: Evaluator.of(recipe, name) for name in chosen if name != "train"}
    problems = [problem.with_prefix("train_dataloader.dataset") for problem in training.check()]
    problems += [problem for target in targets.values() for problem in target.problems()]
    if problems:
        raise ToolboxError.from_problems(problems)
    classes = None if training.classes is None else len(training.classes)
    model = build_model(recipe, seed=settings("randomness.seed"), classes=classes, checkpoint=open_start(recipe))
    if not list_cacheable(model):
        raise ToolboxError(
            "No tower of this model stays the same while it trains.",
            where="features",
            hint="Freeze one: tune=dict(mode='frozen') on a backbone.",
        )
    model.to(torch.device(str(device)))
    precision = Precision(settings("optim_wrapper.precision"), device)
    judged = eval_precision(recipe, device)
    feature_cache = FeatureCache(
        recipe, model, device, precision, eval_precision=judged, distributed=distributed, console=console, mend=mend
    )
    feature_cache.fill(training if "train" in chosen else None, settings("train_dataloader"), list(targets.values()))
    return feature_cache.results()
