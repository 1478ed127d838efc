"""The blocks of a net that somebody else wrote, in the order that data passes them."""

from __future__ import annotations

import re

from torch import nn

_LISTS = re.compile(r"(transformer_)?(res)?(blocks?|layers?|stages?|levels?|encoder|network)_?\d*")
"""How libraries call the lists that hold their blocks."""


def find_blocks(net: nn.Module) -> list[nn.Module]:
    """The layers of a transformer, the blocks of all stages of a hierarchy.

    They are the items of an `nn.ModuleList` or `nn.Sequential` with a name such as layer, blocks or stages; an item
    that is a list itself, or whose class is called a stage, gives way to its own. Empty where there is none.
    """
    blocks = []
    for name, child in net.named_children():
        if _is_list(child):
            if _LISTS.fullmatch(name):
                blocks += _items(child)
        else:
            blocks += find_blocks(child)
    return blocks


def list_outer_parts(net: nn.Module) -> list[nn.Module]:
    """The outermost parts of `net` that have parameters, for nets without blocks to find."""
    parts = [child for child in net.children() if any(True for _ in child.parameters())]
    return list_outer_parts(parts[0]) or parts if len(parts) == 1 else parts


def _items(blocks: nn.Module) -> list[nn.Module]:
    items = [item for item in blocks.children() if any(True for _ in item.parameters())]
    if not all(any(True for _ in item.children()) for item in items):
        return []  # bare layers among them: the list is a block, not of blocks
    return [block for item in items for block in _inside(item) or [item]]


def _inside(item: nn.Module) -> list[nn.Module]:
    if _is_list(item):
        return _items(item)
    return find_blocks(item) if re.search("Stage|Level", type(item).__name__) else []


def _is_list(module: nn.Module) -> bool:
    return isinstance(module, nn.ModuleList | nn.Sequential)
