"""The whole model in one ONNX file, compared with torch by onnxruntime."""

from __future__ import annotations

import io
import json
import warnings
from collections.abc import Callable
from contextlib import redirect_stderr, redirect_stdout
from importlib import import_module
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from toolbox.base import Batch, Model
from toolbox.errors import ToolboxError
from toolbox.exporters.compare import compare
from toolbox.utils.messages import shorten_error

_ONE_FILE = 1_500_000_000  # bytes of tensors; the format's limit is 2 GiB, larger models get model.onnx.data beside it
PACKAGES = ("onnx", "onnxscript", "onnxruntime")


def check_packages() -> None:
    """Raise ToolboxError, with the line that mends it, where a package is absent."""
    for name in PACKAGES:
        try:
            import_module(name)
        except ImportError as error:
            raise ToolboxError(
                f"An export to ONNX needs {name}: {error}.", hint=f"python -m pip install {' '.join(PACKAGES)}"
            ) from error


class Predict(nn.Module):
    """A model's `predict`, from finished inputs to tensors.

    - `inputs`: the names of the model's inputs, in the order of its arguments.
    """

    def __init__(self, model: Model, inputs: list[str]):
        super().__init__()
        self.model, self.inputs = model, inputs

    def forward(self, *values: Tensor) -> dict[str, Tensor]:
        inputs = dict(zip(self.inputs, values, strict=True))
        # without ids: their number would fix the size of the batch
        outputs = self.model(Batch(inputs=inputs, views=dict.fromkeys(inputs, 1)), "predict")
        if self.model.closed_set and "logits" in outputs:  # and not what else a probe gives, of each of its heads
            outputs = {name: outputs[name] for name in ("embeddings", "logits") if name in outputs}
            outputs["probabilities"] = outputs["logits"].softmax(dim=1)
        return outputs


def write(
    model: Model,
    file: Path,
    inputs: dict[str, Tensor],
    log: Callable[[str], None],
    *,
    classes: list[str] | None = None,
) -> dict[str, float]:
    """Write `predict` as `file`, for any number of images; returns the largest differences.

    A classifier gives "probabilities" too.

    - `inputs`: example values for each of the model's inputs; `log`, `classes`: as in `export`.
    """
    check_packages()
    import onnxruntime

    predict = Predict(model, list(inputs)).eval()
    values = tuple(inputs.values())
    with torch.no_grad():
        names = list(predict(*values))
        _translate(predict, values, file, list(inputs), names)
        if classes is not None:
            _add_metadata(file, classes)
        session = onnxruntime.InferenceSession(str(file), providers=["CPUExecutionProvider"])
        differences: dict[str, float] = {}
        for count in (1, 3):  # sizes that it was not traced with
            more = [torch.cat([value, value.flip(0) / 2])[:count] for value in values]
            expected = predict(*more)
            answers = _run_session(session, names, more)
            for name in names:
                what = f"{name} of {count} image{'s' * (count > 1)} by onnxruntime"
                theirs = torch.from_numpy(answers[name])
                differences[f"onnx {name} {count}"] = compare(what, expected[name], theirs, log)
    return differences


def _add_metadata(file: Path, classes: list[str]) -> None:
    """Write the names of classes into the file's own metadata, as JSON, under "classes"."""
    import onnx

    model = onnx.load(str(file), load_external_data=False)
    onnx.helper.set_model_props(model, {"classes": json.dumps(classes)})
    onnx.save(model, str(file))


def _run_session(session: Any, names: list[str], values: list[Tensor]) -> dict[str, Any]:
    fed = {item.name: value.numpy() for item, value in zip(session.get_inputs(), values, strict=True)}
    try:
        return dict(zip(names, session.run(names, fed), strict=True))
    except Exception as error:  # onnxruntime's errors share no base class
        raise ToolboxError(
            f"model.onnx does not take {len(values[0])} images ({shorten_error(error)}).",
            hint="Leave onnx out. A net that reads the size of a batch by len() is fixed to it, by shape[0] not.",
        ) from error


def _translate(predict: Predict, values: tuple[Tensor, ...], file: Path, inputs: list[str], names: list[str]) -> None:
    batch: Any = torch.export.Dim("batch")
    size = sum(tensor.numel() * tensor.element_size() for tensor in predict.state_dict().values())
    try:
        with warnings.catch_warnings(), redirect_stdout(io.StringIO()), redirect_stderr(io.StringIO()):
            warnings.simplefilter("ignore")
            torch.onnx.export(
                predict,
                values,
                str(file),
                dynamo=True,
                input_names=inputs,
                output_names=names,
                verbose=False,
                dynamic_shapes=(tuple({0: batch} for _ in values),),
                external_data=size > _ONE_FILE,
            )
    except Exception as error:  # a model can be untranslatable in many ways
        raise ToolboxError(
            f"torch cannot translate this model to ONNX ({type(error).__name__}: {shorten_error(error)}).",
            hint="Leave onnx out.",
        ) from error
