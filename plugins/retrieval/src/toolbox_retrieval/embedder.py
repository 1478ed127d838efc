"""The model of retrieval recipes: one backbone, trained to embed images, or texts."""

from __future__ import annotations

from functools import cached_property
from typing import Literal, get_args

import torch
from torch import Tensor

from toolbox.base import Backbone, Batch, Head, Loss, Pool, PooledBackbone
from toolbox.plugin import Problem
from toolbox.utils.pool import make_pool
from toolbox.utils.stored_embeddings import StoredEmbeddings
from toolbox.utils.tower_model import TowerModel

Retrieve = Literal["embeddings", "features"]


class Embedder(TowerModel):
    """backbone -> pool -> head -> embedding, trained by a loss over the batch.

    - `backbone`: reads images, or texts.
    - `pool`: a pool, or the mode of `core.Pool` ("cls", "mean", "cls+mean", "gem", "last", "tokens").
    - `head`: from the pooled features to the embedding; None leaves the pooled features as they are.
    - `loss`: the loss to minimise, over unnormalised embeddings and the labels; None for a model that is only
      evaluated. Its parameters are the part `criterion`.
    - `cross_view`: with several views of an item in the batch, whether the first views are compared with the
      others only, as in InfoNCE on pairs. False compares all rows among themselves. Without labels it takes
      exactly two views.
    - `retrieve`: what `predict` gives, while the loss reads the head's output: "embeddings" are that output,
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

    @cached_property
    def _stored(self) -> StoredEmbeddings | None:
        """The embeddings in `teacher_file`. Raises OSError or ValueError."""
        return None if self.teacher_file is None else StoredEmbeddings(self.teacher_file)

    @property
    def inputs(self) -> dict[str, Backbone]:
        return super().inputs | ({} if self.teacher is None else {"teacher": self.teacher})

    def pooled_backbones(self) -> dict[str, PooledBackbone]:
        teacher = {} if self.teacher is None else {"teacher": PooledBackbone(self.teacher, self.teacher_pool)}
        return super().pooled_backbones() | teacher

    def check(self) -> list[Problem]:
        loss = self.criterion
        if loss is None:
            return self.check_loss("losses.SupCon")
        problems, width = self._check_kinds(loss), None
        try:
            if self.teacher is not None:
                width = self.teacher_pool.dim(self.teacher.dim)
            elif self._stored is not None:
                width = self._stored.embeddings.shape[1]
        except (OSError, ValueError) as error:
            problems.append(Problem(str(error), "teacher_file"))
        try:
            if width is not None and not problems:
                loss.check_teacher(self.out_dim, width)
        except ValueError as error:
            problems.append(Problem(f"{error}.", "loss"))
        return problems

    def _check_kinds(self, loss: Loss) -> list[Problem]:
        """Whether loss, pool and teacher are of the kinds that fit each other."""
        name, teacher = type(loss).__name__, self.teacher
        has_teacher = teacher is not None or self.teacher_file is not None
        reads_tokens, keeps_tokens = loss.reads_tokens, self.pool.keeps_tokens
        rules = (
            (
                loss.reads_logits,
                f"{name} compares logits with labels, and this model gives embeddings.",
                "loss",
                "Use classification.Classifier, or a loss such as losses.SupCon.",
            ),
            (
                reads_tokens and not keeps_tokens,
                f"{name} compares tokens, and this pool gives one vector an item.",
                "pool",
                "Set pool='tokens'.",
            ),
            (
                keeps_tokens and not reads_tokens,
                f"{name} compares one vector an item, and this pool keeps tokens.",
                "loss",
                "Use losses.MaxSim, or pool='cls'.",
            ),
            (
                loss.needs_teacher and not has_teacher,
                f"{name} compares with a teacher, and there is none.",
                "loss",
                "Set model.teacher to a backbone, or model.teacher_file.",
            ),
            (
                has_teacher and not loss.needs_teacher,
                f"{name} never looks at the teacher.",
                "teacher_file" if teacher is None else "teacher",
                "Add losses.Distillation to a losses.Sum, or remove the teacher.",
            ),
            (
                teacher is not None and teacher.tune is not None,
                "A teacher stays frozen.",
                "teacher.tune",
                "Remove the key.",
            ),
            (
                teacher is not None and self.teacher_pool.keeps_tokens and loss.needs_teacher,
                f"{name} compares with one vector an item, and the teacher's pool keeps tokens.",
                "teacher_pool",
                "Set teacher_pool='cls'.",
            ),
        )
        return [Problem(message, key, hint) for broken, message, key, hint in rules if broken]

    def encode(self, batch: Batch) -> dict[str, Tensor]:
        outputs = {"embeddings": self.apply_head(self.pool_features(batch))}
        if self.teacher is not None:
            with torch.no_grad():
                outputs["teacher"] = self.pool_features(batch, "teacher")
        return outputs

    def compute_loss(self, representations: dict[str, Tensor], batch: Batch) -> dict[str, Tensor]:
        criterion = self.require_loss()
        embeddings, teacher = representations["embeddings"], representations.get("teacher")
        augmented, labels = batch.views[self.backbone.modality], batch.labels
        views = augmented * batch.blocks
        labels = None if labels is None else labels.repeat(augmented)
        if self._stored is not None:
            teacher = self._stored.rows(list(batch.ids)).to(embeddings.device).repeat(augmented, 1)
        if self.cross_view and views < 2:
            raise ValueError(
                "cross_view=True compares two views of an item, and this batch has one: "
                "use the sampler retrieval.Pairs, an augment with views=2, or cross_view=False"
            )
        if not self.cross_view:
            # item by item, so that the rows of several processes follow each other as those of one do, which a memory
            # of past rows depends on
            labels = None if labels is None else _order_by_item(labels, views)
            teacher = None if teacher is None else _order_by_item(teacher, views)
            return {"loss": criterion(_order_by_item(embeddings, views), labels, teacher=teacher)}
        if labels is None and views > 2:
            raise ValueError(f"cross_view=True without labels takes exactly 2 views, and this batch has {views}")
        count = len(embeddings) // views

        def cut(rows: Tensor | None) -> tuple[Tensor | None, Tensor | None]:
            return (None, None) if rows is None else (rows[:count], rows[count:])

        (labels, ref_labels), (teacher, ref_teacher) = cut(labels), cut(teacher)
        refs = {"ref_embeddings": embeddings[count:], "ref_labels": ref_labels, "ref_teacher": ref_teacher}
        return {"loss": criterion(embeddings[:count], labels, teacher=teacher, **refs)}

    @property
    def predicts_through_head(self) -> bool:
        return self.head is not None and self.retrieve == "embeddings"

    def predict(self, batch: Batch) -> dict[str, Tensor]:
        pooled = self.pool_features(batch)
        return self.normalize(self.apply_head(pooled) if self.predicts_through_head else pooled)


def _order_by_item(rows: Tensor, views: int) -> Tensor:
    """(V * B, ...), every item's first view before any second, as (B * V, ...), an item's views together."""
    if views == 1:
        return rows
    return rows.unflatten(0, (views, -1)).transpose(0, 1).flatten(0, 1)
