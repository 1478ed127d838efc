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


def undecayed_names(module: nn.Module) -> set[str]:
    """Names, as in `named_parameters()`, of what is left alone: tokens, positions, tables of relative positions.

    By the names that timm and transformers give them; and what a module inside says by a method `no_weight_decay`, as
    timm's nets do.
    """
    names = {name for name, _ in module.named_parameters()}
    named = {
        f"{path}.{name}"
        for path, part in module.named_modules()
        if part is not module and callable(getattr(part, "no_weight_decay", None))
        for name in part.no_weight_decay()
    }
    return {name for name in names if name in named or _NOT_DECAYED.search(name)}
