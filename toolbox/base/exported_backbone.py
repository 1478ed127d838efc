"""The result of `Backbone.export`: the lines of Python that use its files with a backbone's own library."""

from __future__ import annotations

import io
import warnings
from contextlib import redirect_stderr, redirect_stdout
from dataclasses import dataclass, field
from typing import Any

import torch


@dataclass
class ExportedBackbone:
    """Lines of Python that use what `Backbone.export` wrote, without this toolbox.

    The command puts them into the README of the folder, and runs them to compare.

    - `library`: whose format it is, e.g. "transformers"; `imports`: the import lines that the others need.
    - `load`: from `folder`, a string, to `model`, in eval mode.
    - `pixels`: from `images`, a list of PIL images in RGB, to `pixels`, (B, 3, H, W) normalized.
    - `tokens`: from `model` and `pixels` to `tokens`, (B, N, D): those of `Backbone.forward`.
    - `texts`: of an encoder of texts, instead of `pixels` and `tokens`: from `model` and `texts`, a list of strings, to
      `pooled`, (B, D): the first of the tokens of `Backbone.forward`.
    - `prefix`: how many of the N are prefix tokens.
    - `hub`: the public name of the weights, where they were left out because `load` gets them by it.
    - `notes`: sentences on what the library cannot express, and on the licence of the weights.
    """

    library: str
    imports: list[str]
    load: list[str]
    pixels: list[str]
    tokens: list[str]
    prefix: int
    hub: str | None = None
    notes: list[str] = field(default_factory=list)
    texts: list[str] = field(default_factory=list)


def run_lines(lines: list[str], **names: Any) -> dict[str, Any]:
    """Run lines that use an export, with the variables `names`; returns all variables after them.

    Without gradients, and without what libraries print or warn of while they load. Raises whatever the lines raise.
    """
    code = compile("\n".join(lines), "README.md", "exec")
    variables = dict(names)
    with warnings.catch_warnings(), redirect_stderr(io.StringIO()), redirect_stdout(io.StringIO()), torch.no_grad():
        warnings.simplefilter("ignore")
        exec(code, variables)
    return variables
