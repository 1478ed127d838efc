"""The command `embed`: embeddings of images, of texts, or of a recipe's data, in a file."""

from __future__ import annotations

import argparse
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from toolbox.cli.common import new_parser, parse_and_run
from toolbox.cli.processes import run_in_processes
from toolbox.errors import ToolboxError, format_command

if TYPE_CHECKING:
    from toolbox.base import Dataset
    from toolbox.engine.distributed.context import DistributedContext

EPILOG = """\
MODEL is a checkpoint or a run's folder (its trained model), a recipe (the pooled features of its backbone, zero-shot),
or a backbone: an id such as vits16, or a folder with weights in Hugging Face format.

IMAGES are folders (all images below them), images, or lists: a .txt with a path a line, or a .jsonl. The ids are paths:
of a single folder or image relative to it, of several as they were given. With --split, IMAGES is a recipe or a
checkpoint whose data are embedded, by default MODEL itself, and the ids are those of the dataset: that is what the
`teacher_file` of a model reads.

With --texts, what is embedded are the texts of a file: a .txt with a text a line, or a .jsonl whose lines are strings
or hold "text" and perhaps "id"; the ids are the texts themselves where none are given. MODEL then reads texts, as a
dual encoder does: rows of texts and of images are compared by their products.

OUT ends in .npz (arrays ids and embeddings), .parquet (columns id and embedding), or .npy (the ids, one a line, in
OUT.ids.txt beside it). Each embedding is a row of float32 numbers of length 1, so products of rows are cosines. The
file is whole or absent.

examples:
  {command} work_dirs/dinov3_folder photos/ photos.npz
  {command} work_dirs/dinov3_folder a.jpg b.jpg more/ some.npz
  {command} vitb16 photos/ photos.parquet --cfg-options model.pool=mean
  {command} vitl16 dinov3_sop teacher.npy --split train
  {command} work_dirs/dinov3_qwen3_clip --texts queries.txt queries.npz
"""


def main(argv: list[str] | None = None) -> int:
    """Run the command; returns its exit code."""
    from toolbox.cli.model_commands import add_model_arguments

    parser = new_parser("embed", "Write the embeddings of images or texts to a file.", epilog=EPILOG)
    parser.add_argument("model", metavar="MODEL", help="a checkpoint, a run's folder, a recipe, or a backbone's id")
    parser.add_argument("images", metavar="IMAGES", nargs="*", help="folders, images, or lists of images")
    parser.add_argument("out", metavar="OUT", type=Path, help="a file that ends in .npz, .npy or .parquet")
    parser.add_argument("--split", choices=["train", "val", "test"], help="embed these data of a recipe")
    parser.add_argument("--texts", metavar="FILE", help="embed the texts of this file instead of images")
    add_model_arguments(parser)
    return parse_and_run(parser, argv, lambda arguments: run_in_processes(partial(_embed, arguments)))


def _embed(arguments: argparse.Namespace, distributed: DistributedContext) -> int:
    if arguments.texts and (arguments.images or arguments.split):
        raise ToolboxError("--texts takes no images and no --split: embed them by themselves.")
    if not arguments.images and arguments.split is None and arguments.texts is None:
        raise ToolboxError("There is nothing to embed.", hint="Give IMAGES before OUT, --split train, or --texts FILE.")
    if arguments.split and len(arguments.images) > 1:
        raise ToolboxError("--split takes one recipe or checkpoint before OUT.", hint="Embed the others by themselves.")
    from toolbox.cli.model_commands import describe_model, embed_dataset, load_from_arguments, shorten_list
    from toolbox.utils.stored_embeddings import check_free, write_embeddings

    try:
        check_free(arguments.out, overwrite=arguments.overwrite)
    except ValueError as error:
        raise ToolboxError(str(error)) from error
    ours, data = separate_overrides(arguments)
    dataset = _load_items(arguments) if arguments.split is None else _load_split(arguments, data)
    for note in dataset.notes():
        print(note)
    source = load_from_arguments(arguments, ours, distributed)
    images = shorten_list(arguments.images or [arguments.model])
    images = f"{arguments.split} of {images}" if arguments.split else images
    unit = "texts" if arguments.texts else "images"
    named = arguments.texts or images
    print(f"Embedding {len(dataset):,} {unit} of {named} with {describe_model(source)}", flush=True)
    embedded = embed_dataset(source, dataset, arguments, modality="text" if arguments.texts else "image")
    if not distributed.is_main:
        return 0
    try:
        about = {"model": source.description, "precision": source.precision.name}
        write_embeddings(arguments.out, embedded.ids, embedded.rows, about=about)
    except ValueError as error:
        raise ToolboxError(str(error)) from error
    count, width = embedded.rows.shape
    left = f"; {len(embedded.bad)} unreadable {unit} left out" if embedded.bad else ""
    print(f"{arguments.out}: {count:,} embeddings of {width} numbers (float32, length 1){left}")
    return 0


def separate_overrides(arguments: argparse.Namespace) -> tuple[list[str], list[str]]:
    """The overrides of the model's recipe and of the data's. Of two recipes `model` keys are the first one's only."""
    both = arguments.cfg_options
    if not arguments.images or not arguments.split:
        return both, both
    ours = [text for text in both if text.partition("=")[0].split(".")[0] == "model"]
    return ours, [text for text in both if text not in ours]


def _load_items(arguments: argparse.Namespace) -> Dataset:
    from toolbox.cli.model_commands import load_images
    from toolbox.inference.text_file import TextFile
    from toolbox.utils.stored_embeddings import check_ids

    dataset = TextFile(arguments.texts) if arguments.texts else load_images(arguments)
    try:
        check_ids(arguments.out, dataset.ids)  # now, not when everything is embedded
    except ValueError as error:
        raise ToolboxError(str(error)) from error
    return dataset


def _load_split(arguments: argparse.Namespace, overrides: list[str]) -> Dataset:
    from toolbox.cli.model_commands import build_split, find_model_kind, load_named_recipe

    if not arguments.images and find_model_kind(arguments.model) == "backbone":
        raise ToolboxError(
            f"--split names data of a recipe, and {arguments.model} is a backbone.",
            hint=f"Say whose: {format_command('embed')} {arguments.model} RECIPE {arguments.out} --split train",
        )
    recipe = load_named_recipe((arguments.images or [arguments.model])[0], overrides, arguments.plugin)
    return build_split(recipe, arguments.split)
