"""Prompts of classes, and what stands for a class among texts."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor

from toolbox.base import l2_normalize

DEFAULT_PROMPTS = ("a photo of a {}.",)


def check_prompts(prompts: Sequence[str]) -> list[str]:
    """`prompts` as a list. Raises ValueError unless each is a text with one `{}`, where the name of a class goes."""
    if isinstance(prompts, str) or not prompts:
        raise ValueError(f"prompts is a list of texts such as {list(DEFAULT_PROMPTS)}, not {prompts!r}.")
    for prompt in prompts:
        if not isinstance(prompt, str) or prompt.count("{}") != 1:
            raise ValueError(
                f"the prompt {prompt!r} does not say where the name of a class goes: write one {{}}, as in "
                f"{DEFAULT_PROMPTS[0]!r}."
            )
    return list(prompts)


def make_prompts(names: Sequence[str], prompts: Sequence[str]) -> list[str]:
    """All prompts of the first name, then those of the second and so on; underscores in names become spaces."""
    return [prompt.replace("{}", name.replace("_", " ").strip()) for name in names for prompt in prompts]


def average_prompts(embeddings: Tensor, count: int) -> Tensor:
    """(C * count, D) rows of length 1, `count` prompts a class -> (C, D): their mean directions, of length 1.

    Source: Radford et al., "Learning Transferable Visual Models From Natural Language Supervision", 2021.
    """
    return l2_normalize(embeddings.unflatten(0, (-1, count)).mean(dim=1))
