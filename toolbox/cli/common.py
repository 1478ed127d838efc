"""What all commands share: exit codes, the process's environment, and messages.

Messages of the Python API name its arguments, `resume=True`; `name_options` makes options of these, `--resume`.
"""

from __future__ import annotations

import argparse
import ast
import errno
import importlib
import io
import os
import re
import sys
from collections.abc import Callable, Iterable, Sequence
from importlib import metadata
from typing import TYPE_CHECKING

from toolbox.errors import Problem, ToolboxError, format_command

if TYPE_CHECKING:
    from toolbox.config import Config
    from toolbox.engine.signals import Interrupted

_REFUSALS = (errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EIO)  # of a disk, whatever was to be written
KNOWN_PAIR = "torch==2.15.0 torchvision==0.29.2"


def run_command(command: Callable[[], int]) -> int:
    """Run a command: 0 done, 2 something the user can mend (one message, no traceback), 128+n after signal n.

    Any other exception is a defect and keeps its traceback (exit code 1).
    """
    sys.stdout = sys.stdout or open(os.devnull, "w", encoding="utf-8")  # noqa: SIM115  (started with it closed)
    sys.stderr = sys.stderr or sys.stdout
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="backslashreplace")  # names of files may hold bytes that are no text
    try:
        return command()
    except ToolboxError as error:
        print_problems(error.problems)
        return 2
    except KeyboardInterrupt:
        print("Interrupted.", file=sys.stderr)
        return 130
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except OSError as error:
        if error.errno not in _REFUSALS:
            raise
        name = f"{error.filename} cannot be written: " if error.filename else ""
        print_problems([Problem(f"{name}{error.strerror}.", hint="Free some space, or write to another disk.")])
        return 2


def parse_and_run(
    parser: argparse.ArgumentParser, argv: list[str] | None, command: Callable[[argparse.Namespace], int]
) -> int:
    """Run a command with its arguments, options and positional ones in any order; as `run_command`.

    - `argv`: None for those of this process.
    """
    arguments = parser.parse_intermixed_args(expand_arguments(argv))
    return run_command(lambda: command(arguments))


def new_parser(name: str, description: str, epilog: str = "") -> argparse.ArgumentParser:
    """The parser of a sub-command. In its texts `{command}` stands for what a user types to run it."""
    command = format_command(name)
    return argparse.ArgumentParser(
        prog=command,
        description=description.replace("{command}", command),
        epilog=epilog.replace("{command}", command),
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )


def report_interruption(interrupted: Interrupted) -> int:
    """Say what an interrupted command has to say; returns its exit code, 128 + n after signal n."""
    print(name_options(str(interrupted)), file=sys.stderr)
    return 128 + interrupted.signum


def expand_arguments(argv: list[str] | None = None) -> list[str]:
    """A command's arguments with `~` expanded, as in `~/x` and `--out=~/x`, where no shell has done so.

    - `argv`: None for those of this process.
    """
    expanded = []
    for text in sys.argv[1:] if argv is None else argv:
        option, equals, value = text.partition("=")
        is_option = text.startswith("--") and bool(equals)
        expanded.append(option + equals + os.path.expanduser(value) if is_option else os.path.expanduser(text))
    return expanded


def add_recipe_arguments(parser: argparse.ArgumentParser, *, optional: bool = False) -> None:
    """What every command that takes a recipe takes; `optional`: whether the recipe may be left out."""
    parser.add_argument(
        "config",
        nargs="?" if optional else None,
        help="a recipe: a file, or the name of one that is installed (`recipes` lists them)",
    )
    parser.add_argument("--data", metavar="DATA", help="a folder, or a name that the recipe's dataset takes")
    parser.add_argument("--model", metavar="NAME", help="another encoder: a name, an id or a folder")
    parser.add_argument("--device", help="auto, cpu, cuda, cuda:1 ...")
    add_override_arguments(parser, "e.g. optim_wrapper.optimizer.lr=3e-4")


