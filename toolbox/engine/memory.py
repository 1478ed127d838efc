"""How much memory a step needs, from a run of it on torch's meta device: nothing is allocated or computed."""

from __future__ import annotations

import weakref
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves, tree_map

from toolbox.base import Batch, Loss, Model, PooledBackbone
from toolbox.engine.data.texts import make_example_batch
from toolbox.engine.grad_cache import chunks
from toolbox.engine.precision import DTYPES

_IN_HALF = ("linear", "conv1d", "conv2d", "scaled_dot_product_attention")
_IN_FULL = ("layer_norm", "group_norm", "softmax", "log_softmax", "normalize")
_PRODUCTS = ("matmul", "bmm", "baddbmm", "einsum")
"""What autocast computes in the lower precision and what it keeps in float32 on GPUs, as far as encoders use it."""


class Peak(TorchDispatchMode):
    """Counts the bytes of the storages that operations inside it make, as long as they live."""

    def __init__(self) -> None:
        super().__init__()
        self.now = self.peak = 0
        self._alive: dict[int, int] = {}

    def __torch_dispatch__(self, operation, types, args=(), kwargs=None):
        result = operation(*args, **(kwargs or {}))
        for value in tree_leaves(result):
            if isinstance(value, Tensor):
                self._count(value.untyped_storage())
        return result

    def leave_out(self, tensor: Tensor) -> None:
        """Do not count what shares this tensor's storage."""
        self._alive.setdefault(tensor.untyped_storage()._cdata, 0)

    def _count(self, storage: torch.UntypedStorage) -> None:
        key = storage._cdata
        if key not in self._alive:
            self._alive[key] = storage.nbytes()
            self.now += self._alive[key]
            self.peak = max(self.peak, self.now)
            weakref.finalize(storage, self._free, key)

    def _free(self, key: int) -> None:
        self.now -= self._alive.pop(key, 0)


class FusedAttention(torch.autograd.Function):
    """What fused attention keeps: queries, keys, values, the result and one number a row, but no N x N matrix."""

    @staticmethod
    def forward(ctx: Any, query: Tensor, key: Tensor, value: Tensor) -> Tensor:
        result = query.new_empty(*query.shape[:-1], value.shape[-1])
        ctx.save_for_backward(query, key, value, result, query.new_empty(query.shape[:-1], dtype=torch.float32))
        return result

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        query, key, value = ctx.saved_tensors[:3]
        return torch.empty_like(query), torch.empty_like(key), torch.empty_like(value)


@contextmanager
def as_on_a_gpu(dtype: torch.dtype | None) -> Iterator[None]:
    """Fused attention and, with a `dtype`, the casts of autocast: the meta device has neither.

    Replaces functions of torch.nn.functional, as a mode would not reach what a checkpoint computes again.
    """

    def casting(function: Callable, target: torch.dtype) -> Callable:
        return lambda *args, **kwargs: function(*_cast(args, target), **_cast(kwargs, target))

    functional, attention = nn.functional, "scaled_dot_product_attention"
    replaced: dict[tuple[Any, str], Callable] = {
        (functional, attention): lambda query, key, value, *_, **__: FusedAttention.apply(query, key, value)
    }
    if dtype is not None:
        for names, target in ((_IN_HALF, dtype), (_IN_FULL, torch.float32)):
            for name in names:
                function = replaced.get((functional, name), getattr(functional, name))
                replaced[functional, name] = casting(function, target)
        replaced[Tensor, "__matmul__"] = casting(Tensor.__matmul__, dtype)
        replaced |= {(torch, name): casting(getattr(torch, name), dtype) for name in _PRODUCTS}
    before = {(owner, name): getattr(owner, name) for owner, name in replaced}
    try:
        for (owner, name), function in replaced.items():
            setattr(owner, name, function)
        yield
    finally:
        for (owner, name), function in before.items():
            setattr(owner, name, function)


def _cast(value: Any, dtype: torch.dtype) -> Any:
    return tree_map(lambda x: x.to(dtype) if isinstance(x, Tensor) and x.is_floating_point() else x, value)


def step_memory(
    model: Model,
    rows: dict[str, int],
    precision: str,
    chunk_size: int | None,
    stored: Mapping[str, PooledBackbone] | None = None,
) -> tuple[dict[str, int], list[str]]:
    """({what: bytes that one step takes}, names of trainable parameters that no gradient reaches).

    Counted are parameters, the optimizer's state (two values a trained one), inputs, and the peak of activations and
    gradients together. The loss of the embeddings is not, nor do parameters of losses count as unreached.

    - `model`: on torch's meta device, tuned.
    - `rows`: of each input; `precision`: of the forward pass.
    - `chunk_size`: of GradCache, None without it.
    - `stored`: the towers of inputs that are stored features.

    Raises RuntimeError, ValueError or TypeError when the parts of the model do not fit together, NotImplementedError
    when values would be needed.
    """
    model.train()
    stored = stored or {}
    inputs = {
        name: torch.empty(rows[name], tower.pool.dim(tower.backbone.dim), device="meta")
        for name, tower in stored.items()
    }
    for name, preprocess in model.preprocess().items():
        if name not in stored:
            inputs[name] = preprocess.example(rows[name])
    values = [value for value in tree_leaves(inputs) if isinstance(value, Tensor)]
    part = next(chunks(inputs, chunk_size)) if chunk_size else inputs
    with Peak() as peak, as_on_a_gpu(DTYPES.get(precision)):
        for tensor in (*model.parameters(), *model.buffers(), *values):
            peak.leave_out(tensor)
        outputs = _forward(model, part, sorted(stored))
        learning = [value for value in outputs.values() if value.requires_grad]
        if learning:
            torch.autograd.backward(learning, [torch.ones_like(value) for value in learning])
        peak_bytes = peak.peak
    of_losses = {id(p) for module in model.modules() if isinstance(module, Loss) for p in module.parameters()}
    idle = [
        name
        for name, parameter in model.named_parameters()
        if parameter.requires_grad and parameter.grad is None and id(parameter) not in of_losses
    ]
    model.zero_grad(set_to_none=True)
    trained = sum(parameter.nbytes for parameter in model.parameters() if parameter.requires_grad)
    return {
        "parameters": sum(parameter.nbytes for parameter in model.parameters()),
        "optimizer": 2 * trained,
        "inputs": sum(value.nbytes for value in values),
        "activations and gradients": peak_bytes,
    }, idle if learning else []


def _forward(model: Model, inputs: dict[str, Tensor], stored: list[str]) -> dict[str, Tensor]:
    if type(model).encode is not Model.encode:
        return model(Batch(inputs=inputs, stored=stored), "encode")
    return model(make_example_batch(model, inputs, stored=stored), "predict")
