"""The extension point for a training objective: what is computed from a batch, and what is minimised."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Literal, final, get_args

from torch import Tensor

from toolbox.base.backbone import Backbone
from toolbox.base.batch import Batch
from toolbox.base.model_export import ModelExport
from toolbox.base.preprocess import Preprocess
from toolbox.base.stored_features import StoredFeatures
from toolbox.base.training_steps import TrainingSteps
from toolbox.base.validation_choice import ValidationChoice
from toolbox.errors import Problem

Mode = Literal["loss", "predict", "baseline", "encode", "compute_loss"]


class Model(TrainingSteps, StoredFeatures, ValidationChoice, ModelExport, ABC):
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
    - `user_class`: "module:Class" of what `toolbox.load` makes of it, a `LoadedModel`.
    - `reads_modalities_alone`: whether `predict` and `baseline` may get the inputs of one modality alone, as those of a
      dual encoder may. They give "embeddings" of images, and "text_embeddings" of texts.
    - `reads_mixed`: whether its loss reads `batch.mixed`; only then may a recipe mix images.
    """

    training_only: frozenset[str] = frozenset()
    closed_set: bool = False
    reads_modalities_alone: bool = False
    reads_mixed: bool = False
    user_class: str = "toolbox.utils.encoder:Encoder"

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

    def loss(self, batch: Batch) -> dict[str, Tensor]:
        """`"loss"` is the scalar to minimise; other scalars are logged beside it.

        Of several processes each sees its share of the batch, and their gradients are averaged: the scalar must be
        that of the whole batch, as a `Loss` computes it; what is averaged here must be gathered first (`gather`).

        Write this, or `encode` and `compute_loss`, which large batches in chunks need (`optim_wrapper.grad_cache`).
        """
        return self.compute_loss(self.encode(batch), batch)

    def encode(self, batch: Batch) -> dict[str, Tensor]:
        """What the objective compares, (rows, ...) each: row i depends on row i of every input and on nothing else.

        Called on chunks of a batch; reads `batch.inputs` only.
        """
        raise NotImplementedError(f"{type(self).__name__} computes its loss in one piece")

    def compute_loss(self, representations: dict[str, Tensor], batch: Batch) -> dict[str, Tensor]:
        """`loss` of a whole batch from what `encode` gave for its rows."""
        raise NotImplementedError(f"{type(self).__name__} computes its loss in one piece")

    @abstractmethod
    def predict(self, batch: Batch) -> dict[str, Tensor]:
        """What metrics read, (B, ...) each; what is of texts has a row for each of them, whose `batch.owners` tells."""

    def baseline(self, batch: Batch) -> dict[str, Tensor]:
        """`predict` of the backbone as it came, newly initialised heads left out: the honest "before"."""
        return self.predict(batch)

    def check(self) -> list[Problem]:
        """What makes it impossible to train this model as it is; called before a run starts."""
        return []

    def connect(self, classes: int | None = None) -> None:
        """Create what depends on the training data; `classes` is its number of classes, None if unlabelled."""

    @final  # type: ignore[misc]  # torch declares `forward` as an attribute
    def forward(
        self, batch: Batch, mode: Mode = "loss", representations: dict[str, Tensor] | None = None
    ) -> dict[str, Tensor]:
        """Dispatch to the method named `mode`, so that wrappers (DDP, FSDP, compile) see every call."""
        if mode not in get_args(Mode):
            raise ValueError(f"mode must be one of {', '.join(map(repr, get_args(Mode)))}, not {mode!r}")
        if mode != "compute_loss":
            return getattr(self, mode)(batch)
        if representations is None:
            raise ValueError("mode 'compute_loss' needs the representations that 'encode' gave for the batch")
        return self.compute_loss(representations, batch)
