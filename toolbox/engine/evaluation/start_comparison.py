"""Whether training has made a model worse than it was."""

from __future__ import annotations

import math
from typing import Any

from toolbox.base.metric import is_better
from toolbox.engine.console import digits


def worse_than_start(
    start: dict[str, float] | None, best: dict[str, Any] | None, better: dict[str, str], recipe: dict[str, Any]
) -> str | None:
    """What to tell the user where the best checkpoint is worse than the model was before its first step.

    - `start`: the validation numbers of step 0, None where they are not known; `best`: the best checkpoint's.
    - `better`: "greater" or "less" for each number; `recipe`: the run's, whose settings are named.
    """
    if not start or not best or best["metric"] not in start:
        return None
    name, before, after = best["metric"], start[best["metric"]], best["value"]
    if before is None or not math.isfinite(before):
        return None
    if not is_better(before, after, better.get(name)):
        return None
    rate = recipe["optim_wrapper"]["optimizer"].get("lr")
    lower = f" optim_wrapper.optimizer.lr={rate / 10:g}" if isinstance(rate, int | float) else ""
    return (
        f"The best checkpoint, of step {best['step']}, is worse than the model was at the start: {name} "
        f"{digits(after)}, at step 0 {digits(before)}. What helps most often: a lower learning rate{lower}; training "
        "less of the backbone, model.backbone.tune.mode='lora', 'last' or 'frozen'; batch norms that keep their "
        "statistics; larger batches, more data or gentler augmentation."
    )
