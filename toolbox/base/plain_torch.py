"""A module as lines of plain torch that read its tensors from a dict: what an export's README shows of a head."""

from __future__ import annotations

from torch import nn

_FUNCTIONS = {nn.GELU: "gelu", nn.ReLU: "relu", nn.SiLU: "silu", nn.Tanh: "tanh"}


def write_lines(module: nn.Module, name: str) -> list[str]:
    """Lines that turn `x` into what `module` makes of it in eval mode.

    - `name`: of the module in the state dict `head`, which holds its tensors. `F` is torch.nn.functional.

    Knows linear layers, layer and batch norms, the usual activations, dropout, and sequences of them. Raises
    ValueError for another module.
    """
    if isinstance(module, nn.Sequential):
        return [line for child, inner in module.named_children() for line in write_lines(inner, f"{name}.{child}")]
    if isinstance(module, nn.Identity | nn.Dropout):
        return []
    if type(module) is nn.Linear:
        bias = "" if module.bias is None else f', head["{name}.bias"]'
        return [f'x = F.linear(x, head["{name}.weight"]{bias})']
    if type(module) is nn.LayerNorm and module.bias is not None:
        shape = tuple(module.normalized_shape)
        return [f'x = F.layer_norm(x, {shape}, head["{name}.weight"], head["{name}.bias"], eps={module.eps})']
    if type(module) is nn.BatchNorm1d and module.affine and module.track_running_stats:
        tensors = ", ".join(f'head["{name}.{part}"]' for part in ("running_mean", "running_var", "weight", "bias"))
        return [f"x = F.batch_norm(x, {tensors}, eps={module.eps})"]
    function = _FUNCTIONS.get(type(module))
    if function is None or getattr(module, "approximate", "none") != "none":
        raise ValueError(f"{type(module).__name__} has no plain form here")
    return [f"x = F.{function}(x)" if function != "tanh" else "x = torch.tanh(x)"]