def add_override_arguments(parser: argparse.ArgumentParser, example: str) -> None:
    """`--plugin` and `--cfg-options` of a command; `example`: what the latter is for, as its help says it."""
    parser.add_argument("--plugin", action="append", default=[], metavar="FILE", help="load a local plugin")
    parser.add_argument(
        "--cfg-options",
        nargs="+",
        action="extend",
        default=[],
        metavar="KEY=VALUE",
        help=f"change keys of the recipe, {example}",
    )


def load_recipe(arguments: argparse.Namespace, kept: Sequence[str] = ()) -> Config:
    """The recipe that arguments of `add_recipe_arguments` mean.

    - `kept`: those of its options that a resumed run was started with; `--data` and `--model` replace them.
    """
    from toolbox import api
    from toolbox.recipe_arguments import find_keys

    options, named = arguments.cfg_options, {"data": arguments.data, "model": arguments.model}
    if kept and any(named.values()):
        keys = find_keys(api.load_config(arguments.config, (), arguments.plugin), named)
        options = [text for text in options if text not in kept or text.partition("=")[0] not in keys]
    return api.load_config(arguments.config, options, arguments.plugin, **named)


def print_problems(problems: Iterable[Problem]) -> None:
    """Print problems on standard error; the same one in several places is said once."""
    places: dict[tuple[str, str], list[str]] = {}
    for problem in problems:
        places.setdefault((problem.message, problem.hint), []).append(problem.where)
    for (message, hint), where in places.items():
        print(name_options(str(Problem(message, ", ".join(filter(None, where)), hint))), file=sys.stderr)
    if len(places) > 1:
        print(f"{len(places)} problems; nothing was run.", file=sys.stderr)


def name_options(text: str) -> str:
    """A message of the API, which names its arguments, as one of a command, which has options."""
    for python, option in _OPTIONS:
        text = re.sub(python, option, text)
    return text


_OPTIONS: list[tuple[str, str | Callable[[re.Match[str]], str]]] = [
    (r"plugins=\[([^]]*)\]", lambda match: " ".join(f"--plugin {name}" for name in ast.literal_eval(f"[{match[1]}]"))),
    (r"\bthe override (?=[\w.{<]+=)", "--cfg-options "),
    (r"(?:^|(?<=, ))overrides\b", "--cfg-options"),  # as a place
    (r"^splits\b", "--split"),
    (r"(?<![\w.])(resume|overwrite|merge)=True\b", r"--\1"),
    (r"(?<![\w.])skip_bad=True\b", "--on-bad-item skip"),
    (r"(?<![\w.])device='([\w:]+)'", r"--device \1"),
    (r"(?<=: )precision='(\w+)'", r"--precision \1"),
    (r"(?<=: )batch_size=(\d+)", r"--batch-size \1"),
    (r"\b(another|an|an empty|as) out folder\b", r"\1 --work-dir"),
    (r"\b(another|folder with) (out|page)\b", r"\1 --\2"),
    (r"\b([Ll]eave) (merge|onnx) out\b", r"\1 --\2 out"),
]


def prepare_process() -> None:
    """Settings that must stand before torch is imported, and a check that torch and torchvision fit together."""
    # waiting threads that spin starve busy neighbours: small steps were seen 20 to 30 times slower
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    os.environ.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "0" if sys.stderr.isatty() else "1")
    try:
        importlib.import_module("torch")
        importlib.import_module("torchvision")
    except (ImportError, RuntimeError, OSError, AttributeError) as error:
        versions = f"torch {_find_version('torch')} and torchvision {_find_version('torchvision')}"
        raise ToolboxError(
            f"{versions} do not work together: {error}",
            hint=f"Install builds that match, e.g. the known good pair: python -m pip install {KNOWN_PAIR}",
        ) from error


def _find_version(name: str) -> str:
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return "(not installed)"
