"""Training one backbone to embed images, the model of retrieval recipes."""

from __future__ import annotations

from typing import Literal, get_args

import torch
from torch import Tensor

from toolbox.base import Backbone, Batch, Head, Loss, Pool, Tower
from toolbox.plugin import Problem
from toolbox.utils.pool import make_pool
from toolbox.utils.stored_embeddings import StoredEmbeddings
from toolbox.utils.tower_model import TowerModel

Retrieve = Literal["embeddings", "features"]


class Embedder(TowerModel):
    """backbone -> pool -> head -> embedding, trained by a loss over the batch.

    - `backbone`: reads `batch.inputs["image"]`.
    - `pool`: a pool, or the mode of `core.Pool` ("cls", "mean", "cls+mean", "gem", "last", "tokens").
    - `head`: from the pooled features to the embedding; None leaves the pooled features as they are.
    - `loss`: what is minimised, over unnormalised embeddings and the labels; None for a model that is only
      evaluated. Its parameters are the part `criterion`.
    - `cross_view`: with several views of an item in the batch, whether the first views are compared with the
      others only, as in InfoNCE on pairs. False compares all rows among themselves. Without labels it takes
      exactly two views.
    - `retrieve`: what `predict` gives once the loss has read the head's output: "embeddings" are that output,
      "features" the pooled features before the head, which then only training needs, as in SimCLR.
    - `teacher`: a backbone that stays frozen, whose embeddings a distilling loss reads. It sees the same view of an
      image at its own size. Training only: a checkpoint is used without it.
    - `teacher_pool`: how its tokens are pooled, as `pool`.
    - `teacher_file`: instead of a live teacher, embeddings stored by `tools/embed.py`, found by the items' ids.

    `predict` returns {"embeddings": (B, E) float32 rows of length 1}; `baseline` the same of the pooled features
    without the head, (B, P), and so does `predict` where these are retrieved. Where the pool keeps tokens, "tokens"
    (B, N, E) are added, each of length 1 (padding: 0), and an embedding is the direction of their sum. Raises
    ValueError where a batch does not fit these settings.
    """

    training_only = frozenset({"teacher", "teacher_file"})

    def __init__(
        self,
        backbone: Backbone,
        pool: Pool | str = "cls",
        head: Head | None = None,
        loss: Loss | None = None,
        cross_view: bool = False,
        teacher: Backbone | None = None,
        teacher_pool: Pool | str = "cls",
        teacher_file: str | None = None,
        retrieve: Retrieve = "embeddings",
    ):
        super().__init__(backbone, pool, head, loss)
        if retrieve not in get_args(Retrieve):
            raise ValueError(f"retrieve={retrieve!r} does not exist. Try one of {', '.join(get_args(Retrieve))}.")
        self.retrieve = retrieve
        self.cross_view = cross_view
        self.teacher, self.teacher_file = teacher, teacher_file
        self.teacher_pool = make_pool(teacher_pool)
        if teacher is not None and teacher_file is not None:
            raise ValueError("a model has one teacher: give teacher or teacher_file")
        if teacher is not None:
            teacher.freeze()
        self._stored: StoredEmbeddings | None = None

    @property
    def inputs(self) -> dict[str, Backbone]:
        return super().inputs | ({} if self.teacher is None else {"teacher": self.teacher})

    def towers(self) -> dict[str, Tower]:
        taught = {} if self.teacher is None else {"teacher": Tower(self.teacher, self.teacher_pool)}
        return super().towers() | taught

    def check(self) -> list[Problem]:
        if found := self.check_loss("losses.SupCon"):
            return found
        name = type(self.criterion).__name__
        if self.criterion.reads_logits:
            found.append(
                Problem(
                    f"{name} compares logits with labels, and this model gives embeddings.",
                    "loss",
                    "Use classification.Classifier, or a loss such as losses.SupCon.",
                )
            )
        if self.criterion.reads_tokens and not self.pool.keeps_tokens:
            found.append(
                Problem(
                    f"{name} compares tokens, and this pool gives one vector an item.", "pool", "Set pool='tokens'."
                )
            )
        if self.pool.keeps_tokens and not self.criterion.reads_tokens:
            found.append(
                Problem(
                    f"{name} compares one vector an item, and this pool keeps tokens.",
                    "loss",
                    "Use losses.MaxSim, or pool='cls'.",
                )
            )
        taught = self.teacher is not None or self.teacher_file is not None
        if self.criterion.needs_teacher and not taught:
            found.append(
                Problem(
                    f"{name} compares with a teacher, and there is none.",
                    "loss",
                    "Set model.teacher to a backbone, or model.teacher_file.",
                )
            )
        if taught and not self.criterion.needs_teacher:
            found.append(
                Problem(
                    f"{name} never looks at the teacher.",
                    "teacher" if self.teacher else "teacher_file",
                    "Add losses.Distillation to a losses.Sum, or remove the teacher.",
                )
            )
        if self.teacher is not None and self.teacher.tune is not None:
            found.append(Problem("A teacher stays frozen.", "teacher.tune", "Remove the key."))
        if self.teacher_file is not None:
            try:
                self._stored = StoredEmbeddings(self.teacher_file)
            except (OSError, ValueError) as error:
                found.append(Problem(str(error), "teacher_file"))
        if self.teacher is not None and self.teacher_pool.keeps_tokens and self.criterion.needs_teacher:
            found.append(
                Problem(
                    f"{name} compares with one vector an item, and the teacher's pool keeps tokens.",
                    "teacher_pool",
                    "Set teacher_pool='cls'.",
                )
            )
        return found or self._check_teacher()

    def _check_teacher(self) -> list[Problem]:
        """Whether the loss can do with the widths of student and teacher."""
        if self.teacher is not None:
            width = self.teacher_pool.dim(self.teacher.dim)
        elif self._stored is not None:
            width = self._stored.embeddings.shape[1]
        else:
            return []
        try:
            self.criterion.check_teacher(self.out_dim, width)
        except ValueError as error:
            return [Problem(f"{error}.", "loss")]
        return []

    def encode(self, batch: Batch) -> dict[str, Tensor]:
        found = {"embeddings": self._embed(batch)}
        if self.teacher is not None:
            with torch.no_grad():
                found["teacher"] = self.pool_features(batch, "teacher")
        return found

    def compute_loss(self, representations: dict[str, Tensor], batch: Batch) -> dict[str, Tensor]:
        criterion = self.require_loss()
        embeddings, teacher = representations["embeddings"], representations.get("teacher")
        own, labels = batch.views["image"], batch.labels
        views = own * batch.blocks
        labels = None if labels is None else labels.repeat(own)
        if self.teacher_file is not None:
            teacher = self._stored_rows(batch.ids).to(embeddings.device).repeat(own, 1)
        if self.cross_view and views < 2:
            raise ValueError(
                "cross_view=True compares two views of an item, and this batch has one: "
                "use the sampler retrieval.Pairs, an augment with views=2, or cross_view=False"
            )
        if not self.cross_view:
            # item by item, so that the rows of several processes follow each other as those of one do, which a memory
            # of past rows depends on
            embeddings, labels, teacher = (_by_item(rows, views) for rows in (embeddings, labels, teacher))
            return {"loss": criterion(embeddings, labels, teacher=teacher)}
        if labels is None and views > 2:
            raise ValueError(f"cross_view=True without labels takes exactly 2 views, and this batch has {views}")
        count = len(embeddings) // views

        def cut(rows: Tensor | None) -> tuple[Tensor | None, Tensor | None]:
            return (None, None) if rows is None else (rows[:count], rows[count:])

        (first, others), (label, ref_labels), (taught, ref_teacher) = cut(embeddings), cut(labels), cut(teacher)
        value = criterion(
            first, label, ref_embeddings=others, ref_labels=ref_labels, teacher=taught, ref_teacher=ref_teacher
        )
        return {"loss": value}

    @property
    def predicts_through_head(self) -> bool:
        return self.head is not None and self.retrieve == "embeddings"

    def predict(self, batch: Batch) -> dict[str, Tensor]:
        return self.normalize(self._embed(batch) if self.predicts_through_head else self.pool_features(batch))

    def _embed(self, batch: Batch) -> Tensor:
        pooled = self.pool_features(batch)
        if self.head is None:
            return pooled
        embeddings = self.head(pooled)
        if self.pool.keeps_tokens:  # padding stays padding, whatever the head's bias
            embeddings = embeddings * pooled.any(dim=-1, keepdim=True)
        return embeddings

    def _stored_rows(self, ids: list[int | str]) -> Tensor:
        if self._stored is None:
            self._stored = StoredEmbeddings(self.teacher_file)
        return self._stored.rows(ids)


def _by_item(rows: Tensor | None, views: int) -> Tensor | None:
    """(V * B, ...), every item's first view before any second, as (B * V, ...), an item's views together."""
    if rows is None or views == 1:
        return rows
    return rows.unflatten(0, (views, -1)).transpose(0, 1).flatten(0, 1)
