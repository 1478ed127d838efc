"""A second device for tests, "strict": it computes on the processor and refuses what a real accelerator refuses.

Tensors there wrap one of the processor's (torch's PrivateUse1, renamed; no C++). An operation on one of them and on a
tensor of the processor that has dimensions is an error, as are `.numpy()` and a generator of the processor's; a number
without dimensions may take part, as with CUDA. Random numbers come from a generator of the device's own.
"""

from __future__ import annotations

import threading
from contextlib import nullcontext
from typing import Any

import torch
from torch.utils import _pytree as pytree
from torch.utils._python_dispatch import return_and_correct_aliasing

NAME = "strict"
DEVICE = torch.device("privateuseone", 0)
HERE = DEVICE  # its name once `install` has renamed it

_generator = torch.Generator()
_state = threading.local()
_aten = torch.ops.aten
_CROSSING = {_aten.copy_.default, _aten._to_copy.default, _aten._copy_from.default}
_ALLOCATED = {"now": 0, "peak": 0}


class Mixed(RuntimeError):
    """An operation got tensors of two devices."""


class StrictTensor(torch.Tensor):
    """A tensor of the device; `raw` is the processor's tensor that holds its numbers."""

    @staticmethod
    def __new__(cls, raw: torch.Tensor) -> StrictTensor:
        tensor = torch.Tensor._make_wrapper_subclass(
            cls, raw.shape, strides=raw.stride(), storage_offset=raw.storage_offset(), dtype=raw.dtype, device=HERE
        )
        tensor.raw = raw
        return tensor

    def __repr__(self) -> str:
        return f"{self.raw!r} on {NAME}"

    def tolist(self) -> Any:
        return self.raw.tolist()

    def numpy(self, *, force: bool = False) -> Any:
        if force:
            return self.raw.numpy()
        raise TypeError(f"can't convert {HERE} device type tensor to numpy. Use Tensor.cpu() first.")

    def __array__(self, *_: Any) -> Any:
        return self.numpy()

    @classmethod
    def __torch_dispatch__(cls, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        return run(func, args, kwargs or {})


# without this, torch wraps every result of a torch function again
StrictTensor.__torch_function__ = torch._C._disabled_torch_function_impl


def run(func: Any, args: tuple, kwargs: dict[str, Any]) -> Any:
    """An operation on the wrapped tensors; where any of them is on the device, so are its results."""
    if torch.is_inference_mode_enabled():  # torch cannot make views of wrapped tensors there
        with torch.inference_mode(False), torch.no_grad():
            return run(func, args, kwargs)
    if func is _aten._fused_sdp_choice.default:
        return 0  # the formula; the fused kernels of other devices are chosen by their type
    flat, structure = pytree.tree_flatten((args, kwargs))
    if func not in _CROSSING:
        check(func, flat)
    target = torch.device(kwargs["device"]) if kwargs.get("device") is not None else HERE
    raw_args, raw_kwargs = pytree.tree_unflatten(
        [value.raw if isinstance(value, StrictTensor) else value for value in flat], structure
    )
    if "device" in kwargs:
        raw_kwargs["device"] = torch.device("cpu") if target.type == NAME else target
    raw_kwargs.pop("pin_memory", None)
    with seeded(func, raw_kwargs):
        found = func(*raw_args, **raw_kwargs)
    if func is _aten.copy_.default:
        return args[0]
    if target.type != NAME:
        return found
    wrapped = pytree.tree_map_only(torch.Tensor, StrictTensor, found)
    return return_and_correct_aliasing(func, args, kwargs, wrapped)


def check(func: Any, flat: list[Any]) -> None:
    """Raise for tensors of the processor that have dimensions, and for its generators."""
    joined = func in (_aten.cat.default, _aten.stack.default)  # which take no number of the processor either
    for value in flat:
        if isinstance(value, torch.Tensor) and not isinstance(value, StrictTensor) and (value.ndim or joined):
            raise Mixed(
                f"Expected all tensors to be on the same device, but found at least two devices, {HERE} and "
                f"{value.device}! (when calling {func} with a tensor of shape {tuple(value.shape)})"
            )
        if isinstance(value, torch.Generator):
            raise Mixed(f"Expected a '{NAME}' device type for generator but found '{value.device}' (calling {func})")


def seeded(func: Any, kwargs: dict[str, Any]) -> Any:
    """Within, what is drawn is drawn from the device's generator."""
    if torch.Tag.nondeterministic_seeded not in func.tags:
        return nullcontext()
    if any(argument.name == "generator" for argument in func._schema.arguments):
        kwargs["generator"] = _generator
        return nullcontext()
    return Swapped()


class Swapped:
    """The processor's default generator in the device's state."""

    def __enter__(self) -> None:
        self.kept = torch.default_generator.get_state()
        torch.default_generator.set_state(_generator.get_state())

    def __exit__(self, *_: object) -> None:
        _generator.set_state(torch.default_generator.get_state())
        torch.default_generator.set_state(self.kept)


# ---- what makes tensors from nothing

_FACTORIES = (
    "empty.memory_format",
    "empty_strided",
    "zeros",
    "ones",
    "full",
    "arange",
    "arange.start",
    "arange.start_step",
    "eye",
    "eye.m",
    "linspace",
    "rand",
    "randn",
    "randint",
    "randint.low",
    "randperm",
    "tril_indices",
    "triu_indices",
    "scalar_tensor",
    "_efficientzerotensor",
)


def _factory(name: str) -> Any:
    packet, _, overload = name.partition(".")
    func = getattr(getattr(_aten, packet), overload or "default")

    def make(*args: Any, **kwargs: Any) -> StrictTensor:
        for key in ("device", "pin_memory", "layout"):
            kwargs.pop(key, None)
        with seeded(func, kwargs):
            return StrictTensor(func(*args, device=torch.device("cpu"), **kwargs))

    return make


def _copy_from(source: torch.Tensor, target: torch.Tensor, non_blocking: bool = False) -> torch.Tensor:
    raw = [tensor.raw if isinstance(tensor, StrictTensor) else tensor for tensor in (target, source)]
    raw[0].copy_(raw[1])
    return target


# ---- autocast: as CUDA's lists, so far as vision encoders use them

_LOWER = (
    "linear",
    "matmul",
    "mm",
    "bmm",
    "addmm",
    "baddbmm",
    "addbmm",
    "mv",
    "einsum",
    "convolution",
    "conv2d",
    "conv1d",
    "_convolution",
    "scaled_dot_product_attention",
    "multi_head_attention_forward",
    "prelu",
)
_FLOAT32 = (
    "exp",
    "log",
    "log1p",
    "expm1",
    "pow.Tensor_Scalar",
    "pow.Tensor_Tensor",
    "pow.Scalar",
    "softplus",
    "layer_norm",
    "group_norm",
    "norm.Scalar",
    "norm.ScalarOpt_dim",
    "cosine_similarity",
    "cosine_embedding_loss",
    "nll_loss",
    "mse_loss",
    "kl_div",
    "l1_loss",
    "smooth_l1_loss",
    "cross_entropy_loss",
    "binary_cross_entropy_with_logits",
    "softmax.int",
    "log_softmax.int",
    "sum",
    "sum.dim_IntList",
    "cumsum",
    "prod",
    "logsumexp",
    "cdist",
    "rsqrt",
    "linalg_vector_norm",
    "linalg_matrix_norm",
    "norm.names_ScalarOpt_dim",
)
_AUTOCAST = torch._C.DispatchKeySet(torch._C.DispatchKey.AutocastPrivateUse1)


def _cast(name: str, to: torch.dtype | None) -> Any:
    packet, _, overload = name.partition(".")
    func = getattr(getattr(_aten, packet), overload or "default")

    def call(*args: Any, **kwargs: Any) -> Any:
        kind = to or torch.get_autocast_dtype(NAME)

        def convert(value: torch.Tensor) -> torch.Tensor:
            fits = value.is_floating_point() and value.dtype != torch.float64 and value.device.type == NAME
            return value.to(kind) if fits else value

        with torch._C._ExcludeDispatchKeyGuard(_AUTOCAST):
            if kwargs.get("dtype") is None:
                args, kwargs = pytree.tree_map_only(torch.Tensor, convert, (args, kwargs))
            return func(*args, **kwargs)

    return call


# ---- the module torch.strict, and its registration


class Module:
    """torch.strict: what torch and the engine ask of a device."""

    @staticmethod
    def is_available() -> bool:
        return True

    @staticmethod
    def is_initialized() -> bool:
        return True

    @staticmethod
    def device_count() -> int:
        return 1

    @staticmethod
    def current_device() -> int:
        return 0

    @staticmethod
    def set_device(device: Any) -> None:
        pass

    @staticmethod
    def _is_in_bad_fork() -> bool:
        return False

    @staticmethod
    def manual_seed(seed: int) -> None:
        _generator.manual_seed(seed)

    manual_seed_all = manual_seed

    @staticmethod
    def get_rng_state(device: Any = None) -> torch.Tensor:
        return _generator.get_state()

    @staticmethod
    def set_rng_state(state: torch.Tensor, device: Any = None) -> None:
        if state.device.type != "cpu":
            raise TypeError("expected a torch.ByteTensor of the processor")
        _generator.set_state(state)

    @staticmethod
    def synchronize(device: Any = None) -> None:
        pass

    @staticmethod
    def max_memory_allocated(device: Any = None) -> int:
        return 1 << 20

    @staticmethod
    def memory_allocated(device: Any = None) -> int:
        return 1 << 20

    @staticmethod
    def get_amp_supported_dtype() -> list[torch.dtype]:
        return [torch.bfloat16, torch.float16]


_libraries: list[torch.library.Library] = []


def install() -> None:
    """Make the device known to torch; the first call does."""
    global HERE
    if _libraries:
        return
    from torch.utils.backend_registration import _setup_privateuseone_for_python_backend

    _setup_privateuseone_for_python_backend(rename=NAME, backend_module=Module)
    HERE = torch.device(NAME, 0)
    made = torch.library.Library("aten", "IMPL")
    for name in _FACTORIES:
        made.impl(name, _factory(name), "PrivateUse1")
    every = torch.library.Library("_", "IMPL")
    every.fallback(torch.library.fallthrough_kernel, "AutocastPrivateUse1")
    # where torch has left its Python key aside, as in an assignment to a part of a tensor
    every.fallback(lambda func, *args, **kwargs: run(func, args, kwargs), "PrivateUse1")
    made.impl("_copy_from", _copy_from, "PrivateUse1")
    for names, kind in ((_LOWER, None), (_FLOAT32, torch.float32)):
        for name in names:
            packet, _, overload = name.partition(".")
            if hasattr(getattr(_aten, packet, None), overload or "default"):
                made.impl(name, _cast(name, kind), "AutocastPrivateUse1")
    _libraries.extend((made, every))

    def pin(self: torch.Tensor, *_: Any) -> torch.Tensor:
        if self.device.type != "cpu":
            raise RuntimeError(f"cannot pin a tensor of {self.device}: only those of the processor can be pinned")
        return self.clone()

    torch.Tensor.pin_memory = pin
