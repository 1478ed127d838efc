"""Several losses at once."""

from __future__ import annotations

from toolbox.base import Loss
from toolbox_losses.parts import CombinedLoss, check_loss_object


class Sum(CombinedLoss):
    """The weighted sum of losses over the same embeddings.

        loss=dict(
            type='losses.Sum',
            losses=[dict(type='losses.SupCon'), dict(type='losses.Distillation')],
            weights=[1, 0.5],
        )

    - `losses`: one or more; what one of them needs (labels, a teacher) the sum needs.
    - `weights`: a number, 0 or more, for each; None for 1 each.

    Their parameters are the parts `model.criterion.losses.0` and so on. Raises ValueError without losses, for weights
    that do not fit, or when some losses read tokens and others one vector.
    """

    def __init__(self, losses: list[Loss], weights: list[float] | None = None):
        if not isinstance(losses, list | tuple) or not losses:
            raise ValueError("losses must be a list with one loss or more, e.g. [dict(type='losses.SupCon')]")
        for index, loss in enumerate(losses):
            check_loss_object(loss, f"losses[{index}]")
        if len({id(loss) for loss in losses}) < len(losses):
            raise ValueError("a loss stands twice in losses: build it twice, or raise its weight")
        super().__init__(losses, weights, "losses")
