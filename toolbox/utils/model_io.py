"""What models read, and what they give as their users get it: checked, float32, on the CPU."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from toolbox.base import Model, l2_normalize
from toolbox.errors import ToolboxError


def get_unit_embeddings(outputs: dict[str, Tensor], ids: Sequence[int | str]) -> Tensor:
    """The embeddings that a model gave, (B, D) float32 of length 1, on the CPU; `ids`: of the items, for messages.

    Raises ToolboxError for outputs without embeddings, and for embeddings that are not finite.
    """
    if "embeddings" not in outputs:
        raise ToolboxError(f"This model gives no embeddings, but {', '.join(outputs) or 'nothing'}.", where="model")
    rows = l2_normalize(outputs["embeddings"].float())
    require_finite(rows, "Embeddings", ids)
    return rows.cpu()


def require_finite(rows: Tensor, what: str, ids: Sequence[int | str]) -> None:
    """Raise ToolboxError naming items whose rows hold NaN or infinity.

    - `what`: the rows are, for the message; `ids`: of the items.
    """
    if bad := torch.nonzero(~rows.isfinite().all(dim=1))[:, 0].tolist():
        listed = ", ".join(str(ids[row]) for row in bad[:3])
        raise ToolboxError(f"{what} hold NaN or infinity: {listed}.", hint="Training diverged: use another checkpoint.")


def list_input_modalities(model: Model) -> dict[str, str]:
    """What each of a model's inputs reads, "image" or "text"; those that only training has are left out."""
    return {name: part.modality for name, part in model.inputs.items() if name not in model.training_only}


def check_reads_images(model: Model) -> None:
    """Raise ToolboxError for a model that reads more than images, or none."""
    modalities = list_input_modalities(model)
    others = sorted(name for name, modality in modalities.items() if modality != "image")
    if others or not modalities:
        raise ToolboxError(f"This model cannot encode images alone: it also reads {', '.join(others) or 'nothing'}.")
