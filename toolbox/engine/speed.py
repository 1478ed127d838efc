"""Switches of `env_cfg` that change how fast a model computes, not what: compiled blocks, channels-last memory."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from toolbox.base import Backbone, Model
from toolbox.errors import Problem, ToolboxError

OPTIONS = {"mode": str, "backend": str, "dynamic": bool}
"""What a dict at `env_cfg.compile` may hold: arguments of torch.compile."""

MODES = ("default", "max-autotune-no-cudagraphs")

GRAPHS = ("reduce-overhead", "max-autotune", "cudagraphs")
"""Modes and a backend of torch.compile that record CUDA graphs. Each block is compiled by itself, and the graphs of
several overwrite each other's outputs before the backward pass has read them."""

VARIANTS = 64
"""Compilations that a block may have before torch.compile gives up and runs it as written: one for each combination of
shape, training or evaluation, and gradient or none, times the number of blocks that differ."""

_HINT = "Train without it: the override env_cfg.compile=False"


def prepare(model: Model, settings: dict[str, Any], device: torch.device) -> None:
    """Apply the switches to a model, before it is spread over processes. Raises ToolboxError where nothing compiles.

    - `settings`: the recipe's `env_cfg`; `device`: where the model will be.
    """
    if settings["channels_last"]:
        use_channels_last(model)
    if settings["compile"]:
        compile_blocks(model, settings["compile"], device)


def problems(settings: dict[str, Any]) -> list[Problem]:
    """What is wrong with the switches of a recipe's `env_cfg`."""
    where, options = "env_cfg.compile", settings["compile"]
    problems = []
    if settings["channels_last"] and settings["parallel"]["mode"] == "fsdp":
        hint = "Use env_cfg.parallel.mode=ddp, or remove channels_last."
        problems.append(Problem("Weights that are cut up cannot be channels-last.", "env_cfg.channels_last", hint))
    if not isinstance(options, dict):
        return problems
    for name, value in options.items():
        if name not in OPTIONS:
            problems.append(
                Problem(f"There is no key '{name}'.", f"{where}.{name}", f"Keys here: {', '.join(OPTIONS)}.")
            )
        elif not isinstance(value, OPTIONS[name]):
            problems.append(Problem(f"{OPTIONS[name].__name__} is expected here, not {value!r}.", f"{where}.{name}"))
    if problems:
        return problems
    backend = options.get("backend", "inductor")
    for key in ("mode", "backend"):
        if options.get(key) in GRAPHS:
            message = f"'{options[key]}' records CUDA graphs, which several compiled blocks overwrite for each other."
            problems.append(Problem(message, f"{where}.{key}", "Use mode='max-autotune-no-cudagraphs', or no mode."))
    if problems:
        return problems
    if backend not in (known := torch.compiler.list_backends(())):
        problems.append(
            Problem(f"torch.compile has no backend '{backend}'.", f"{where}.backend", f"There are: {', '.join(known)}.")
        )
    if "mode" in options and options["mode"] not in MODES:
        hint = f"There are: {', '.join(MODES)}."
        problems.append(Problem(f"torch.compile has no mode '{options['mode']}'.", f"{where}.mode", hint))
    elif "mode" in options and backend != "inductor":
        problems.append(Problem(f"The backend '{backend}' has no modes.", f"{where}.mode", "Remove the key."))
    return problems


def notes(model: Model, settings: dict[str, Any]) -> list[str]:
    """What a user should know of the switches: whether channels-last memory has an effect."""
    if not settings["channels_last"] or any(_convolutions(backbone) for backbone in backbones(model)):
        return []
    return [
        "env_cfg.channels_last has next to no effect: no backbone has convolutions in its blocks, and a patch "
        "embedding alone gains nothing."
    ]


def backbones(model: nn.Module) -> list[Backbone]:
    """Every backbone in a model, copies that it made included."""
    return [module for module in model.modules() if isinstance(module, Backbone)]


def compile_blocks(model: Model, setting: bool | dict[str, Any], device: torch.device) -> None:
    """Let torch.compile translate every block of every backbone at its first call, in place; names stay.

    - `setting`: True, or arguments of torch.compile: "mode", "backend", "dynamic". Shapes of images are compiled as
      they come, those of text (whose batches differ in length) as variables, unless "dynamic" says otherwise.

    A shape that is a number in compiled code makes a run repeat bit for bit: what came before has no influence on it.
    """
    options = {"backend": "inductor", **(setting if isinstance(setting, dict) else {})}
    _try(options, device)
    blocks = [(block, backbone) for backbone in backbones(model) for block in backbone.layers()]
    limits = torch._dynamo.config  # counted over all blocks of one class, and 8 only: the rest would silently run eager
    limits.recompile_limit = max(limits.recompile_limit, VARIANTS + 4 * len(blocks))
    limits.accumulated_recompile_limit = max(limits.accumulated_recompile_limit, 2 * limits.recompile_limit)
    for block, backbone in blocks:
        block.compile(**{"dynamic": backbone.modality == "text"} | options)


def _try(options: dict[str, Any], device: torch.device) -> None:
    """Compile something tiny, so that a missing compiler is found before the run and not by its traceback."""
    try:
        torch.compile(lambda x: (x + 1).relu().sum(), **options)(torch.ones(8, device=device))
    except Exception as error:
        raise _refusal(error) from error


@contextmanager
def explained() -> Iterator[None]:
    """Within, what torch.compile makes of a block that it cannot translate becomes a ToolboxError."""
    try:
        yield
    except Exception as error:
        if type(error).__module__.startswith(("torch._dynamo", "torch._inductor")):
            raise _refusal(error) from error
        raise


def _refusal(error: Exception) -> ToolboxError:
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    known = {
        "C++ compiler": "There is no C++ compiler, which torch.compile needs on a CPU.",
        "Python.h": "The headers of Python are missing, which torch.compile needs.",
        "riton": "Triton is missing or does not work here, and torch.compile needs it on a GPU.",
    }
    what = next((text for sign, text in known.items() if any(sign in line for line in lines)), None)
    cause = next((line for line in lines if not line.endswith("raised:")), type(error).__name__)
    hint = f"{_HINT}, or install what is missing (a compiler: g++; Triton comes with torch for Linux and CUDA)"
    return ToolboxError(
        what or f"torch.compile failed: {type(error).__name__}: {cause[:300]}",
        where="env_cfg.compile",
        hint=f"{hint}." if what else f"{_HINT}, or look where it fails: env_cfg.compile=dict(backend='aot_eager').",
    )


def use_channels_last(model: Model) -> None:
    """Keep the convolutions of all backbones, and the images that they are given, in torch.channels_last."""
    for backbone in backbones(model):
        backbone.to(memory_format=torch.channels_last)
        if backbone.modality == "image":
            backbone.register_forward_pre_hook(_images_channels_last)


def _images_channels_last(backbone: nn.Module, arguments: tuple[Any, ...]) -> tuple[Any, ...]:
    return tuple(
        value.contiguous(memory_format=torch.channels_last) if isinstance(value, Tensor) and value.ndim == 4 else value
        for value in arguments
    )


def _convolutions(backbone: Backbone) -> bool:
    """Whether there are convolutions over images inside its blocks."""
    return any(isinstance(module, nn.Conv2d) for block in backbone.layers() for module in block.modules())
