"""Exports of a model that need no toolbox."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from toolbox.base.exported_model import ExportedModel


class ModelExport:
    """A model that says what it computes in plain torch, or writes itself for a library that knows it whole."""

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
