"""The command `predict`: the likeliest classes of pictures, in a file, on a page, on the terminal."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

from toolbox.cli.common import expand_arguments, guarded, new_parser, prepare_process
from toolbox.cli.processes import run_in_processes
from toolbox.errors import ToolboxError

if TYPE_CHECKING:
    from toolbox.base import Dataset, LoadedModel
    from toolbox.engine.distributed.team import Team
    from toolbox.engine.judging.classify import Classified

TOP = 5
MOST_LINES = 20

TELLS = """\
CHECKPOINT is a checkpoint of a classifier, or a run's folder (its best).

IMAGES are folders (all images below them), images, or lists: a .txt with a path a line, or a .jsonl. Of a single folder
or image the paths are written relative to it, of several as they were given.

A score is a softmax probability, of k-NN the share of the votes. --out writes them all: .csv (path, label1, score1,
label2 ...), .json (a list of {"path", "predictions": [{"label", "score"} ...]}), or .jsonl (the same, one a line).
--page writes an HTML file that opens without a network. Files are whole or absent.

A probe predicts by what told its validation set best: a linear head, k-NN or logistic regression. It is named on the
terminal, on the page, and as "classifier" in the files.

examples:
  {command} work_dirs/dinov3_food101 photos/ --out predictions.csv --page predictions.html
  {command} work_dirs/dinov3_food101/best dish.jpg other.jpg --top 3
"""


def main(argv: list[str] | None = None) -> int:
    """Run the command; returns its exit code."""
    from toolbox.cli.sources import add_model_arguments, from_least

    parser = new_parser("predict", "Tell the classes of pictures.", epilog=TELLS)
    parser.add_argument("model", metavar="CHECKPOINT", help="a checkpoint of a classifier, or a run's folder")
    parser.add_argument("images", metavar="IMAGES", nargs="+", help="folders, images, or lists of images")
    parser.add_argument("--out", metavar="FILE", type=Path, help="a file that ends in .csv, .json or .jsonl")
    parser.add_argument("--page", metavar="FILE", type=Path, help="a page with the pictures, which ends in .html")
    parser.add_argument("--top", metavar="K", type=from_least(1), help=f"classes of each picture ({TOP})")
    parser.add_argument(
        "--head", metavar="NAME", help="of a probe: linear, knn or logistic, instead of what validated best"
    )
    add_model_arguments(parser, backbone=False, baseline=False)
    arguments = parser.parse_intermixed_args(expand_arguments(argv))
    return guarded(lambda: run_in_processes(lambda team: _predict(arguments, team)))


def _predict(arguments: argparse.Namespace, team: Team) -> int:
    prepare_process()
    from toolbox.cli.predictions import ENDINGS, write_predictions
    from toolbox.cli.sources import listed_sources, pictures_of

    _check_targets(arguments, ENDINGS)
    dataset = pictures_of(arguments.images, skip_bad=arguments.on_bad_item == "skip")
    for note in dataset.notes():
        print(note)
    model = _load(arguments, team)
    known = model.classes
    if known is None:
        print("This checkpoint holds no names of classes: labels are their numbers.")
    elif arguments.top and arguments.top > len(known):
        raise ToolboxError(f"--top asks for {arguments.top} classes, and the model tells {len(known)} apart.")
    told = f"{model.description}, in {model.precision.name} on {model.device}"
    told += f", by {model.model.predictor}" if model.model.predictor else ""
    print(f"Classifying {len(dataset):,} images of {listed_sources(arguments.images)} with {told}", flush=True)
    found = _classified(model, dataset, arguments)
    if not team.is_main:
        return 0
    rows = found.rows
    paths = [str(name) for name in found.ids]
    if arguments.out:
        write_predictions(arguments.out, paths, rows, classifier=model.model.predictor)
        left = f"; {len(found.bad)} unreadable images left out" if found.bad else ""
        print(f"{arguments.out}: {len(rows):,} images{left}")
    if arguments.page:
        from toolbox.report.predictions import write_page

        write_page(arguments.page, dataset, found.indices, paths, rows, told=told, left_out=len(found.bad))
        print(f"Page: {arguments.page.resolve()}")
    if not (arguments.out or arguments.page) or len(rows) <= MOST_LINES:
        _show(paths, rows)
    return 0


def _check_targets(arguments: argparse.Namespace, endings: tuple[str, ...]) -> None:
    from toolbox.base.files import check_file

    for option, path, known in (("--out", arguments.out, endings), ("--page", arguments.page, (".html",))):
        if path is None:
            continue
        if path.suffix not in known:
            raise ToolboxError(f"{option} {path} must end in {', '.join(known)}.")
        check_file(path, overwrite=arguments.overwrite)
    if arguments.overwrite and not (arguments.out or arguments.page):
        raise ToolboxError("--overwrite has no effect without --out or --page.")


def _load(arguments: argparse.Namespace, team: Team) -> LoadedModel:
    from toolbox import api
    from toolbox.cli.sources import device_of, kind_of
    from toolbox.engine.device import set_threads

    set_threads(None, team.place.local_size)
    kind = kind_of(arguments.model)
    if kind != "checkpoint":
        raise ToolboxError(
            f"{arguments.model} is a {kind}, and only a trained model has classes to tell apart.",
            hint="Give a run's folder or a checkpoint of a classifier.",
        )
    overrides = list(arguments.cfg_options or [])
    overrides += [f"model.classifier={arguments.head}"] if arguments.head else []
    model = api.load(
        arguments.model, device=device_of(arguments, team) or "auto", overrides=overrides, plugins=arguments.plugin,
        precision=arguments.precision,
    )  # fmt: skip
    team.start(model.device)
    return model


def _classified(model: LoadedModel, dataset: Dataset, arguments: argparse.Namespace) -> Classified:
    from toolbox.cli.sources import progress, tell_bad, workers_of
    from toolbox.engine.judging.classify import classify
    from toolbox.utils.top_classes import top_classes

    top = arguments.top or TOP
    with progress(len(dataset), "classifying") as advance:
        found = classify(
            model.model, dataset, model.device, lambda outputs, ids: top_classes(outputs, top, ids, model.classes),
            precision=model.precision, batch_size=arguments.batch_size, workers=workers_of(arguments),
            skip_bad=arguments.on_bad_item == "skip", progress=advance,
        )  # fmt: skip
    tell_bad(found.bad)
    return found


def _show(paths: list[str], rows: list[list[tuple[str, float]]]) -> None:
    """The first pictures as a table."""
    from rich.table import Table
    from rich.text import Text

    from toolbox.cli.tables import terminal

    table = Table("image", *(str(place) for place in range(1, len(rows[0]) + 1)))
    for path, row in list(zip(paths, rows, strict=True))[:MOST_LINES]:
        cells = [path, *(f"{label} {score:.3f}" for label, score in row)]
        table.add_row(*(Text(cell.encode("utf-8", "replace").decode(), overflow="fold") for cell in cells))
    terminal().print(table)
    if len(rows) > MOST_LINES:
        print(f"{len(rows) - MOST_LINES:,} more images are not shown: write them with --out.")
