"""One process of the gather test of label losses: python label_gather_worker.py RANK FOLDER, as gather_worker.py."""

from __future__ import annotations

import sys
from pathlib import Path

import gather_worker
import torch
from toolbox_losses.arcface import ArcFace, SubCenterArcFace
from toolbox_losses.circle import Circle
from toolbox_losses.infonce import InfoNCE
from toolbox_losses.multi_similarity import MultiSimilarity
from toolbox_losses.proxy_anchor import ProxyAnchor
from toolbox_losses.recall_at_k import RecallAtK
from toolbox_losses.supcon import SupCon
from toolbox_losses.triplet import Triplet

DIM, CLASSES = 8, 6
PAIRS = {
    "multi_similarity": MultiSimilarity(mine=True),
    "circle": Circle(),
    "recall": RecallAtK(rank_temperature=0.1),
}
NEGATIVES = {
    **PAIRS,
    "supcon": SupCon(),
    "infonce": InfoNCE(symmetric=True, hardest=6),
    "triplet": Triplet(0.5),
}
CLASSIFICATION = {"proxy_anchor": ProxyAnchor(), "arcface": ArcFace(), "sub_centers": SubCenterArcFace()}


def gradients(x: torch.Tensor, second: torch.Tensor, labels: torch.Tensor, rows: slice) -> dict[str, torch.Tensor]:
    """The gradient of every loss with respect to one shared weight, and to its class vectors.

    The explicit negatives are the second views, turned; of two processes the first one has none.
    """
    found = {}
    negatives = second.flip(1)[:0] if rows.start == 0 else second.flip(1)[:7]

    def run(name, loss, mode):
        weight = torch.linspace(-1, 1, x.shape[1] * DIM, dtype=x.dtype).sin().view(-1, DIM).requires_grad_()
        first, other, own = x[rows] @ weight, second[rows] @ weight, labels[rows]
        if mode == "single":
            value = loss(first, own)
        elif mode == "cross":
            value = loss(first, own, ref_embeddings=other, ref_labels=own.clone())
        else:
            value = loss(first, ref_embeddings=torch.cat([other, negatives @ weight]))
        value.backward()
        found[f"{name}_{mode}"] = weight.grad

    for mode in ("single", "cross"):
        for name, loss in PAIRS.items():
            run(name, loss, mode)
        for name, loss in CLASSIFICATION.items():
            torch.manual_seed(0)
            loss.connect(DIM, CLASSES)
            loss.double()
            run(name, loss, mode)
            found[f"{name}_{mode}_vectors"] = next(loss.parameters()).grad
    for name, loss in NEGATIVES.items():
        run(name, loss, "negatives")
    return found


if __name__ == "__main__":
    gather_worker.main(int(sys.argv[1]), Path(sys.argv[2]), gradients)
