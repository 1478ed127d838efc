"""The batch-norm neck of re-identification."""

from __future__ import annotations

from torch import Tensor, nn

from toolbox.base import Head, gather_rows, plain_torch
from toolbox.errors import ToolboxError


class BNNeck(Head):
    """A batch norm without shift as the last layer (Luo et al. 2019, arXiv:1903.07071), after a linear layer or none.

    - `dim`: width of the embedding, by a linear layer without bias; None normalises the pooled features as they are.

    Loss and retrieval read the same, the normalised output: features spread around the origin, which suits losses on
    angles. (In the paper a triplet loss reads the features before the norm and a classifier those after it.) The
    scale is learned; the shift is frozen at 0, so that classes are not told apart by an offset.

    Over several processes the statistics are those of the whole batch.

    Training needs 2 items or more a batch: ToolboxError for a single one. Raises ValueError for `dim` below 1.
    """

    gathers_rows = True  # the engine looks for it: batch norms that see one process's rows alone are refused

    def __init__(self, dim: int | None = None):
        super().__init__()
        if dim is not None and dim < 1:
            raise ValueError(f"dim={dim} is no width. Try 512, or None for the width of the pooled features.")
        self.dim = dim

    def connect(self, in_dim: int, classes: int | None = None) -> None:
        self.in_dim, self.out_dim = in_dim, self.dim or in_dim
        self.linear = nn.Identity() if self.dim is None else nn.Linear(in_dim, self.dim, bias=False)
        self.norm = nn.BatchNorm1d(self.out_dim)
        self.norm.bias.requires_grad_(False)

    def forward(self, x: Tensor) -> Tensor:
        if x.ndim != 2:
            raise ValueError(
                f"BNNeck normalises one vector an item, (B, {self.in_dim}), not {tuple(x.shape)}: use a pool other "
                "than 'tokens', or core.Projection."
            )
        x = self.linear(x)
        if not self.training:
            return self.norm(x)
        all_rows, local = gather_rows(x)
        if len(all_rows) < 2:
            raise ToolboxError(
                "The statistics of BNNeck need at least 2 items in a training batch, and there is 1.",
                where="train_dataloader",
                hint="Use a larger batch, or leave an incomplete last one out.",
            )
        return self.norm(all_rows)[local]

    def in_plain_torch(self, name: str) -> list[str]:
        linear, norm = f"{name}.linear", f"{name}.norm"
        return plain_torch.write_lines(self.linear, linear) + plain_torch.write_lines(self.norm, norm)
