"""The result of `Model.export`: the lines of Python that use its files."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any


@dataclass
class ExportedModel:
    """Lines of Python that use what `Model.export` wrote, without this toolbox.

        def export(self, folder):
            self.net.save_pretrained(folder)
            return ExportedModel(
                library="transformers", imports=["from transformers import AutoModel"],
                load=["model = AutoModel.from_pretrained(folder, trust_remote_code=False).eval()"],
                outputs=['outputs = {"embeddings": model(inputs["image"]).pooler_output}'],
                usage=['pixels = ...', 'embedding = model(pixels).pooler_output'])

    They stand in the README of the folder, and `load` and `outputs` are run to compare.

    - `library`: whose format it is; `imports`: the import lines that the others need.
    - `load`: from `folder`, a string, to `model`, in evaluation mode.
    - `outputs`: from `model` and `inputs`, {name: what the model's input reads}, to `outputs`, {name: tensor}: those of
      `Model.predict`, or some of them.
    - `usage`: from values of the user's own to an answer, for the README alone; default: `outputs`.
    - `inputs`: what is compared, finished inputs of a few items on the CPU; default: random images.
    - `notes`: sentences on what the library cannot express, and on the licence of the weights.
    """

    library: str
    imports: list[str]
    load: list[str]
    outputs: list[str]
    usage: list[str] = field(default_factory=list)
    inputs: dict[str, Any] | None = None
    notes: list[str] = field(default_factory=list)
