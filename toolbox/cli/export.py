"""The command `export`: a trained model as a folder that transformers, timm, peft or onnxruntime loads alone."""

from __future__ import annotations

import argparse
import signal
import sys
from pathlib import Path

from toolbox.cli.common import add_override_arguments, new_parser, parse_and_run, prepare_process

EPILOG = """\
CHECKPOINT is a checkpoint or a run's folder (of which it is what was tested: wise_ft, else best, else last).

DIR is new or empty. It will hold config.json and model.safetensors in the format of the library that the backbone
belongs to, transformers or timm; head.safetensors with what is outside the backbone; and README.md with the lines of
Python that use them. A run with adapters becomes DIR/adapter, for peft, beside DIR/base, or, where the base is public
on the Hub, its name; --merge makes one plain folder of them. Several backbones have a folder each. An encoder of texts
becomes a folder of sentence-transformers, with its tokenizer and its linear head.

The folder appears when that library has loaded it and given the toolbox's numbers.

examples:
  {command} work_dirs/dinov3_folder exported/
  {command} work_dirs/dinov3_sop/checkpoint-900 exported/ --merge --onnx
  {command} work_dirs/dinov3_sop exported/ --cfg-options model.backbone.name=weights/vitb16
"""


def main(argv: list[str] | None = None) -> int:
    """Run the command; returns its exit code."""
    parser = new_parser("export", "Write a trained model as a folder that other libraries load.", epilog=EPILOG)
    parser.add_argument("checkpoint", metavar="CHECKPOINT", help="a checkpoint or a run's folder")
    parser.add_argument("folder", metavar="DIR", type=Path, help="a folder that is new or empty")
    parser.add_argument("--merge", action="store_true", help="put adapters into the weights: one plain folder")
    parser.add_argument("--onnx", action="store_true", help="also the whole model as model.onnx, from pixels on")
    add_override_arguments(parser, "e.g. where frozen weights are now")
    parser.add_argument("--overwrite", action="store_true", help="replace an earlier export")
    return parse_and_run(parser, argv, _export)


def _export(arguments: argparse.Namespace) -> int:
    prepare_process()
    from toolbox import api

    # as Ctrl-C does, so that no partial folder stays
    before = signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))
    try:
        api.export(
            arguments.checkpoint,
            arguments.folder,
            merge=arguments.merge,
            onnx=arguments.onnx,
            overrides=arguments.cfg_options,
            plugins=arguments.plugin,
            overwrite=arguments.overwrite,
            log=lambda text: print(text, flush=True),
        )
    finally:
        signal.signal(signal.SIGTERM, before)
    print(f"{arguments.folder}: README.md there shows how to load it")
    return 0
