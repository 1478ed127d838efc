"""The command `recipes`: the recipes that are installed, and the plugins that each needs."""

from __future__ import annotations

import json
from typing import Any

from toolbox.cli.common import new_parser, parse_and_run
from toolbox.errors import ToolboxError, format_command


def main(argv: list[str] | None = None) -> int:
    """Run the command; returns its exit code."""
    parser = new_parser("recipes", "List the recipes that are installed, and the plugins that each needs.")
    parser.add_argument("--json", action="store_true", help="print the list as JSON")
    return parse_and_run(parser, argv, lambda arguments: _print_recipes(as_json=arguments.json))


def _print_recipes(*, as_json: bool) -> int:
    from toolbox.config import list_recipes

    records = [_make_record(recipe) for recipe in list_recipes()]
    if as_json:
        print(json.dumps(records, indent=2))
        return 0
    width = max((len(record["name"]) for record in records), default=0)
    for record in records:
        print(f"{record['name']:{width}}  {record['summary']}")
        print(f"{'':{width}}  needs {', '.join(record['plugins'])}{' (see below)' if record['problems'] else ''}")
    print(f"\nTrain one: {format_command('train')} NAME")
    print("Change one: a file of your own that begins with `_base_ = ['core:NAME']` and sets what differs")
    for problem in dict.fromkeys(problem for record in records for problem in record["problems"]):
        print(problem)
    return 0


def _make_record(recipe) -> dict[str, Any]:
    """One recipe as `--json` shows it; keys are only ever added."""
    from toolbox.config import list_namespaces, load_config, to_dict
    from toolbox.registry import get_catalog

    record = {"name": recipe.name, "path": str(recipe.path), "summary": recipe.summary, "plugins": [], "problems": []}
    try:
        config = to_dict(load_config(recipe.path))
        made = [{"type": data.get("dataset")} for data in config.get("prepare") or []]
        record["plugins"] = sorted(list_namespaces(config | {"prepare": made}) - {"core"})
    except ToolboxError as error:
        record["problems"].append(str(error))
    for namespace in record["plugins"]:
        try:
            get_catalog().plugin(namespace)
        except ToolboxError as error:
            record["problems"].append(str(error))
    return record
