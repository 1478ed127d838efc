"""What models read, and what they give as their users get it: checked, float32, on the CPU."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal, get_args

import torch
from torch import Tensor

from toolbox.base import Model, l2_normalize
from toolbox.errors import ToolboxError

Modality = Literal["image", "text"]


def get_unit_embeddings(
    outputs: dict[str, Tensor], ids: Sequence[int | str], *, modality: Modality = "image"
) -> Tensor:
    """The embeddings that a model gave, (B, D) float32 of length 1, on the CPU.

    - `ids`: of the items, for messages.
    - `modality`: of texts a model gives "text_embeddings", or "embeddings" where it reads nothing else.

    Raises ToolboxError for outputs without embeddings, and for embeddings that are not finite.
    """
    rows = find_unit_embeddings(outputs, modality)
    if rows is None:
        name = "embeddings" if modality == "image" else "text_embeddings"
        raise ToolboxError(f"This model gives no {name}, but {', '.join(outputs) or 'nothing'}.", where="model")
    require_finite(rows, "Embeddings", ids)
    return rows.cpu()


def find_unit_embeddings(outputs: dict[str, Tensor], modality: Modality) -> Tensor | None:
    """The embeddings of a modality among outputs, (B, D) float32 of length 1 where they are; None without any."""
    names = ("embeddings",) if modality == "image" else ("text_embeddings", "embeddings")
    values = next((outputs[name] for name in names if name in outputs), None)
    return None if values is None else l2_normalize(values.float())


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


def check_reads_alone(model: Model, modality: Modality) -> None:
    """Raise ToolboxError for a model that reads nothing of a modality, or cannot be given that alone."""
    read = set(list_input_modalities(model).values())
    if modality not in get_args(Modality):
        raise ToolboxError(f"There is no modality {modality!r}.", hint=f"Try {' or '.join(get_args(Modality))}.")
    if modality not in read:
        others = " and ".join(f"{other}s" for other in sorted(read)) or "nothing"
        raise ToolboxError(f"This model cannot encode {modality}s: it reads {others}.", where="model")
    if len(read) > 1 and not model.reads_modalities_alone:
        others = " and ".join(f"{other}s" for other in sorted(read - {modality}))
        raise ToolboxError(f"This model cannot encode {modality}s alone: it also reads {others}.", where="model")
