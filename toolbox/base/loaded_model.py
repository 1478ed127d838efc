"""A model ready for use, with the methods that its users call: what `toolbox.load` returns."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any, Literal

from torch import Tensor

from toolbox.base.dataset import Dataset
from toolbox.base.model import Model
from toolbox.plugin import Device


@dataclass(eq=False, repr=False, kw_only=True)
class LoadedModel:
    """A model with its weights in place. A subclass adds the methods that its users call.

        class Scorer(LoadedModel):
            def score(self, images):
                return torch.cat([outputs["value"] for outputs in self.run(ImageList(images))]).cpu()

    The model names that class by `Model.user_class`; default: `toolbox.utils.encoder.Encoder`.

    - `model`: in evaluation mode, on `device`; `recipe`: what it was built from.
    - `device`, `precision`: where and how it computes; `precision.autocast()` is the context of a call of the model.
    - `compute`: the engine's function that `run` calls.
    - `description`: what it is, for people.
    - `mode`: "predict", or "baseline" for its backbone alone, without a head.
    - `classes`: the names of the classes that it was trained on, None where it has none, or nobody wrote them.
    - `step`: of its checkpoint, None for a backbone as it comes.
    - `identity`: step, files and frozen weights of its checkpoint, with their checksums; empty without one.
    """

    model: Model
    recipe: dict[str, Any]
    device: Device
    precision: Any
    compute: Callable[..., Iterator[dict[str, Tensor]]]
    description: str
    mode: str = "predict"
    classes: list[str] | None = None
    step: int | None = None
    identity: dict[str, Any] = field(default_factory=dict)

    def run(
        self,
        dataset: Dataset,
        *,
        batch_size: int = 64,
        progress: bool = False,
        modality: Literal["image", "text"] | None = None,
    ) -> Iterator[dict[str, Tensor]]:
        """The model's outputs for each batch of a dataset, in its order, on `device`, without gradients.

        - `dataset`: its items hold what the model's inputs read, e.g. {"image": a PIL image}.
        - `batch_size`: items at a time. The last bits of a result depend on it.
        - `progress`: show a bar.
        - `modality`: give the model its inputs of one modality alone (`Model.reads_modalities_alone`).

        Raises ToolboxError for a `batch_size` below 1, and what reading an item raises.
        """
        return self.compute(self, dataset, batch_size=batch_size, progress=progress, modality=modality)

    def describe(self) -> dict[str, Any]:
        """The facts that `repr` prints, in order; None is left out."""
        return {
            "model": type(self.model).__name__,
            "step": self.step,
            "classes": None if self.classes is None else len(self.classes),
            "device": str(self.device),
            "precision": self.precision.name,
        }

    def __repr__(self) -> str:
        facts = ", ".join(f"{name}={value}" for name, value in self.describe().items() if value is not None)
        return f"<{type(self).__name__} {self.description}: {facts}>"
