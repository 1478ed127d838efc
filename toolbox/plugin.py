"""The names that a plugin imports to declare itself. Light on purpose: no torch, no numpy, nothing heavy.

A plugin is a module named by one entry point of the group `toolbox.v1`; the entry point's name is the
plugin's namespace. The module implements the hooks below with `@hookimpl`:

    from toolbox.plugin import Component, hookimpl

    @hookimpl
    def toolbox_components():
        return [Component("loss", "Cosine", "my_package.cosine:Cosine", "pulls pairs together")]
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import pluggy

from toolbox.errors import Problem, ToolboxError, format_command

__all__ = [
    "GROUP",
    "KINDS",
    "Command",
    "Component",
    "Device",
    "Kind",
    "Problem",
    "ToolboxError",
    "format_command",
    "hookimpl",
    "hookspec",
]

GROUP = "toolbox.v1"  # the entry-point group; its number is the version of this interface

KINDS = (
    "model",
    "backbone",
    "quantize",
    "tune",
    "pool",
    "head",
    "loss",
    "dataset",
    "sampler",
    "augment",
    "mix",
    "metric",
    "optimizer",
    "schedule",
    "hook",
)

hookspec = pluggy.HookspecMarker("toolbox")
hookimpl = pluggy.HookimplMarker("toolbox")


@dataclass(frozen=True)
class Component:
    """A name in a recipe and the class that it stands for; the class is imported on first use.

    - `kind`: one of `KINDS`, or a `Kind` that a plugin declares.
    - `name`: the part after the dot in `namespace.Name`.
    - `target`: `"module:Class"`.
    - `summary`: one line for `tools/list_components.py`.
    - `requires`: importable top-level modules beyond the plugin's own dependencies, e.g. `("peft",)`.
    - `default`: whether a dict without `type` means this component where its kind is expected; the plugin that declares
      the kind says so, of one component.
    """

    kind: str
    name: str
    target: str
    summary: str
    requires: tuple[str, ...] = ()
    default: bool = False


@dataclass(frozen=True)
class Kind:
    """A kind of component that a plugin adds to those of `KINDS`; slots annotated with its class take such components.

    - `name`: lower case, as in `Component.kind`: "merger".
    - `target`: `"module:Class"`, the class that every component of this kind inherits from: an abstract one, or one
      that is a component itself.
    - `summary`: one line that says what such a component is for.
    """

    name: str
    target: str
    summary: str


@dataclass(frozen=True)
class Command:
    """A sub-command of the console command; its module is imported when it runs.

    - `name`: what the user types, lower case: "mine_negatives".
    - `target`: `"module:function"`; the function takes the list of arguments and returns the exit code: 0 done, 1 it
      failed, 2 the request was wrong. A ToolboxError that it raises is printed, with exit code 2.
    - `summary`: one line for `--help`.
    """

    name: str
    target: str
    summary: str


@dataclass(frozen=True)
class Device:
    """A device as the engine sees it; everything else comes from `torch.get_device_module(type)`.

    - `type`: torch's device type: "cpu", "cuda", "npu" ...
    - `backend`: the torch.distributed backend of this device: "gloo", "nccl", "hccl" ...
    - `index`: which of several, None for torch's current one.
    - `precisions`: what autocast can do there, of "bf16", "fp16", "fp32".
    - `fused_optimizer`: whether torch's fused optimizers run there.
    """

    type: str
    backend: str
    index: int | None = None
    precisions: tuple[str, ...] = ("fp32",)
    fused_optimizer: bool = False

    def __str__(self) -> str:
        return self.type if self.index is None else f"{self.type}:{self.index}"


@hookspec
def toolbox_components() -> list[Component]:
    """The components of this plugin."""
    return []


@hookspec
def toolbox_kinds() -> list[Kind]:
    """Kinds of components that this plugin adds; a name belongs to one plugin."""
    return []


@hookspec
def toolbox_commands() -> list[Command]:
    """Sub-commands of the console command; a name belongs to one plugin."""
    return []


@hookspec(firstresult=True)
def toolbox_device(requested: str) -> Device | None:
    """The device for `requested` ("auto", "cpu", "cuda:1", ...), or None; the first answer wins."""
    return None


@hookspec
def toolbox_check_config(config: dict, dry_run: Any) -> list[Problem]:
    """What this plugin finds wrong in a whole recipe.

    An implementation that takes `config` alone is called before anything is built. One that takes `dry_run` too is
    called once the recipe was made on torch's meta device: it has `model`, `datasets` and `evaluators` by split,
    `sampler`, `optimizer`, `device` and `settings` (a value by key path); each may be None where it cannot be made.
    """
    return []


@hookspec
def toolbox_config_dirs() -> list[str]:
    """Folders of recipes that this plugin ships, for `tools/train.py namespace:recipe`."""
    return []


@hookspec
def toolbox_foreign_keys() -> list[str]:
    """TOML files that translate keys and arguments of other tools: `toolbox.registry.foreign_keys`."""
    return []
