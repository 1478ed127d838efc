"""The README of an exported folder: where it is from, and the lines that use it."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from toolbox.base import ExportedBackbone


@dataclass
class ExportedPart:
    """One exported backbone.

    - `path`: its name in the model; `folder`: where it is below the README, "." for beside it.
    - `adapted`: whether it is a base and an adapter.
    - `embedding`: lines from its `tokens`, or of texts from `pooled`, to the embedding; none where there are none.
    """

    path: str
    folder: str
    exported: ExportedBackbone
    adapted: bool
    embedding: list[str] = field(default_factory=list)

    def code(self, *, with_data: bool = True, named: bool = False) -> list[str]:
        """Lines from images or texts to `tokens` or `pooled` and, where there is one, to the embedding.

        - `named`: whether there is a classes.json, for lines from `logits` to `answers`.
        - `with_data`: False leaves out what is encoded, for `root`, the README's folder, and `pixels` or `texts` that
          are given.
        """
        exported, place, embedding = self.exported, "" if self.folder == "." else f"/{self.folder}", self.embedding
        with_images = with_data and not exported.texts
        imports = ["import torch", *exported.imports, *["from PIL import Image"] * with_images]
        if self.adapted:
            imports.append("from peft import PeftModel")
        if embedding:
            imports.append("import torch.nn.functional as F")
            imports += ["from safetensors.torch import load_file"] * any("head[" in line for line in embedding)
        lines = [*sorted(set(imports), key=lambda line: (line.startswith("from "), line.lower())), ""]
        data = 'images = [Image.open("picture.jpg").convert("RGB")]' if with_images else 'texts = ["a red apple"]'
        lines += ['root = "."  # this folder', data] * with_data
        lines.append(f'folder = f"{{root}}{place}/base"' if self.adapted else f'folder = f"{{root}}{place}"')
        lines += exported.load
        if self.adapted:
            lines.append(
                f'model = PeftModel.from_pretrained(model, f"{{root}}{place}/adapter").get_base_model().eval()'
            )
        lines += exported.pixels if with_images else []
        before, lines = lines, [*exported.tokens, *exported.texts]
        if embedding:
            lines += [f"prefix = {exported.prefix}"] * any("prefix" in line for line in embedding)
            lines += ['head = load_file(f"{root}/head.safetensors")'] * any("head[" in line for line in embedding)
            lines += embedding
        classifies = any(line.startswith("logits = ") for line in lines)
        lines += ["probabilities = logits.softmax(dim=1)"] * classifies
        after = [
            'with open(f"{root}/classes.json", encoding="utf-8") as file:',
            "    classes = json.load(file)",
            "answers = [classes[place] for place in probabilities.argmax(dim=1).tolist()]",
        ]
        inside = [*before, "with torch.no_grad():", *(f"    {line}" for line in lines)]
        return ["import json", *inside, *after] if classifies and named else inside


def write_readme(
    folder: Path,
    parts: list[ExportedPart],
    origin: dict[str, Any],
    *,
    why_not: str,
    head: list[str],
    onnx: bool,
    classes: list[str] | None = None,
    predictor: str = "",
) -> None:
    """Write README.md.

    - `origin`: of the record; `why_not`: why no embedding is computed, if none is.
    - `head`: names in head.safetensors; `onnx`: whether there is a model.onnx.
    - `classes`: the names in classes.json; `predictor`: what of the model the logits are of, where it has a choice.
    """
    images, texts = (any(bool(part.exported.texts) == kind for part in parts) for kind in (False, True))
    title = "Encoders of images and texts" if images and texts else "A text encoder" if texts else "An image encoder"
    text = [
        f"# {title}, exported",
        f"Trained with vision-encoder-toolbox; exported from {origin['checkpoint']}, step {origin['step']}.",
    ]
    for part in parts:
        text += _write_section(part, classes is not None)
    if predictor:
        text.append(f"The classes are told by {predictor}.")
    if why_not and not onnx:
        text.append(f"The embedding is not computed above: {why_not}. `--onnx` exports the whole model.")
    if head:
        what = "encoder" if len(parts) == 1 else "encoders"
        text.append(f"head.safetensors holds what is outside the {what}: {', '.join(f'`{name}`' for name in head)}.")
    if classes is not None:
        text.append(f"classes.json holds the names of the {len(classes)} classes, in the order of the logits.")
    if onnx:
        where = " The names of the classes are in its metadata, as JSON under `classes`." if classes is not None else ""
        text.append(
            "model.onnx is the whole model, from normalized pixels, (B, 3, H, W), to what it predicts, for any B:\n\n"
            "```python\nimport onnxruntime\n\n"
            'session = onnxruntime.InferenceSession("model.onnx", providers=["CPUExecutionProvider"])\n'
            "names = [output.name for output in session.get_outputs()]\n"
            "outputs = dict(zip(names, session.run(None, {session.get_inputs()[0].name: pixels.numpy()})))\n```" + where
        )
    (folder / "README.md").write_text("\n\n".join(text) + "\n", encoding="utf-8")


def _write_section(part: ExportedPart, named: bool) -> list[str]:
    exported, text, embedding = part.exported, [], part.embedding
    if part.folder != ".":
        text.append(f"## {part.folder}")
    if part.adapted:
        base = f"`{exported.hub}` on the Hub" if exported.hub else "the folder `base`"
        text.append(f"An adapter (LoRA) of peft in the folder `adapter`, for the weights in {base}.")
    if exported.texts:
        ends = any(line.startswith("embedding = ") for line in [*exported.texts, *embedding])
        gives = (
            "`embedding` is the toolbox's, of length 1" if ends else "`pooled` is the encoder's own vector of a text"
        )
        text.append(f"Loaded by {exported.library} alone; {gives}.")
        text.append("```python\n" + "\n".join(part.code()) + "\n```")
        return text + exported.notes
    gives = "`embedding` is the toolbox's, of length 1." if embedding else "`tokens` are the toolbox's."
    if any(line.startswith("logits = ") for line in embedding):
        gives += " `logits`, (B, C), are the classifier's, one a class of the training data in their order."
    first = "is" if exported.prefix == 1 else "are"
    text.append(
        f"Loaded by {exported.library} alone; {gives} Of `tokens`, (B, N, D), the first {exported.prefix} {first} for "
        f"the whole image (CLS or pooled output, then registers), the others for its patches, row by row."
    )
    text.append("```python\n" + "\n".join(part.code(named=named)) + "\n```")
    return text + exported.notes
