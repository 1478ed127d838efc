"""The command `predict`: the most probable classes of images, in a file, on a page, on the terminal."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING, Any

import toolbox

if TYPE_CHECKING:
    from torch import Tensor

    from toolbox.base import Batch, LoadedModel

TOP = 5
MOST_LINES = 20

EPILOG = """\
CHECKPOINT is a checkpoint of a classifier, or a run's folder (its best).

IMAGES are folders (all images below them), images, or lists: a .txt with a path a line, or a .jsonl. For a single
folder or image the paths are written relative to it, for several as you gave them.

A score is a softmax probability, of k-NN the share of the votes. --out writes them all: .csv (path, label1, score1,
label2 ...), .json (a list of {"path", "predictions": [{"label", "score"} ...]}), or .jsonl (the same, one a line).
--page writes an HTML file that opens without a network. Files are whole or absent.

A probe predicts by the method with the highest accuracy on its validation set: a linear head, k-NN or logistic
regression. It is named on the terminal, on the page, and as "classifier" in the files.

examples:
  {command} work_dirs/dinov3_food101 photos/ --out predictions.csv --page predictions.html
  {command} work_dirs/dinov3_food101/best dish.jpg other.jpg --top 3
"""


def main(argv: list[str]) -> int:
    """Run the command; returns its exit code."""
    parser = toolbox.new_command_parser("predict", "Classify images.", epilog=EPILOG)
    parser.add_argument("model", metavar="CHECKPOINT", help="a checkpoint of a classifier, or a run's folder")
    parser.add_argument("images", metavar="IMAGES", nargs="+", help="folders, images, or lists of images")
    parser.add_argument("--out", metavar="FILE", type=Path, help="a file that ends in .csv, .json or .jsonl")
    parser.add_argument("--page", metavar="FILE", type=Path, help="a page with the images, which ends in .html")
    parser.add_argument("--top", metavar="K", type=toolbox.whole_number(1), help=f"classes of each image ({TOP})")
    head_help = "of a probe: linear, knn or logistic, instead of the best on the validation set"
    parser.add_argument("--head", metavar="NAME", help=head_help)
    toolbox.add_model_arguments(parser, backbone=False, baseline=False)
    arguments = parser.parse_intermixed_args(argv)
    return toolbox.run_in_processes(lambda distributed: _predict(arguments, distributed))


def _predict(arguments: argparse.Namespace, distributed: Any) -> int:
    """Run the command in this process.

    - `distributed`: the processes that predict together.
    """
    from toolbox.utils.top_classes import list_top_classes
    from toolbox_classification.commands.prediction_files import ENDINGS, write_predictions

    _check_targets(arguments, ENDINGS)
    dataset = toolbox.load_images(arguments)
    for note in dataset.notes():
        print(note)
    model = _load(arguments, distributed)
    names = model.classes
    if names is None:
        print("This checkpoint holds no names of classes: labels are their numbers.")
    elif arguments.top and arguments.top > len(names):
        raise toolbox.ToolboxError(f"--top asks for {arguments.top} classes, and the model tells {len(names)} apart.")
    classifier = model.model.predictor
    description = toolbox.describe_model(model) + (f", by {classifier}" if classifier else "")
    images = f"{len(dataset):,} images of {toolbox.shorten_list(arguments.images)}"
    print(f"Classifying {images} with {description}", flush=True)
    top = arguments.top or TOP

    def convert(outputs: dict[str, Tensor], batch: Batch) -> list[list[tuple[str, float]]]:
        return list_top_classes(outputs, top, batch.ids, names)

    predictions = toolbox.collect_outputs(model, dataset, arguments, convert, what="classifying")
    if not distributed.is_main:
        return 0
    rows, unreadable = predictions.rows, len(predictions.bad)
    paths = [str(name) for name in predictions.ids]
    if arguments.out:
        write_predictions(arguments.out, paths, rows, classifier=classifier)
        note = f"; {unreadable} unreadable images left out" if unreadable else ""
        print(f"{arguments.out}: {len(rows):,} images{note}")
    if arguments.page:
        from toolbox_classification.commands.prediction_page import write_page

        write_page(arguments.page, dataset, predictions.indices, paths, rows, model=description, left_out=unreadable)
        print(f"Page: {arguments.page.resolve()}")
    if not (arguments.out or arguments.page) or len(rows) <= MOST_LINES:
        _print_table(paths, rows)
    return 0


def _check_targets(arguments: argparse.Namespace, endings: tuple[str, ...]) -> None:
    from toolbox.base import check_file

    for option, path, suffixes in (("--out", arguments.out, endings), ("--page", arguments.page, (".html",))):
        if path is None:
            continue
        if path.suffix not in suffixes:
            raise toolbox.ToolboxError(f"{option} {path} must end in {', '.join(suffixes)}.")
        check_file(path, overwrite=arguments.overwrite)
    if arguments.overwrite and not (arguments.out or arguments.page):
        raise toolbox.ToolboxError("--overwrite has no effect without --out or --page.")


def _load(arguments: argparse.Namespace, distributed: Any) -> LoadedModel:
    kind = toolbox.find_model_kind(arguments.model)
    if kind != "checkpoint":
        raise toolbox.ToolboxError(
            f"{arguments.model} is a {kind}, and only a trained model has classes.",
            hint="Give a run's folder or a checkpoint of a classifier.",
        )
    choice = [f"model.classifier={arguments.head}"] if arguments.head else []
    return toolbox.load_from_arguments(arguments, [*arguments.cfg_options, *choice], distributed)


def _print_table(paths: list[str], rows: list[list[tuple[str, float]]]) -> None:
    """Print the first images as a table."""
    columns = ["image", *(str(place) for place in range(1, len(rows[0]) + 1))]
    lines = [
        [path, *(f"{label} {score:.3f}" for label, score in row)]
        for path, row in list(zip(paths, rows, strict=True))[:MOST_LINES]
    ]
    toolbox.print_table(columns, lines)
    if len(rows) > MOST_LINES:
        print(f"{len(rows) - MOST_LINES:,} more images are not shown: write them with --out.")
