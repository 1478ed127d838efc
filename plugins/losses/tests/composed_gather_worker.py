"""One process of the gather test of composed losses: python composed_gather_worker.py RANK FOLDER."""

from __future__ import annotations

import sys
from pathlib import Path

import gather_worker
import torch
from toolbox_losses.distillation import Distillation
from toolbox_losses.matryoshka import Matryoshka
from toolbox_losses.memory import CrossBatchMemory
from toolbox_losses.siglip import SigLIP
from toolbox_losses.sum import Sum
from toolbox_losses.supcon import SupCon

DIM, STEPS = 8, 3


def gradients(x: torch.Tensor, second: torch.Tensor, labels: torch.Tensor, rows: slice) -> dict[str, torch.Tensor]:
    """The gradient of every loss, and of their parameters, with respect to one shared weight."""
    found = {}
    teacher, ref_teacher = x.roll(1, 1)[:, :5], second.roll(1, 1)[:, :5]

    def weight():
        return torch.linspace(-1, 1, x.shape[1] * DIM, dtype=x.dtype).sin().view(-1, DIM).requires_grad_()

    taught = Sum([SupCon(), Distillation(temperature=0.2)], [1, 0.5])
    scaled = Matryoshka(SigLIP(), [8, 3], [0.5, 1]).double()
    for name, loss in (("taught", taught), ("matryoshka", scaled)):
        for mode in ("single", "cross", "paired"):
            shared, labelled = weight(), mode != "paired"
            more = {"teacher": teacher[rows]} if loss.needs_teacher else {}
            if mode != "single":
                more |= {"ref_embeddings": second[rows] @ shared, "ref_labels": labels[rows] if labelled else None}
                more |= {"ref_teacher": ref_teacher[rows]} if loss.needs_teacher else {}
            loss(x[rows] @ shared, labels[rows] if labelled else None, **more).backward()
            found[f"{name}_{mode}"] = shared.grad
    found["scale"] = scaled.losses[1].log_scale.grad

    loss = CrossBatchMemory(SupCon(), size=40)
    loss.connect(DIM)
    loss.double()
    for step in range(STEPS):
        shared = weight()
        loss(x.roll(step, 1)[rows] @ shared, labels[rows]).backward()
        found[f"memory_{step}"] = shared.grad
    found["remembered"] = loss.memory.clone()
    return found


if __name__ == "__main__":
    gather_worker.main(int(sys.argv[1]), Path(sys.argv[2]), gradients)
