"""Embeddings of past batches as further candidates."""

from __future__ import annotations

import torch
from torch import Tensor

from toolbox.base import Loss
from toolbox_losses.pairs import PairLoss, leave_out
from toolbox_losses.parts import check_loss_object, list_leaves


class CrossBatchMemory(Loss):
    """A pair loss whose candidates are the batch and the embeddings of past batches, for many more negatives.

    The anchors are the batch's embeddings, and only they get a gradient: as in the paper candidates are constants,
    those of this batch too. Self pairs are left out. An image that was drawn before is in the memory as any other of
    its label, so its older embedding is a positive. Source: Wang et al., "Cross-Batch Memory for Embedding Learning",
    2020, algorithm 1.

    - `loss`: any loss of this plugin that compares pairs: `losses.SupCon`, InfoNCE, Triplet, MultiSimilarity, Circle,
      RecallAtK, CoSENT, SigLIP, or a `losses.Sum` or `losses.Matryoshka` of these.
    - `size`: how many past embeddings are kept, the newest ones. They drift while a model learns, so the older
      they are the less they help.
    - `warmup`: so many first batches fill the memory without looking at it, while embeddings change fast.

    A batch enters the memory after its loss is computed, in training mode only, and once also where it passes the
    model in chunks. The memory is saved and resumed with the other weights, and is the same in every process. Needs
    labels. Raises ValueError for a size or a warmup that makes no sense, for a loss that does not compare pairs one by
    one, or that needs a teacher or tokens, and with a second view (`cross_view=True`): without `cross_view` all views
    are one batch.
    """

    memory: Tensor | None
    memory_labels: Tensor
    remembered: Tensor
    batches: Tensor

    def __init__(self, loss: Loss, size: int = 1024, warmup: int = 0):
        super().__init__()
        check_loss_object(loss, "loss")
        if size < 1:
            raise ValueError(f"size is a number of embeddings, 1 or more, not {size}: try 1024")
        if warmup < 0:
            raise ValueError(f"warmup is a number of batches, 0 or more, not {warmup}")
        if loss.needs_teacher or loss.reads_tokens:
            what = "a teacher's embeddings" if loss.needs_teacher else "sets of tokens"
            raise ValueError(
                f"{type(loss).__name__} needs {what}, which the memory does not keep: add it in a losses.Sum beside "
                "losses.CrossBatchMemory, or use it without a memory"
            )
        if any(isinstance(part, CrossBatchMemory) for part in loss.modules()):
            raise ValueError("a memory inside a memory keeps the same embeddings twice: give one a larger size")
        # one that has a `compute` of its own may not look at which pairs are left out
        others = {type(part).__name__ for part in list_leaves(loss) if type(part).compute is not PairLoss.compute}
        if others:
            raise ValueError(
                f"{' or '.join(sorted(others))} does not compare pairs one by one, so an embedding would be its own "
                "positive in the memory: use a loss such as losses.SupCon here, and add others in a losses.Sum beside "
                "this one"
            )
        self.loss, self.size, self.warmup = loss, int(size), int(warmup)
        self.register_buffer("memory", None)

    def connect(self, dim: int, classes: int | None = None) -> None:
        self.loss.connect(dim, classes)
        self.register_buffer("memory", torch.zeros(self.size, dim))
        self.register_buffer("memory_labels", torch.zeros(self.size, dtype=torch.long))
        self.register_buffer("remembered", torch.zeros((), dtype=torch.long))
        self.register_buffer("batches", torch.zeros((), dtype=torch.long))

    def compute(
        self, embeddings: Tensor, labels: Tensor, ref_embeddings: Tensor | None, ref_labels: Tensor | None
    ) -> Tensor:
        if ref_embeddings is not None:
            raise ValueError(
                "losses.CrossBatchMemory compares a batch with past ones and takes no second view: "
                "set model.cross_view=False, so that all views form one batch"
            )
        memory = self.memory
        if memory is None:
            raise ValueError("CrossBatchMemory has no memory yet: call connect(dim) before the first batch")
        if embeddings.shape[1] != memory.shape[1]:
            raise ValueError(
                f"CrossBatchMemory was connected to embeddings of width {memory.shape[1]}, and these have "
                f"{embeddings.shape[1]}"
            )
        # Masks, not slices: how full the memory is stays a tensor, and nothing waits for the device.
        numbers = torch.arange(self.size, device=embeddings.device)
        absent = (numbers >= self.remembered) | (self.batches < self.warmup)
        self_pairs = torch.eye(len(embeddings), dtype=torch.bool, device=embeddings.device)
        refs = torch.cat([embeddings.detach(), memory.to(embeddings.dtype)])
        ref_labels = torch.cat([labels, self.memory_labels])
        with leave_out(torch.cat([self_pairs, absent.expand(len(embeddings), -1)], dim=1)):
            value = self.loss.compute(embeddings, labels, refs, ref_labels)
        if self.training:
            self._remember(memory, embeddings, labels)
        return value

    @torch.no_grad()
    def _remember(self, memory: Tensor, embeddings: Tensor, labels: Tensor) -> None:
        """Overwrite the oldest rows; of a batch larger than the memory its last rows stay."""
        count = min(len(embeddings), self.size)
        numbers = torch.arange(len(embeddings) - count, len(embeddings), device=embeddings.device)
        places = (self.remembered + numbers) % self.size
        memory.index_copy_(0, places, embeddings[-count:].to(memory.dtype))
        self.memory_labels.index_copy_(0, places, labels[-count:].to(self.memory_labels.dtype))
        self.remembered += len(embeddings)
        self.batches += 1
