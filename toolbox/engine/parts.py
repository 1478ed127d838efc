"""What a model is made of: its backbones and adapters, and which tensors a checkpoint holds of them."""

from __future__ import annotations

import hashlib

import torch
from torch import Tensor, nn
from torch.distributed.tensor import DTensor

from toolbox.base import Backbone, Loss, Model
from toolbox.engine.distributed.tensors import whole


def backbones(model: Model) -> dict[str, Backbone]:
    """The backbones that the recipe describes or that the model's inputs name, by module path.

    A copy that the model made of one, a moving-average teacher say, is none of them: it is a part like a head.
    """
    named = {id(backbone) for backbone in model.inputs.values()}
    return {
        path: module
        for path, module in model.named_modules()
        if id(module) in named or (isinstance(module, Backbone) and module.from_recipe == id(module))
    }


def adapted(model: Model) -> dict[str, Backbone]:
    """Backbones with an adapter, by their module path."""
    return {path: backbone for path, backbone in backbones(model).items() if backbone.adapter is not None}


def modules_on_path(model: nn.Module, path: str) -> list[nn.Module]:
    """The modules that a path leads through: the model first, last the module at the path."""
    names = path.split(".")
    return [model.get_submodule(".".join(names[:end])) for end in range(len(names) + 1)]


def training_norms(model: nn.Module) -> dict[str, nn.modules.batchnorm._BatchNorm]:
    """The batch norms that normalise by training batches, by path; not those of losses, which nothing evaluates."""
    was_training = model.training
    model.train()
    inside_losses = {id(part) for loss in model.modules() if isinstance(loss, Loss) for part in loss.modules()}
    norms = {
        path: module
        for path, module in model.named_modules()
        if isinstance(module, nn.modules.batchnorm._BatchNorm) and module.training and id(module) not in inside_losses
    }
    model.train(was_training)
    return norms


def random_and_frozen(model: Model) -> list[str]:
    """The backbones that no training has shaped and none will, unless a checkpoint does."""
    return [path for path, backbone in backbones(model).items() if backbone.frozen and backbone.weights_id is None]


def left_out(model: Model) -> set[str]:
    """Names in `state_dict` that a checkpoint does not hold: adapters, and frozen pretrained tensors.

    Of pretrained backbones also parameters without values, which sharding freezes and nothing trains.
    """
    skipped: set[int] = set()
    for module in backbones(model).values():
        if module.adapter is not None:
            adapter = module.adapter.parameter_names()
            skipped |= {id(parameter) for name, parameter in module.named_parameters() if name in adapter}
        if module.weights_id is not None:
            skipped |= {id(p) for p in module.parameters() if not (p.requires_grad and p.numel())}
            skipped |= {id(buffer) for buffer in module.buffers()} if module.frozen else set()
    return {name for name, tensor in model.state_dict(keep_vars=True).items() if id(tensor) in skipped}


def model_state(model: Model) -> dict[str, Tensor]:
    """The tensors that a checkpoint holds outside adapters, each with storage of its own or spread over processes."""
    skip = left_out(model)
    seen: set[int] = set()
    tensors = {}
    for name, tensor in model.state_dict().items():
        if name not in skip and isinstance(tensor, DTensor):
            tensors[name] = tensor.detach()
        elif name not in skip:
            tensor = tensor.detach().cpu().contiguous()
            tensors[name] = tensor.clone() if tensor.data_ptr() in seen else tensor
            seen.add(tensor.data_ptr())
    return tensors


def frozen_identity(model: Model) -> dict[str, dict[str, str]]:
    """For each backbone with frozen pretrained tensors: what was loaded, and a checksum of its frozen tensors."""
    skip = left_out(model)
    frozen: dict[str, dict[str, str]] = {}
    for path, module in backbones(model).items():
        if module.weights_id is not None:
            adapter = module.adapter.parameter_names() if module.adapter is not None else set()
            prefix = f"{path}." if path else ""
            tensors = module.state_dict()
            names = sorted(n for n in tensors if prefix + n in skip and n not in adapter and tensors[n].numel())
            if names:
                frozen[path] = {"weights": module.weights_id, "sha256": _digest([tensors[name] for name in names])}
                if module.quantized is not None:
                    frozen[path]["quantize"] = repr(module.quantize)
    return frozen


def _digest(tensors: list[Tensor]) -> str:
    digest = hashlib.sha256()
    for tensor in tensors:
        digest.update(whole(tensor).detach().cpu().contiguous().view(-1).view(torch.uint8).numpy().data)
    return digest.hexdigest()
