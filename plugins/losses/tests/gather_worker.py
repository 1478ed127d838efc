"""One process of the gather test: python gather_worker.py RANK FOLDER. Reads inputs.pt, writes RANK.pt."""

from __future__ import annotations

import sys
from pathlib import Path

import torch
import torch.distributed as dist
from toolbox_losses.clip import CLIP
from toolbox_losses.infonce import InfoNCE
from toolbox_losses.supcon import SupCon
from toolbox_losses.triplet import Triplet

import toolbox.base.loss_rows
from toolbox.base import gather

LOSSES = {
    "supcon": SupCon(),
    "infonce": InfoNCE(symmetric=True),
    "clip": CLIP(),
    "all": Triplet(0.5),
    "hard": Triplet(0.5, "hard", "cosine"),
    "semi": Triplet(0.5, "semi"),
}


def gradients(x: torch.Tensor, second: torch.Tensor, labels: torch.Tensor, rows: slice) -> dict[str, torch.Tensor]:
    """The gradient of every loss with respect to one shared weight, for the given rows of the batch."""
    found = {}
    for name, loss in LOSSES.items():
        for mode in ("single", "cross", "paired"):
            if name == "infonce" and mode == "cross":
                continue
            weight = torch.linspace(-1, 1, x.shape[1] * 8, dtype=x.dtype).sin().view(-1, 8).requires_grad_()
            first, other, own = x[rows] @ weight, second[rows] @ weight, labels[rows]
            if mode == "single":
                value = loss(first, own)
            elif mode == "cross":
                value = loss(first, own, ref_embeddings=other, ref_labels=own.clone())
            else:
                value = loss(first, ref_embeddings=other)
            value.backward()
            found[f"{name}_{mode}"] = weight.grad
    return found


def detached_gather(x: torch.Tensor) -> torch.Tensor:
    """The usual mistake: rows of other processes arrive without gradient."""
    everything = gather(x.detach())
    if not x.requires_grad:
        return everything
    counts = gather(torch.tensor([len(x)])).tolist()
    parts = list(everything.split(counts))
    parts[dist.get_rank()] = x
    return torch.cat(parts)


def main(rank: int, folder: Path, gradients=gradients) -> None:
    inputs = torch.load(folder / "inputs.pt")
    dist.init_process_group("gloo", init_method=f"file://{folder / 'rendezvous'}", rank=rank, world_size=2)
    rows = slice(0, 5) if rank == 0 else slice(5, 16)
    results = {}
    for kind, function in (("right", gather), ("detached", detached_gather)):
        toolbox.base.loss_rows.gather = function
        for name, gradient in gradients(inputs["x"], inputs["second"], inputs["labels"], rows).items():
            dist.all_reduce(gradient)
            results[f"{kind}_{name}"] = gradient / 2
    torch.save(results, folder / f"{rank}.pt")
    dist.destroy_process_group()


if __name__ == "__main__":
    main(int(sys.argv[1]), Path(sys.argv[2]))
