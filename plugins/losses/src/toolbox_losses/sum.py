"""Several losses at once."""

from __future__ import annotations

from torch import Tensor, nn

from toolbox.base import Loss
from toolbox_losses.parts import check_loss_object, check_weights, compute_part, list_losses, take_over_needs


class Sum(Loss):
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
        super().__init__()
        if not isinstance(losses, list | tuple) or not losses:
            raise ValueError("losses must be a list with one loss or more, e.g. [dict(type='losses.SupCon')]")
        for index, loss in enumerate(losses):
            check_loss_object(loss, f"losses[{index}]")
        if len({id(loss) for loss in losses}) < len(losses):
            raise ValueError("a loss stands twice in losses: build it twice, or raise its weight")
        self.losses = nn.ModuleList(losses)
        self.weights = check_weights(weights, len(losses), "losses")
        take_over_needs(self, losses)

    def connect(self, dim: int, classes: int | None = None) -> None:
        for loss in list_losses(self.losses):
            loss.connect(dim, classes)

    def check_teacher(self, dim: int, teacher_dim: int) -> None:
        for loss in list_losses(self.losses):
            loss.check_teacher(dim, teacher_dim)

    def compute(
        self,
        embeddings: Tensor,
        labels: Tensor | None,
        ref_embeddings: Tensor | None,
        ref_labels: Tensor | None,
        teacher: Tensor | None = None,
        ref_teacher: Tensor | None = None,
    ) -> Tensor:
        values = [
            weight * compute_part(loss, embeddings, labels, ref_embeddings, ref_labels, teacher, ref_teacher)
            for loss, weight in zip(list_losses(self.losses), self.weights, strict=True)
        ]
        return sum(values[1:], start=values[0])
