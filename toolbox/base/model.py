"""The extension point for a training objective: what is computed from a batch, and what is minimised."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, NamedTuple, final

import torch
from torch import Tensor, nn

from toolbox.base.backbone import Backbone, Preprocess
from toolbox.base.batch import Batch
from toolbox.base.loss import Loss
from toolbox.base.pool import Pool
from toolbox.errors import Problem

if TYPE_CHECKING:
    from toolbox.base.exported_model import ExportedModel


class Tower(NamedTuple):
    """A backbone and the pool behind it: what stands between an input and all that trains, where both are frozen."""

    backbone: Backbone
    pool: Pool

    def __call__(self, value: Any) -> Tensor:
        """What the backbone reads, finished -> the pooled features, (rows, P)."""
        return self.pool(self.backbone(value, layers=self.pool.layers))


class Model(nn.Module, ABC):
    """An objective over one or several backbones. The engine only ever calls the model itself.

        class Regress(Model):
            def __init__(self, backbone: Backbone):
                super().__init__()
                self.backbone = backbone
                self.fc = nn.Linear(backbone.dim, 1)
            @property
            def inputs(self):
                return {"image": self.backbone}
            def loss(self, batch):
                error = self.predict(batch)["value"] - batch.labels
                return {"loss": error.square().mean()}
            def predict(self, batch):
                return {"value": self.fc(self.backbone(batch.inputs["image"]).tokens.mean(1))[:, 0]}

    Its life: `__init__` (structure), `connect` (what depends on the data), then the engine loads each backbone's
    weights and applies its `tune`, then `weights_ready`, then steps.

    - `training_only`: constructor arguments that only training needs, such as a teacher. A model that is loaded to
      encode gets None for them, and inputs of these names are read in training only.
    - `closed_set`: whether it predicts the classes of the training data, so that all data must have the same ones.
    - `fixed_embeddings`: whether the "embeddings" that it predicts do not change in training, as of a frozen backbone.
    - `user_class`: "module:Class" of what `toolbox.load` makes of it, a `LoadedModel`.
    - `reads_mixed`: whether its loss reads `batch.mixed`; only then may a recipe mix images.
    """

    training_only: frozenset[str] = frozenset()
    closed_set: bool = False
    reads_mixed: bool = False
    user_class: str = "toolbox.utils.encoder:Encoder"

    @property
    def fixed_embeddings(self) -> bool:
        return False

    @property
    @abstractmethod
    def inputs(self) -> dict[str, Backbone]:
        """Which backbone reads `batch.inputs[name]`; a backbone may stand under several names.

        The engine loads the weights of these and of every backbone that the recipe describes, applies their `tune`,
        and leaves their frozen pretrained tensors out of checkpoints. Any other part of the model is saved whole,
        trained or not: a moving-average teacher, say.
        """

    def preprocess(self) -> dict[str, Preprocess]:
        """The conversion of each of `inputs`; overridden where one backbone reads several sizes."""
        return {name: backbone.preprocess() for name, backbone in self.inputs.items()}

    def towers(self) -> dict[str, Tower]:
        """Backbone and pool of each input whose pooled features may be stored; a model that names some calls `pooled`.

        A recipe with `features` stores those that are frozen, and batches then bring them instead of the inputs.
        """
        return {}

    @final
    def pooled(self, batch: Batch, name: str = "image") -> Tensor:
        """(rows, P): what the tower `name` makes of its input, or what was stored of it."""
        value = batch.inputs[name]
        return value if name in batch.stored else self.towers()[name](value)

    def lr_factors(self) -> dict[str, float]:
        """Factors on the recipe's learning rate, by module path within the model; the longest path wins.

        A learning rate that the recipe gives a part in `optim_wrapper.parts` is taken as it is.
        """
        return {}

    def loss(self, batch: Batch) -> dict[str, Tensor]:
        """`"loss"` is the scalar to minimise; other scalars are logged beside it.

        Of several processes each sees its share of the batch, and their gradients are averaged: the scalar must be
        that of the whole batch, as a `Loss` computes it; what is averaged here must be gathered first (`gather`).

        Write this, or `represent` and `objective`, which large batches in chunks need (`optim_wrapper.grad_cache`).
        """
        return self.objective(self.represent(batch), batch)

    def represent(self, batch: Batch) -> dict[str, Tensor]:
        """What the objective compares, (rows, ...) each: row i depends on row i of every input and on nothing else.

        Called on chunks of a batch; reads `batch.inputs` only.
        """
        raise NotImplementedError(f"{type(self).__name__} computes its loss in one piece")

    def objective(self, representations: dict[str, Tensor], batch: Batch) -> dict[str, Tensor]:
        """`loss` of a whole batch from what `represent` gave for its rows."""
        raise NotImplementedError(f"{type(self).__name__} computes its loss in one piece")

    @abstractmethod
    def predict(self, batch: Batch) -> dict[str, Tensor]:
        """What metrics read, (B, ...) each."""

    def baseline(self, batch: Batch) -> dict[str, Tensor]:
        """`predict` of the backbone as it came, newly initialised heads left out: the honest "before"."""
        return self.predict(batch)

    @property
    def predicts_through_head(self) -> bool:
        """Whether the embeddings of `predict` come out of a trained head, so that those of `baseline` are others.

        A run then evaluates both after training: features before the head may be the better ones.
        """
        return False

    def in_plain_torch(self) -> list[str]:
        """Lines of Python from `tokens`, (B, N, D), `prefix` and the dict `head` to `embedding`, as `predict` gives it.

        A model whose `predict` gives logits also says how to get `logits`.

        An export's README shows them. `head` holds the model's tensors outside its backbone, by their names here; `F`
        is torch.nn.functional. Raises ValueError where there are none; so does the default.
        """
        raise ValueError(f"{type(self).__name__} does not say what it is in plain torch")

    def export(self, folder: Path) -> ExportedModel:
        """Write the whole model into `folder` in the format of a library that knows it; `ExportedModel` has an example.

        A model that has no such method is exported backbone by backbone, its other tensors beside them. Adapters are in
        the weights already. Raises ValueError, with a sentence, for what the library cannot describe.
        """
        raise ValueError(f"{type(self).__name__} does not write itself: its backbones are exported")

    def prepare_export(self) -> None:
        """Called before `predict` is translated (ONNX): the place to turn choices that lie in tensors into numbers.

        Raises ValueError where it cannot be translated.
        """

    def check(self) -> list[Problem]:
        """What makes it impossible to train this model as it is; called before a run starts."""
        return []

    def connect(self, classes: int | None = None) -> None:
        """Create what depends on the training data; `classes` is its number of classes, None if unlabelled."""

    def weights_ready(self) -> None:
        """Called once, when all pretrained weights are in place: the moment to copy a teacher."""

    def before_step(self, step: int, steps: int) -> None:
        """Called before update `step` of `steps`: the place for schedules of temperatures or momentum."""

    def validated(self, numbers: dict[str, float], classifiers: Sequence[nn.Module] | None = None) -> None:
        """Called after every evaluation on the validation set, before that step is saved: the place to choose by it.

        - `classifiers`: what metrics have fitted to the training set (`Metric.classifier`), where `fixed_embeddings`.

        What it keeps belongs into buffers: they are saved. Of several processes each gets the same numbers.
        """

    def fit_buffers(self, shapes: Mapping[str, torch.Size]) -> None:
        """Called before a checkpoint is loaded: give buffers whose number or size the data decide those `shapes`.

        - `shapes`: of the checkpoint's tensors that are wanted, by their names in `state_dict`.
        """

    @property
    def predictor(self) -> str:
        """What "logits" come from, for people, where a model chooses among several ways: "k-NN, k = 10"; else empty."""
        return ""

    def after_step(self, step: int, steps: int) -> None:
        """Called after update `step`: the place for a teacher's moving average. Overrides call `super()`."""
        for module in self.modules():
            if isinstance(module, Loss):
                module.after_step()

    @final
    def forward(
        self,
        batch: Batch,
        mode: Literal["loss", "predict", "baseline", "represent", "objective"] = "loss",
        representations: dict[str, Tensor] | None = None,
    ) -> dict[str, Tensor]:
        """Dispatch to the method named `mode`, so that wrappers (DDP, FSDP, compile) see every call."""
        if mode not in ("loss", "predict", "baseline", "represent", "objective"):
            raise ValueError(f"mode must be 'loss', 'predict', 'baseline', 'represent' or 'objective', not {mode!r}")
        return self.objective(representations, batch) if mode == "objective" else getattr(self, mode)(batch)
