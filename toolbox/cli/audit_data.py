"""The command `audit_data`: duplicates, conflicts of labels, repeated texts, leaks and unreadable files of data."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING, Any, TextIO

from toolbox.cli.common import add_override_arguments, new_parser, parse_and_run, prepare_process
from toolbox.errors import ToolboxError

if TYPE_CHECKING:
    from toolbox.base import Dataset
    from toolbox.data_audit import Counts, Fingerprint, Pair

EPILOG = """\
Looks at every image of train_dataloader, val_dataloader and test_dataloader, without augmentation, or at those of a
folder or a list:
  same file        items whose file has the same bytes as an earlier one's
  same pixels      others whose decoded image is the same
  label conflicts  those of both whose copy is of another class, in the same split or in another one
  near             with --near: pairs whose 64-bit difference hashes differ in at most 3 bits; candidates to look at
  classes in both  classes of one name: as it should be to classify, a leak where the test is to have new classes; empty
                   where data name no classes, such as records without labels
  repeated texts   texts that an earlier item has too, letter by letter; of items with texts, such as captions
  words of the longest  of these texts; how many tokens that is depends on the tokenizer
In a column of two splits, such as train+test, an item of the second is counted that also stands in the first: a leak.
OUT gets a line for each pair, and for each unreadable item. The exit code is 0 whatever is found, 2 when the request is
wrong.
"""


def main(argv: list[str] | None = None) -> int:
    """Run the command; returns its exit code: 0 done, whatever was found, 2 the request was wrong."""
    from toolbox.cli.model_commands import make_stoppable, whole_number

    parser = new_parser("audit_data", "Find duplicates and leaks in a recipe's data.", epilog=EPILOG)
    parser.add_argument(
        "config", metavar="CONFIG", help="a recipe, a checkpoint or a run's folder; or a folder, list of images"
    )
    parser.add_argument("--out", type=Path, metavar="OUT", help="a file that ends in .jsonl, for the pairs")
    parser.add_argument("--near", action="store_true", help="also look for near duplicates")
    parser.add_argument(
        "--workers", type=whole_number(1), metavar="N", help="threads that decode (the number of cores)"
    )
    add_override_arguments(parser, "e.g. train_dataloader.dataset.root=data/other")
    parser.add_argument("--overwrite", action="store_true", help="replace OUT")
    return parse_and_run(parser, argv, make_stoppable(_audit))


def _audit(arguments: argparse.Namespace) -> int:
    if arguments.out is not None and arguments.out.suffix != ".jsonl":
        raise ToolboxError(f"{arguments.out} must end in .jsonl.", where="--out")
    prepare_process()
    from toolbox.base.files import check_file
    from toolbox.data_audit import Counts, find_duplicates, find_near_duplicates, find_repeated_texts
    from toolbox.engine.device import cores

    if arguments.out is not None:
        check_file(arguments.out, overwrite=arguments.overwrite)
    fingerprints = _read_fingerprints(arguments, arguments.workers or cores())
    counts = Counts(fingerprints)
    with nullcontext() if arguments.out is None else _open_lines(arguments.out) as out:
        for item in fingerprints:
            if item.error:
                _write_line(out, {"kind": "unreadable", **_describe_item(item), "error": item.error})
        for pair in chain(find_duplicates(fingerprints), find_repeated_texts(fingerprints)):
            _count_pair(pair, fingerprints, counts, out)
        crowded = 0
        if arguments.near:
            pairs, crowded = find_near_duplicates(fingerprints)
            for pair in pairs:
                _count_pair(pair, fingerprints, counts, out)
    _print_counts(counts, near=arguments.near)
    if crowded:
        print(f"{crowded:,} images share their hash with hundreds of others: it says nothing, and they are left out.")
    if arguments.out is not None:
        print(f"Pairs: {arguments.out}")
    return 0


def _read_fingerprints(arguments: argparse.Namespace, workers: int) -> list[Fingerprint]:
    """The fingerprints of all splits."""
    from toolbox.cli.model_commands import find_model_kind, load_named_recipe, show_progress
    from toolbox.config import apply_changes, load_plugins, validate
    from toolbox.data_audit import read_fingerprints
    from toolbox.engine.device import limit_images
    from toolbox.inference.image_sources import find_image_sources

    load_plugins(arguments.plugin)
    if _is_image_source(arguments.config):
        limit_images(apply_changes({}, arguments.cfg_options))
        splits: dict[str, Dataset] = {"images": find_image_sources(arguments.config)}
    else:
        if find_model_kind(arguments.config) == "backbone":
            raise ToolboxError(f"{arguments.config} is no recipe, no checkpoint and no run's folder.")
        recipe = load_named_recipe(arguments.config, arguments.cfg_options, arguments.plugin)
        if problems := validate(recipe):
            raise ToolboxError.from_problems(problems)
        limit_images(recipe)
        splits = _build_datasets(recipe)
    for split, dataset in splits.items():
        for note in dataset.notes():
            print(f"{split}: {note}")
    print(f"Reading {sum(map(len, splits.values())):,} images of {arguments.config}: {', '.join(splits)}", flush=True)
    fingerprints: list[Fingerprint] = []
    with show_progress(sum(map(len, splits.values())), "reading") as advance:
        for split, dataset in splits.items():
            for fingerprint in read_fingerprints(dataset, split, near=arguments.near, workers=workers):
                fingerprints.append(fingerprint)
                advance(len(fingerprints))
    return fingerprints


def _is_image_source(name: str) -> bool:
    """Whether a command's argument is a folder of images, an image, or a list, and no recipe and no run."""
    from toolbox.engine.checkpoint.run_folder import holds_run

    path = Path(name).expanduser()
    if path.is_dir():
        return not holds_run(path) and not (path / "manifest.json").is_file()
    return path.is_file() and path.suffix != ".py"


