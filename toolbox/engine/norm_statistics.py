"""Statistics of batch norms for weights that no step has had: averages of weights, and mixes with pretrained ones."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from contextlib import closing, contextmanager
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from toolbox.base import Batch
from toolbox.engine.data.loader import ready
from toolbox.engine.device import random_state, set_random_state
from toolbox.engine.parts import modules_on_path, training_norms

if TYPE_CHECKING:
    from toolbox.engine.setup import RunSetup

BATCHES = 32
"""How many training batches statistics are estimated from, at most."""


class NormStatistics:
    """The running means and variances of those batch norms of a model that take them from training batches.

    - `model`: tuned.
    """

    def __init__(self, model: nn.Module) -> None:
        self.model = model
        self.norms = {path: norm for path, norm in training_norms(model).items() if norm.track_running_stats}

    def tensors(self) -> dict[str, Tensor]:
        """The statistics, by their names in the model."""
        return {name: buffer for path, norm in self.norms.items() for name, buffer in norm.named_buffers(path)}

    @torch.no_grad()
    def estimate(self, predict: Callable[[Batch], object], batches: Iterable[Batch]) -> None:
        """Set them to their means over `batches`, as torch.optim.swa_utils.update_bn does, without dropout.

        - `predict`: calls the model. Of several processes each has its share of a batch, and all must call this.
        """
        before = {name: buffer.clone() for name, buffer in self.tensors().items()}
        momenta = {path: norm.momentum for path, norm in self.norms.items()}
        with self._collecting():
            for norm in self.norms.values():
                norm.reset_running_stats()
                norm.momentum = None  # equal weights for all batches
            try:
                for batch in batches:
                    predict(batch)
            finally:
                for path, norm in self.norms.items():
                    norm.momentum = momenta[path]
        for path, norm in self.norms.items():
            if not norm.num_batches_tracked:  # `predict` does not come by here
                for name, buffer in norm.named_buffers():
                    buffer.copy_(before[f"{path}.{name}"])

    @contextmanager
    def _collecting(self) -> Iterator[None]:
        """Within, these norms look at batches, and all else is in evaluation mode."""
        modes = {module: module.training for module in self.model.modules()}
        self.model.eval()
        for path in self.norms:
            *owners, norm = modules_on_path(self.model, path)
            norm.train()
            for owner in owners:
                if getattr(owner, "gathers_rows", False):  # it lets its norm see all rows
                    owner.train()
        try:
            yield
        finally:
            for module, mode in modes.items():
                module.training = mode


def estimate_norm_statistics(setup: RunSetup) -> None:
    """Give a run's batch norms the statistics of the weights that its model holds, from the run's first batches."""
    if not setup.norm_statistics.norms:
        return

    def predict(batch: Batch) -> None:
        if all(items for (items,) in setup.distributed.all_gather_ints(len(batch))):
            with setup.precision.autocast():
                setup.parallel.module(ready(batch, setup.training_inputs, setup.torch_device), "predict")

    last = min(BATCHES, setup.length.batches(setup.length.steps))
    random = random_state(setup.device)
    with closing(setup.batches(0, last)) as stream:
        setup.norm_statistics.estimate(predict, stream)
    set_random_state(setup.device, random)
