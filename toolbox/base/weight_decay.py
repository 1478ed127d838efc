"""Which parameters weight decay leaves alone by default, beside vectors."""

from __future__ import annotations

import re

from torch import nn

_NOT_DECAYED = re.compile(
    r"(^|[._])((cls|class|dist|distillation|detection|reg|register|storage|mask)_?tokens?\d*|class_embedding"
    r"|(abs\w*_)?pos(ition)?_embed(ding)?s?(_\w+)?(\.weight)?|pos_embed_\w+|rel_pos(_[hw])?"
    r"|relative_position_bias_table|attention_bias(es)?|logit_scale|(cpb|continuous_position_bias)_mlp\..+|grn\.(weight|bias))$"
)
"""Names of class, register and mask tokens, of positions and of tables of relative positions in timm and transformers;
and of a norm that is no vector in transformers."""


def list_undecayed(module: nn.Module) -> set[str]:
    """Names, as in `named_parameters()`, of what weight decay leaves alone: tokens, positions, relative positions.

    They are known by their names in timm and transformers; and a module inside may list more by a method
    `no_weight_decay`, as timm's models do.
    """
    names = {name for name, _ in module.named_parameters()}
    by_modules = {
        f"{path}.{name}"
        for path, part in module.named_modules()
        if part is not module and callable(getattr(part, "no_weight_decay", None))
        for name in part.no_weight_decay()
    }
    return {name for name in names if name in by_modules or _NOT_DECAYED.search(name)}
