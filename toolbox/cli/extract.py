"""The command `extract`: what frozen backbones make of a recipe's data, stored before training."""

from __future__ import annotations

import argparse
import sys
from typing import TYPE_CHECKING

from toolbox.cli.common import add_recipe_arguments, load_recipe, new_parser, parse_and_run
from toolbox.cli.processes import run_in_processes

if TYPE_CHECKING:
    from toolbox.engine.distributed.context import DistributedContext

EPILOG = """\
Each frozen backbone of the recipe encodes its data once; `features` in the recipe (dtype, views, folder) says how they
are stored, and makes training read them. Without that key they are stored in fp16, each item as it is. What is there
already is found, not computed again; Ctrl-C keeps what is complete, and the same command goes on.

examples:
  {command} dinov3_folder --cfg-options "model.backbone.tune=dict(mode='frozen')" features.dtype=bf16
  {command} dinov3_folder --split val test
  {command} dinov3_folder --verify
  torchrun --nproc_per_node=4 -m toolbox extract dinov3_folder
"""


def main(argv: list[str] | None = None) -> int:
    """Run the command; returns its exit code."""
    parser = new_parser("extract", "Store the features of a recipe's data.", epilog=EPILOG)
    add_recipe_arguments(parser)
    parser.add_argument("--split", nargs="+", choices=["train", "val", "test"], help="which data (default: all)")
    parser.add_argument(
        "--verify", action="store_true", help="read everything against its checksums, and mend what is damaged"
    )
    return parse_and_run(parser, argv, _extract)


def _extract(arguments: argparse.Namespace) -> int:
    def extract(distributed: DistributedContext) -> int:
        from toolbox import api
        from toolbox.progress import choose_console

        counts = api.extract(
            load_recipe(arguments),
            splits=arguments.split,
            device=arguments.device,
            mend=arguments.verify,
            console=choose_console(),
            distributed=distributed,
        )
        read = " All checksums are right." if arguments.verify else ""
        print(f"{counts['computed']:,} items computed, {counts['found']:,} found.{read}")
        return 0

    try:
        return run_in_processes(extract)
    except KeyboardInterrupt:
        print("Interrupted. Complete shards are kept: the same command goes on from there.", file=sys.stderr)
        return 130