def _build_datasets(recipe: dict[str, Any]) -> dict[str, Dataset]:
    """The different datasets of a recipe. Raises ToolboxError if one cannot be listed; missing files are only named."""
    from toolbox.registry import build

    splits: dict[str, Dataset] = {}
    seen: list[tuple[str, Any]] = []
    for split in ("train", "val", "test"):
        key = f"{split}_dataloader.dataset"
        settings = (recipe.get(f"{split}_dataloader") or {}).get("dataset")
        if settings is None:
            continue
        if twin := next((name for name, other in seen if other == settings), None):
            print(f"{key} is the same as {twin}_dataloader.dataset: all of it is in both.", file=sys.stderr)
            continue
        seen.append((split, settings))
        dataset = build(settings, "dataset", where=key)
        problems = [problem.with_prefix(key) for problem in dataset.check()]
        try:
            _ = len(dataset), dataset.labels, dataset.classes  # read here, where no other thread does
        except (OSError, ValueError) as error:
            raise (ToolboxError.from_problems(problems) if problems else ToolboxError(str(error), where=key)) from error
        if problems and not len(dataset):
            raise ToolboxError.from_problems(problems)
        for problem in problems:
            print(problem, file=sys.stderr)
        splits[split] = dataset
    if not any(map(len, splits.values())):
        raise ToolboxError("The recipe names no data, or empty ones.", where="train_dataloader.dataset")
    return splits


@contextmanager
def _open_lines(path: Path) -> Iterator[TextIO]:
    """The file to write to, whole or absent."""
    from toolbox.base.files import new_file

    with new_file(path) as beside, beside.open("w", encoding="utf-8", errors="backslashreplace", newline="\n") as file:
        yield file


def _count_pair(pair: Pair, fingerprints: list[Fingerprint], counts: Counts, out: TextIO | None) -> None:
    """Count a pair and write it down."""
    from toolbox.data_audit import is_label_conflict, name_splits

    counts.add(pair)
    line = {
        "kind": pair.kind,
        "where": name_splits(fingerprints, pair),
        "distance": pair.distance,
        "label_conflict": is_label_conflict(fingerprints, pair),
        "first": _describe_item(fingerprints[pair.first]),
        "second": _describe_item(fingerprints[pair.second]),
    }
    _write_line(out, line)


def _describe_item(item: Fingerprint) -> dict[str, Any]:
    return {"split": item.split, "index": item.index, "id": item.id, "path": item.path, "label": item.label}


def _write_line(out: TextIO | None, line: dict[str, Any]) -> None:
    if out is not None:
        out.write(json.dumps(line, ensure_ascii=False) + "\n")


def _print_counts(counts: Counts, *, near: bool) -> None:
    """The table of counts; what nothing can be counted for stays empty."""
    from rich.console import Console

    from toolbox.cli.tables import make_number_table

    splits = list(counts.rows["images"])
    both = [f"{first}+{second}" for at, second in enumerate(splits) for first in splits[:at]]
    table = make_number_table("", *splits, *both)
    for name, row in counts.rows.items():
        if name == "near" and not near:
            continue
        inside = name != "classes in both"
        across = name not in ("images", "unreadable", "texts", "words of the longest")
        cells = [f"{row[split]:,}" if inside else "" for split in splits]
        table.add_row(name, *cells, *(f"{row[pair]:,}" if across and (inside or pair in row) else "" for pair in both))
    Console().print(table)
    leaks = sum(row[pair] for name, row in counts.rows.items() if name.startswith("same") for pair in both)
    wrong, unreadable = sum(counts.rows["label conflicts"].values()), sum(counts.rows["unreadable"].values())
    totals = [f"{leaks:,} leaks between splits", f"{wrong:,} label conflicts", f"{unreadable:,} unreadable items"]
    if "texts" in counts.rows:
        totals.append(f"{sum(counts.rows['repeated texts'][pair] for pair in both):,} texts in two splits")
    print(", ".join(totals) + ".")
