"""Raw pixels as a model: the floor that a trained model has to beat."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

from torch import Tensor, nn

from toolbox.base import Batch, Hook, Run, l2_normalize
from toolbox.errors import ToolboxError

if TYPE_CHECKING:
    from toolbox.engine.trainer import Trainer


class RawPixels(nn.Module):
    """A model that takes an image's pixels, as the backbone would see them, for its embedding: the floor to beat.

    Of texts alone it gives nothing. Of an input that is a dict it takes the floats of a row for each image, those under
    a name with "pixel" first.
    """

    fixed_embeddings = True
    reads_modalities_alone = True

    def forward(self, batch: Batch, mode: str) -> dict[str, Tensor]:
        if batch.inputs.keys() <= batch.owners.keys():
            return {}
        for name, value in batch.inputs.items():
            rows = len(batch.ids) * batch.views[name]
            parts = value if isinstance(value, Mapping) else {"pixels": value}
            for _, part in sorted(parts.items(), key=lambda item: "pixel" not in str(item[0])):
                if isinstance(part, Tensor) and part.is_floating_point() and part.ndim > 2 and len(part) == rows:
                    return {"embeddings": l2_normalize(part.flatten(1).float())}
        listed = ", ".join(batch.inputs)
        raise ToolboxError(
            f"The model's inputs ({listed}) hold no pixels with a row for each image.",
            where="evaluate_pixels",
            hint="Set evaluate_pixels=False.",
        )


class PixelBaseline(Hook):
    """Evaluates raw pixels on the run's last set, once, as `evaluate_pixels` asks; `trainer` is the run."""

    def __init__(self, trainer: Trainer) -> None:
        self.trainer = trainer

    def before_run(self, run: Run) -> None:
        setup, progress, target = self.trainer.setup, self.trainer.progress, self.trainer.setup.final
        if target is None or progress.before is not None or setup.resume_from is not None:
            return
        run.info(f"Evaluating raw pixels on the {target.name} set ...")
        progress.pixels = self.trainer.evaluator.evaluate_baseline(target, "raw pixels", RawPixels())
