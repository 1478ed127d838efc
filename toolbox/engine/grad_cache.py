"""A large batch in chunks: the gradient of the whole batch with the activations of one chunk.

A first pass without gradients encodes every chunk, the loss of all encodings gives each of them its
gradient, and a second pass carries these on into the model. Random numbers of the first pass are drawn again in the
second, so dropout is the same in both. Gao et al., "Scaling Deep Contrastive Learning Batch Size under Memory Limited
Setup", 2021.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from toolbox.base import Batch, Model
from toolbox.engine.device import random_state, set_random_state
from toolbox.engine.parts import training_norms
from toolbox.engine.precision import Precision
from toolbox.errors import Problem, ToolboxError
from toolbox.plugin import Device


class GradCache:
    """Forward and backward of a batch in chunks.

    - `chunk_size`: rows (views of items) that pass the model together.
    """

    def __init__(self, model: nn.Module, chunk_size: int, precision: Precision, device: Device) -> None:
        self.model, self.chunk_size, self.precision, self.device = model, chunk_size, precision, device

    def count(self, batch: Batch) -> int:
        """How many chunks a batch has. Raises ToolboxError when its inputs differ in rows."""
        return -(-row_count(batch.inputs) // self.chunk_size)

    def __call__(self, batch: Batch, backward: Callable[[Tensor], None], passes: int = 0) -> dict[str, Tensor]:
        """Add the batch's gradients to the parameters; returns the loss and what comes with it.

        - `backward`: is given the loss and scales it and calls its `backward`.
        - `passes`: how many chunks pass the model at least; what the batch lacks is made up by some that count nothing.
        """
        states, parts = [], []
        pieces = list(chunks(batch.inputs, self.chunk_size))
        count = len(pieces)
        pieces += pieces[-1:] * (passes - count)
        with torch.no_grad():
            for chunk in pieces:
                states.append(random_state(self.device))
                parts.append(self._encode(chunk, batch))
        del parts[count:]
        cached = {name: torch.cat([part[name] for part in parts]) for name in parts[0]}
        sizes = [len(next(iter(part.values()))) for part in parts]
        del parts
        for rows in cached.values():
            rows.requires_grad_(rows.is_floating_point())
        with self.precision.autocast():
            outputs = self.model(batch, "compute_loss", cached)
        backward(outputs["loss"])
        outputs = {name: value.detach() for name, value in outputs.items()}
        after = random_state(self.device)
        gradients = {name: rows.grad.split(sizes) for name, rows in cached.items() if rows.grad is not None}
        for number, chunk in enumerate(pieces):
            set_random_state(self.device, states[number])
            again = self._encode(chunk, batch)
            learning = [name for name in gradients if again[name].requires_grad]
            torch.autograd.backward(
                [again[name] for name in learning],
                [gradients[name][number] if number < count else torch.zeros_like(again[name]) for name in learning],
            )
        set_random_state(self.device, after)
        return outputs

    def _encode(self, inputs: dict[str, Any], batch: Batch) -> dict[str, Tensor]:
        with self.precision.autocast():
            return self.model(Batch(inputs=inputs, stored=batch.stored), "encode")


def chunks(inputs: dict[str, Any], size: int) -> Iterator[dict[str, Any]]:
    """Consecutive rows of all inputs, `size` at a time. Raises ToolboxError when inputs differ in rows."""
    rows = row_count(inputs)
    for start in range(0, rows, size):
        yield {name: _rows(value, start, start + size) for name, value in inputs.items()}


def row_count(inputs: dict[str, Any]) -> int:
    """The rows of a batch's inputs. Raises ToolboxError when they differ."""
    counts = {name: len(_first_tensor(value)) for name, value in inputs.items()}
    if len(set(counts.values())) > 1:
        listed = ", ".join(f"{name} {count}" for name, count in counts.items())
        raise ToolboxError(
            f"A batch can be cut into chunks only when its inputs have equally many rows, and they have: {listed}.",
            where="optim_wrapper.grad_cache",
            hint="Remove grad_cache, or give every input the same number of views.",
        )
    return next(iter(counts.values()))


def problems(model: Model) -> list[Problem]:
    """What makes chunks give another gradient than the whole batch; the model is tuned and ready to train."""
    if type(model).encode is Model.encode:
        return [
            Problem(
                f"{type(model).__name__} computes its loss in one piece, which no chunk of a batch can give.",
                "model",
                "Remove optim_wrapper.grad_cache; gradients over several batches: accumulative_counts.",
            )
        ]
    return [
        Problem(
            f"{type(module).__name__} takes its statistics from a chunk instead of the batch, which changes training.",
            f"model.{path}",
            "Use another norm, freeze this part, or set norm_stats='frozen' in its backbone's tune; "
            "or remove optim_wrapper.grad_cache.",
        )
        for path, module in training_norms(model).items()
    ]


def _rows(value: Any, start: int, stop: int) -> Any:
    if isinstance(value, Mapping):
        return {name: _rows(item, start, stop) for name, item in value.items()}
    return value[start:stop]


def _first_tensor(value: Any) -> Tensor:
    return _first_tensor(next(iter(value.values()))) if isinstance(value, Mapping) else value
