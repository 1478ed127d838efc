"""The command `mine_negatives`: for each item of a recipe's data the most similar items of other classes."""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import toolbox

if TYPE_CHECKING:
    from toolbox_retrieval.mining import MiningResult, PathDataset

EPILOG = """\
MODEL is a checkpoint or a run's folder (its trained model and its recipe's data), or a recipe (the pooled features of
its backbone, zero-shot). The data are seen without augmentation.

OUT holds a line for each item that has another one of its class:
  {"query_image": path, "positive": path, "negatives": [paths], "label": class}
with the most similar first, and paths relative to the dataset's root. datasets.Records reads it, and retrieval.Pairs
with `negatives` trains on it. The same model and data give the same file.

Wrong labels and look-alikes gather among the most similar: --skip, --margin and --max-similarity leave them out.
"""


def main(argv: list[str]) -> int:
    """Run the command; returns its exit code."""
    parser = toolbox.new_command_parser("mine_negatives", "Write hard negatives to train with.", epilog=EPILOG)
    count = toolbox.whole_number
    parser.add_argument("model", metavar="MODEL", help="a checkpoint, a run's folder, or a recipe")
    parser.add_argument("out", metavar="OUT", type=Path, help="a file that ends in .jsonl")
    parser.add_argument("--split", choices=["train", "val", "test"], default="train", help="whose data (train)")
    for name, least, default, text in (
        ("negatives", 1, 5, "negatives of an item (5)"),
        ("positives", 1, 1, "positives, the most similar (1)"),
        ("top", 1, 50, "of the N most similar of others (50)"),
        ("skip", 0, 0, "without the first N of them (0)"),
    ):
        parser.add_argument(f"--{name}", type=count(least), default=default, metavar="N", help=text)
    margin_help = "without those more similar than the positive minus X (default: no limit)"
    parser.add_argument("--margin", type=float, metavar="X", help=margin_help)
    parser.add_argument("--max-similarity", type=float, metavar="X", help="without those above this cosine")
    parser.add_argument("--keep-short", action="store_true", help="keep items that have fewer negatives than asked for")
    toolbox.add_model_arguments(parser, backbone=False)
    arguments = parser.parse_intermixed_args(argv)
    return toolbox.run_in_processes(lambda distributed: _mine(arguments, distributed))


def _mine(arguments: argparse.Namespace, distributed: Any) -> int:
    """Run the command in this process.

    - `distributed`: the processes that embed together.
    """
    import torch

    from toolbox.base import check_file, new_file
    from toolbox_retrieval.mining import PathDataset, check_numbers, mine_negatives

    if arguments.out.suffix != ".jsonl":
        raise toolbox.ToolboxError(f"{arguments.out} must end in .jsonl.")
    counts = {name: getattr(arguments, name) for name in ("negatives", "top", "skip", "positives")}
    limits = {name: getattr(arguments, name) for name in ("margin", "max_similarity")}
    try:
        check_numbers(**counts)
    except ValueError as error:
        raise toolbox.ToolboxError(str(error)) from error
    check_file(arguments.out, overwrite=arguments.overwrite)
    dataset = PathDataset(toolbox.load_split(arguments))
    if dataset.labels is None:
        raise toolbox.ToolboxError(
            "Negatives are items of other classes, and these data have no labels.",
            where=f"{arguments.split}_dataloader.dataset",
        )
    for note in dataset.notes():
        print(note)
    source = toolbox.load_from_arguments(arguments, arguments.cfg_options, distributed)
    images = f"{len(dataset):,} images of {arguments.split}"
    print(f"Embedding {images} with {toolbox.describe_model(source)}", flush=True)
    embedded = toolbox.embed_dataset(source, dataset, arguments)
    if not distributed.is_main:
        return 0
    device = torch.device(str(source.device))
    labels = torch.tensor([int(dataset.labels[index]) for index in embedded.indices], device=device)
    with toolbox.show_progress(len(labels), "mining") as advance:
        rows = torch.from_numpy(embedded.rows).to(device)
        result = mine_negatives(rows, labels, **counts, **limits, keep_short=arguments.keep_short, progress=advance)
    if not result.rows:
        raise toolbox.ToolboxError(
            f"No item has a positive and {arguments.negatives} negatives: {result.alone:,} are alone in their class, "
            f"{result.empty:,} have no negative, {result.short - result.empty:,} fewer.",
            hint="Loosen --margin, --max-similarity or --skip, or ask for fewer --negatives.",
        )
    try:
        with new_file(arguments.out) as file, file.open("w", encoding="utf-8", newline="\n") as stream:
            names, numbers = list_class_labels(dataset), labels.tolist()
            for query, *items in result.rows:
                positives, negatives = ([str(embedded.ids[row]) for row in rows] for rows in items)
                record = {  # as datasets.Records reads it
                    "query_image": str(embedded.ids[query]),
                    "positive": positives[0] if len(positives) == 1 else positives,
                    "negatives": negatives,
                    "label": names[numbers[query]],
                }
                stream.write(json.dumps(record, ensure_ascii=False) + "\n")
    except UnicodeError as error:
        raise toolbox.ToolboxError(f"{arguments.out} cannot be written: {error}") from error
    print_summary(arguments, result, len(labels), dataset)
    return 0


def list_class_labels(dataset: PathDataset) -> Sequence[str | int]:
    """The names of the classes as datasets.Records reads them again; numbers where there are none, or others when read.

    A class that is called "NA" or "0.5" would be read as a missing label, or refused.
    """
    from toolbox.base import read_label

    names = [str(name) for name in dataset.classes or []]
    labels = [] if dataset.labels is None else list(map(int, dataset.labels))
    numbers = range(1 + max(labels, default=-1))
    try:
        return names if names and all(read_label(name) == name for name in names) else numbers
    except ValueError:
        return numbers


def print_summary(arguments: argparse.Namespace, result: MiningResult, total: int, dataset: PathDataset) -> None:
    """Print what was written and what was left out, with counts."""
    print(f"{arguments.out}: {len(result.rows):,} of {total:,} items with {arguments.negatives} negatives each")
    fate = "kept" if arguments.keep_short else "left out"
    for count, text in (
        (result.alone, "items are alone in their class and left out"),
        (result.empty, "items have no negative and are left out"),
        (result.short - result.empty, f"items have fewer negatives and are {fate}"),
        (result.by_margin, "candidates were left out by --margin"),
        (result.by_similarity, "candidates were left out by --max-similarity"),
    ):
        if count:
            print(f"  {count:,} {text}")
    records = f"type='datasets.Records', path='{arguments.out}', root='{dataset.root or '.'}'"
    fewest = min(len(negatives) for _, _, negatives in result.rows)
    print(f'Train on it: --cfg-options "train_dataloader.dataset=dict({records})" \\')
    sampler = f"type='retrieval.Pairs',batch_size={min(64, len(result.rows))},negatives={fewest}"
    print(f'  "train_dataloader.sampler=dict({sampler})" model.cross_view=True')
