"""The command `cache`: the stored features on disk, and their removal."""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import TYPE_CHECKING

from toolbox.cli.common import new_parser, parse_and_run, prepare_process
from toolbox.errors import ToolboxError, format_command

if TYPE_CHECKING:
    from toolbox.feature_cache.inventory import StoreInfo

DESCRIPTION = """\
List the stored features of frozen encoders, or remove some. Stores are made by `train` and `extract` for recipes
with `features`; what is removed is computed again when a recipe needs it.

examples:
  {command}                                   what is stored, newest first
  {command} --superseded                      stores of data that have changed since, of which a newer one exists
  {command} --superseded --remove             delete them
  {command} ImageFolder-image-0123456789abcdef --remove
"""


def main(argv: list[str] | None = None) -> int:
    """Run the command; returns its exit code."""
    parser = new_parser("cache", DESCRIPTION)
    parser.add_argument("names", nargs="*", metavar="NAME", help="these stores alone")
    parser.add_argument(
        "--folder", default="work_dirs/features", metavar="DIR", help="`features.folder` of the recipes (%(default)s)"
    )
    parser.add_argument("--superseded", action="store_true", help="of one dataset and encoder all but the newest")
    parser.add_argument("--incomplete", action="store_true", help="those that were never finished")
    parser.add_argument("--all", action="store_true", help="with --remove: every store")
    parser.add_argument("--remove", action="store_true", help="delete what is chosen")
    parser.add_argument("--dry-run", action="store_true", help="with --remove: only say what would be deleted")
    parser.add_argument("--json", action="store_true", help="print the list as JSON")
    return parse_and_run(parser, argv, _manage_stores)


def _manage_stores(arguments: argparse.Namespace) -> int:
    prepare_process()
    from toolbox.feature_cache.inventory import find_superseded, list_stores, remove_store

    folder = Path(arguments.folder).expanduser()
    if not folder.is_dir():
        raise ToolboxError(f"There is no folder {folder}.", hint="--folder takes the `features.folder` of a recipe.")
    stores = list_stores(folder)
    old = {store.folder for store in find_superseded(stores)}
    chosen = _choose_stores(arguments, stores, old, folder)
    if arguments.remove and not arguments.dry_run:
        for store in chosen:
            remove_store(store)
    if arguments.json:
        rows = [{**store.describe(), "superseded": store.folder in old} for store in chosen]
        print(json.dumps(rows, indent=1, ensure_ascii=False, allow_nan=False))
        return 0
    _print_stores(chosen, old, folder)
    size = f"{sum(store.bytes for store in chosen) / 2**20:,.1f} MiB"
    count = f"{len(chosen)} store{'' if len(chosen) == 1 else 's'}"
    if not arguments.remove:
        print(f"{count}, {size} in {folder}.")
    else:
        print(f"{count} {'would be ' if arguments.dry_run else ''}removed, {size}.")
    return 0


def _choose_stores(
    arguments: argparse.Namespace, stores: list[StoreInfo], old: set[Path], folder: Path
) -> list[StoreInfo]:
    """The stores that the arguments name; all where they name none."""
    by_name = {store.folder.name: store for store in stores}
    for name in arguments.names:
        if name not in by_name:
            raise ToolboxError(f"{folder} holds no store {name!r}.", hint=f"{format_command('cache')} lists them.")
    filtered = arguments.names or arguments.superseded or arguments.incomplete
    if arguments.remove and not (filtered or arguments.all):
        raise ToolboxError(
            "Say which stores to remove.",
            where="--remove",
            hint="Name them, or add --superseded, --incomplete or --all.",
        )
    if not filtered:
        return stores
    return [
        store
        for store in stores
        if store.folder.name in arguments.names
        or (arguments.superseded and store.folder in old)
        or (arguments.incomplete and not store.complete)
    ]


def _print_stores(stores: list[StoreInfo], old: set[Path], folder: Path) -> None:
    from rich.table import Table

    from toolbox.cli.tables import make_terminal

    if not stores:
        return
    table = Table("store", "data", "items", "rows", "MiB", "changed", "state")
    for store in stores:
        row = store.describe()
        data = " ".join(str(row[key]) for key in ("dataset", "data", "split") if row[key])
        state = "incomplete" if not store.complete else "superseded" if store.folder in old else "complete"
        shape = f"{row['views'] or 'texts'} x {row['width']} {row['dtype']}" if row["width"] else ""
        items = "" if row["items"] is None else f"{row['items']:,}"
        table.add_row(row["name"], data, items, shape, f"{row['bytes'] / 2**20:,.1f}", row["changed"], state)
    make_terminal().print(table, markup=False)
