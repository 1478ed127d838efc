"""How much of a backbone trains: nothing, adapters, the last blocks, or everything."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Literal

from torch import nn

from toolbox.base import Backbone, Tune
from toolbox.builtins.adapter import inject

_MODES = ("frozen", "lora", "last", "full")


class BackboneTuning(Tune):
    """The value of a backbone's `tune` key.

    - `mode`: "frozen" trains nothing; "lora" freezes all weights and trains low-rank adapters on the linear layers of
      all blocks; "last" trains the last blocks and what comes after them (the final norm: parameters outside
      `layers()` that stand after the last block's in `named_parameters()`); "full" trains everything.
    - `rank`, `alpha`, `dropout`: of "lora": r (None: 16), the scale (None: twice the rank), dropout on the adapters'
      inputs (None: 0).
    - `targets`: of "lora": last parts of layer names, e.g. `["q_proj", "v_proj"]`; None for all linear layers.
    - `last`: of "last": how many blocks (None: 1).
    - `norm_stats`: what batch norms that train normalise by: "train", the batch, whose mean and variance go into their
      running statistics; "frozen", the running statistics as they are, so that small batches of other images do not
      spoil them. None is "frozen" for a backbone with pretrained weights, "train" for one without. Their scales and
      shifts train in both. Nets without batch norms ignore it.

    What is frozen stays in eval mode too. Raises ValueError for an argument that the mode would ignore.
    """

    def __init__(
        self,
        mode: Literal["frozen", "lora", "last", "full"] = "full",
        rank: int | None = None,
        alpha: float | None = None,
        dropout: float | None = None,
        targets: list[str] | None = None,
        last: int | None = None,
        norm_stats: Literal["train", "frozen"] | None = None,
    ):
        if mode not in _MODES:
            raise ValueError(f"tune mode must be one of {', '.join(map(repr, _MODES))}, not {mode!r}.")
        of_lora = {"rank": rank, "alpha": alpha, "dropout": dropout, "targets": targets}
        for owner, arguments in (("lora", of_lora), ("last", {"last": last})):
            if ignored := [name for name, value in arguments.items() if value is not None and mode != owner]:
                raise ValueError(
                    f"tune mode {mode!r} has no {', '.join(ignored)}: give tune as a whole, "
                    f"\"model.backbone.tune=dict(mode='{mode}')\", or set mode to {owner!r}."
                )
        if norm_stats not in (None, "train", "frozen"):
            raise ValueError(f"norm_stats must be 'train' or 'frozen', not {norm_stats!r}.")
        if norm_stats == "train" and mode in ("frozen", "lora"):
            raise ValueError(
                f"tune mode {mode!r} trains no batch norm, so norm_stats='train' has no effect: remove it, or set mode "
                "to 'last' or 'full'."
            )
        self.mode, self.norm_stats = mode, norm_stats
        self.rank = 16 if rank is None else rank
        self.alpha = 2 * self.rank if alpha is None else alpha
        self.dropout = 0.0 if dropout is None else dropout
        self.targets = None if targets is None else list(targets)
        self.last = 1 if last is None else last
        if self.rank < 1 or self.last < 1:
            raise ValueError(f"rank and last must be at least 1, not {self.rank} and {self.last}.")
        if self.alpha <= 0 or not 0 <= self.dropout < 1:
            raise ValueError(
                f"alpha must be positive and dropout at least 0 and below 1, not {self.alpha} and {self.dropout}."
            )

    def apply(self, backbone: Backbone) -> None:
        if self.mode == "frozen":
            backbone.freeze()
        elif self.mode == "full":
            backbone.requires_grad_(True)
        elif self.mode == "last":
            _train_only(backbone, _list_last(backbone, self.last))
        else:
            _train_only(backbone, inject(backbone, self.rank, self.alpha, self.dropout, self.targets).parameter_names())


def _list_last(backbone: Backbone, count: int) -> set[str]:
    """Names of the parameters in the last `count` blocks and after them."""
    layers = backbone.layers()
    if count > len(layers):
        raise ValueError(f"last is {count}, but this backbone has {len(layers)} blocks: use at most {len(layers)}.")
    blocks = [{id(parameter) for parameter in layer.parameters()} for layer in layers]
    inside, chosen = set().union(*blocks), set().union(*blocks[-count:])
    named = list(backbone.named_parameters())
    end = max(position for position, (_, parameter) in enumerate(named) if id(parameter) in inside)
    return {
        name
        for position, (name, parameter) in enumerate(named)
        if id(parameter) in chosen or (position > end and id(parameter) not in inside)
    }


def _train_only(backbone: Backbone, names: Iterable[str]) -> None:
    """Freeze all parameters but those named, and the modules that are left with none to train.

    Modules without parameters keep following `train()`: dropout and drop path between adapters stay on. Those
    with running statistics do not: the statistics belong to the frozen weights, and no adapter would save them.
    """
    trained = set(names)
    for name, parameter in backbone.named_parameters():
        parameter.requires_grad_(name in trained)
    frozen = []
    for module in backbone.modules():
        parameters = list(module.parameters())
        if not any(parameter.requires_grad for parameter in parameters) and (
            parameters or isinstance(module, nn.modules.batchnorm._NormBase)
        ):
            frozen.append(module)
    backbone.freeze(frozen)
