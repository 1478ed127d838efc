"""The command `prepare_data`: any dataset's `prepare`, its keyword arguments as flags."""

from __future__ import annotations

import argparse
import inspect
import re
import types
import typing
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, Literal

from toolbox.cli.common import expand_arguments, run_command
from toolbox.cli.list_components import find_entries
from toolbox.errors import ToolboxError, format_command
from toolbox.registry import get_catalog

if TYPE_CHECKING:
    from toolbox.base import Dataset

USAGE = f"usage: {format_command('prepare_data')} NAME --out FOLDER [options]    (options of one dataset: NAME --help)"


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command; returns its exit code: 0 done, 2 the request was wrong or the data cannot be had."""
    arguments = expand_arguments(None if argv is None else list(argv))
    return run_command(lambda: prepare_dataset(arguments))


def prepare_dataset(arguments: list[str]) -> int:
    """Prepare the dataset named by the first argument; without one, list the datasets."""
    if not arguments or arguments[0] in ("-h", "--help"):
        print(USAGE)
        for entry in get_catalog().find(kind="dataset"):
            print(f"  {entry.fullname:24} {entry.summary}")
        return 0
    name, *flags = arguments
    if name.startswith("-"):
        raise ToolboxError(f"the name of the dataset comes first, not {name!r}.", hint=USAGE)
    fullname = find_dataset(name)
    dataset_class: type[Dataset] = get_catalog().resolve(fullname, kind="dataset")
    try:
        options = vars(make_dataset_parser(fullname, dataset_class.prepare).parse_args(flags))
    except SystemExit as exit:
        return int(exit.code or 0)
    try:
        summary = dataset_class.prepare(options.pop("out"), **options)
    except (OSError, ValueError) as error:
        raise ToolboxError(str(error)) from error
    print(summary)
    return 0


def find_dataset(name: str) -> str:
    """The full name of the dataset that `name` means: "sop", "datasets.SOP", or a namespace of one dataset.

    Raises ToolboxError with the nearest names if it means none, or several.
    """
    entries = find_entries(get_catalog(), name, "dataset")
    if len(entries) != 1:
        names = ", ".join(entry.fullname for entry in entries)
        message = f"{name!r} may be {names}." if entries else f"the plugin {name!r} has no dataset."
        raise ToolboxError(message, hint="Give the full name." if entries else "Without a NAME, all are listed.")
    return entries[0].fullname


def make_dataset_parser(fullname: str, prepare: Callable[..., str]) -> argparse.ArgumentParser:
    """A parser with one flag for each parameter of `prepare`; their help is its docstring."""
    document = inspect.getdoc(prepare) or ""
    bullets = dict(re.findall(r"^- `(\w+)`: (.+?)(?=^- `|^$|\Z)", document, re.DOTALL | re.MULTILINE))
    parser = argparse.ArgumentParser(
        prog=f"{format_command('prepare_data')} {fullname}",
        description=document.partition("\n\n")[0],
        allow_abbrev=False,
    )
    hints = typing.get_type_hints(prepare)
    for parameter in inspect.signature(prepare).parameters.values():
        text = " ".join(bullets.get(parameter.name, "").split()).replace("%", "%%")
        required = parameter.default is inspect.Parameter.empty
        if not required and parameter.default is not None:
            text += " (default: %(default)s)"
        parser.add_argument(
            "--" + parameter.name.replace("_", "-"),
            dest=parameter.name,
            required=required,
            default=None if required else parameter.default,
            help=text.strip(),
            **choose_conversion(fullname, parameter.name, hints.get(parameter.name, str)),
        )
    return parser


def choose_conversion(fullname: str, name: str, annotation: Any) -> dict[str, Any]:
    """What argparse needs to turn text into a value of `annotation`. Raises ToolboxError for a type it cannot."""
    origin, arguments = typing.get_origin(annotation), typing.get_args(annotation)
    if origin in (typing.Union, types.UnionType):
        others = [argument for argument in arguments if argument is not type(None)]
        if len(others) == 1:
            return choose_conversion(fullname, name, others[0])
    elif origin is Literal:
        return {"type": type(arguments[0]), "choices": arguments}
    elif origin is list and arguments:
        return {"nargs": "+", **choose_conversion(fullname, name, arguments[0])}
    elif annotation is bool:
        return {"action": argparse.BooleanOptionalAction}
    elif annotation in (int, float, str):
        return {"type": annotation, "metavar": annotation.__name__.upper()}
    raise ToolboxError(
        f"{fullname}.prepare takes {name}: {annotation}, which cannot be a flag.",
        hint="Use int, float, str, bool, Literal, a list of these, or one of them | None.",
    )
