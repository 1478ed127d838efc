"""Low-rank adapters (LoRA) inside a backbone, in the format that peft loads on its own."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from copy import copy
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from toolbox.base import Backbone
from toolbox.builtins.linear_layers import find_linear_layers
from toolbox.builtins.quantizing import libraries
from toolbox.builtins.quantizing.quantized_linear import QuantizedLinear

if TYPE_CHECKING:
    from peft import LoraConfig

_NAME = "default"
_PREFIX = "base_model.model."  # how peft's files name the module that an adapter is loaded on


class Adapter:
    """The adapter of one backbone; `inject` puts it at `backbone.adapter`. Holds no parameters of its own.

    - `config`: peft's description of the adapter.
    """

    def __init__(self, backbone: Backbone, config: LoraConfig):
        self._backbone = backbone
        self.config = config

    def parameter_names(self) -> set[str]:
        """Names of the adapter's parameters in `backbone.named_parameters()`."""
        adapted = {id(parameter) for parameter in self._find_parameters().values()}
        return {name for name, parameter in self._backbone.named_parameters() if id(parameter) in adapted}

    def state_dict(self) -> dict[str, Tensor]:
        """The content of peft's `adapter_model.safetensors`: its keys, with the present values (not copies)."""
        return {key: parameter.detach() for key, parameter in self._find_parameters().items()}

    def load_state_dict(self, state: Mapping[str, Tensor]) -> None:
        """Take over the values of `state`. Raises ValueError, naming keys, unless keys and shapes are the same."""
        parameters = self._find_parameters()
        problems = [f"missing {key}" for key in sorted(parameters.keys() - state.keys())]
        problems += [f"unexpected {key}" for key in sorted(state.keys() - parameters.keys())]
        problems += [
            f"{key} has shape {tuple(state[key].shape)} instead of {tuple(parameters[key].shape)}"
            for key in sorted(parameters.keys() & state.keys())
            if state[key].shape != parameters[key].shape
        ]
        if problems:
            more = f"; and {len(problems) - 6} more" if len(problems) > 6 else ""
            raise ValueError(
                f"The saved adapter does not fit this backbone: {'; '.join(problems[:6])}{more}. "
                f"Use the rank, the targets and the backbone that it was trained with."
            )
        with torch.no_grad():
            for key, parameter in parameters.items():
                parameter.copy_(state[key])

    def scale(self, factor: float) -> None:
        """Multiply what the adapter adds to its layers by `factor`, in place."""
        with torch.no_grad():
            for key, parameter in self._find_parameters().items():
                if ".lora_B." in key:
                    parameter.mul_(factor)

    @contextmanager
    def off(self) -> Iterator[None]:
        """While the block runs the backbone is as it was without the adapter: its values and its names."""
        root = self._backbone.adapter_root()
        layers = self._find_layers()
        peft_config = root.__dict__.pop("peft_config", None)  # what peft notes on the module that it changed
        for name, layer in layers.items():
            root.set_submodule(name, layer.get_base_layer())
        try:
            yield
        finally:
            for name, layer in layers.items():
                root.set_submodule(name, layer)
            if peft_config is not None:
                root.__dict__["peft_config"] = peft_config

    def merge(self) -> None:
        """Put what the adapter adds into the weights of its layers, for good: the backbone has no adapter after it.

        Raises ValueError for weights in fewer bits, which would lose most of it.
        """
        root = self._backbone.adapter_root()
        layers = self._find_layers()
        if any(isinstance(layer.get_base_layer(), QuantizedLinear) for layer in layers.values()):
            raise ValueError("an adapter cannot be put into quantised weights: it stays beside them.")
        for name, layer in layers.items():
            layer.merge()
            root.set_submodule(name, layer.get_base_layer())
        root.__dict__.pop("peft_config", None)
        self._backbone.adapter = None

    def _find_layers(self) -> dict[str, Any]:
        """The layers with an adapter, peft's, by their names in `adapter_root()`."""
        from peft.tuners.lora import LoraLayer

        root = self._backbone.adapter_root()
        return {name: module for name, module in root.named_modules() if isinstance(module, LoraLayer)}

    def save_config(self, folder: str | Path, base: str | None = None) -> None:
        """Write `adapter_config.json` into `folder`, which is created.

        - `base`: what it calls the weights that it belongs to; default: what the backbone loads.
        """
        config = copy(self.config)
        config.base_model_name_or_path = base or self._backbone.weights_id
        config.inference_mode = True  # as peft saves it: loading for further training is asked for explicitly
        config.target_modules = sorted(config.target_modules or ())  # a set has another order in every process
        config.save_pretrained(str(folder))

    def _find_parameters(self) -> dict[str, nn.Parameter]:
        root = self._backbone.adapter_root()
        return {
            _PREFIX + name.replace(f".{_NAME}.", "."): parameter
            for name, parameter in root.named_parameters()
            if ".lora_" in name and f".{_NAME}." in name
        }


def inject(backbone: Backbone, rank: int, alpha: float, dropout: float, targets: list[str] | None) -> Adapter:
    """Put adapters on linear layers inside `backbone.layers()`, in place (Hu et al. 2021, arXiv:2106.09685).

    The output of such a layer gains `alpha / rank * B A x`, with B zero at first: nothing changes until it is trained.

    - `rank`, `alpha`, `dropout`: r of the method, its scale, and dropout on x while training.
    - `targets`: last parts of the layers' names, e.g. `["q_proj", "v_proj"]`; None for all linear layers.

    Raises ValueError when no layer is left, or when the backbone has an adapter already.
    """
    libraries.before_peft()
    from peft import LoraConfig, inject_adapter_in_model

    if backbone.adapter is not None:
        raise ValueError("this backbone has an adapter already: apply tune once.")
    root = backbone.adapter_root()
    names = _choose_layers(backbone, targets)
    scale: Any = alpha  # which peft annotates as a whole number, and only divides by the rank
    config = LoraConfig(r=rank, lora_alpha=scale, lora_dropout=dropout, target_modules=names)
    meta = any(parameter.is_meta for parameter in root.parameters())
    inject_adapter_in_model(config, root, adapter_name=_NAME, low_cpu_mem_usage=meta)
    adapted = {name.partition(".lora_A.")[0] for name, _ in root.named_parameters() if ".lora_A." in name}
    if adapted != set(names):
        other = ", ".join(sorted(adapted ^ set(names)))
        raise ValueError(f"layers inside and outside layers() have names that peft cannot tell apart: {other}.")
    backbone.adapter = Adapter(backbone, config)
    return backbone.adapter


def _choose_layers(backbone: Backbone, targets: list[str] | None) -> list[str]:
    """Names, within `adapter_root()`, of the linear layers to adapt."""
    inside = find_linear_layers(backbone)
    within = {id(module): name for name, module in backbone.adapter_root().named_modules()}
    available = [within[id(module)] for module in inside if id(module) in within]
    leaves = sorted({name.rpartition(".")[2] for name in available})
    if not available:
        raise ValueError(
            f"{type(backbone).__name__} has no linear layers inside layers() for adapters to sit on: "
            f"use tune mode 'last' or 'full'."
        )
    if targets is None:
        return available
    absent = [target for target in targets if target not in leaves]
    if absent or not targets:
        raise ValueError(f"targets {absent or targets} match no linear layer. There are {', '.join(leaves)}.")
    return [name for name in available if name.rpartition(".")[2] in targets]
