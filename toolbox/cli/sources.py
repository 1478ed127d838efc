"""What a command embeds with, and what it embeds: both may be said in several ways."""

from __future__ import annotations

import argparse
import difflib
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from toolbox.errors import Problem, ToolboxError
from toolbox.registry import build, catalog, parameters

if TYPE_CHECKING:
    from toolbox.base import Dataset, Model
    from toolbox.engine.judging.embed import Embedded
    from toolbox.engine.judging.pictures import Pictures
    from toolbox.engine.precision import Precision
    from toolbox.plugin import Device


@dataclass
class Source:
    """A model that is ready to encode.

    - `precision`: that it encodes in.
    - `mode`: "predict", or "baseline" for its backbone without a head.
    - `told`: what it is, for the user.
    """

    model: Model
    device: Device
    precision: Precision
    mode: str
    told: str


def add_source_arguments(
    parser: argparse.ArgumentParser, *, backbone: bool = True, baseline: bool = True
) -> None:  # fmt: skip
    """The arguments that `load_source` and `run` read, beside `model`.

    - `backbone`: whether `model` may be the id of a backbone; `baseline`: whether its head may be left out.
    """
    parser.add_argument("--batch-size", type=from_least(1), default=64, metavar="N", help="images at a time (64)")
    parser.add_argument("--num-workers", type=from_least(0), metavar="N", help="processes that read (half the cores)")
    parser.add_argument("--device", help="auto, cpu, cuda, cuda:1 ...")
    add_precision(parser)
    parser.add_argument("--on-bad-item", choices=["raise", "skip"], default="raise",
                        help="what an unreadable image does: stop (default), or be left out and named")  # fmt: skip
    if baseline:
        parser.add_argument(
            "--baseline", action="store_true", help="leave the head out: pooled features of the backbone"
        )
    if backbone:
        parser.add_argument("--backbone", metavar="TYPE", help="the component that an id means, e.g. core.Timm")
    else:
        parser.set_defaults(backbone=None)
    parser.add_argument("--plugin", action="append", default=[], metavar="FILE", help="load a local plugin")
    parser.add_argument("--cfg-options", nargs="+", action="extend", default=[], metavar="KEY=VALUE",
                        help="change keys of the recipe, e.g. model.pool=mean model.backbone.size=448")  # fmt: skip
    parser.add_argument("--overwrite", action="store_true", help="replace the file")


def add_precision(parser: argparse.ArgumentParser) -> None:
    """The argument that chooses the precision."""
    parser.add_argument(
        "--precision", choices=["fp32", "bf16", "fp16"],
        help="compute in it (default: as the run was evaluated; fp32 for a bare backbone)",
    )  # fmt: skip


def load_source(arguments: argparse.Namespace, overrides: list[str]) -> Source:
    """The model that `arguments.model` means: a checkpoint or a run, a recipe, or a backbone's id."""
    from toolbox import api
    from toolbox.config import changed, complete, load_plugins
    from toolbox.engine.device import choose_device, set_threads

    name, device = arguments.model, arguments.device or "auto"
    load_plugins(arguments.plugin)
    set_threads(None)
    kind = kind_of(name)
    if kind != "backbone" and arguments.backbone:
        raise ToolboxError(f"--backbone says what an id means, and {name} is a {kind}.", hint="Leave it out.")
    if kind == "checkpoint":
        encoder = api.load(
            name, device=device, overrides=overrides, plugins=arguments.plugin, precision=arguments.precision
        )
        set_threads((encoder.recipe.get("env_cfg") or {}).get("threads"))
        told = f"{name}, step {encoder.identity['step']}"
        if arguments.baseline:
            return Source(encoder.model, encoder.device, encoder.precision, "baseline", f"{told}, without its head")
        return Source(encoder.model, encoder.device, encoder.precision, "predict", told)
    if kind == "recipe":
        recipe = api.runnable(api.load_config(name, overrides, arguments.plugin), arguments.device, training=False)
        told = f"{name}, zero-shot: pooled features of its backbone"
        return _zero_shot(recipe, choose_device(recipe["env_cfg"]["device"]), told, arguments.precision)
    component = arguments.backbone or component_of(name)
    given = {"type": "core.Embedder", "backbone": {"type": component, "name": name}}
    bare = complete(changed({"model": given}, overrides))
    told = f"{component} {name}, zero-shot, pool '{_pool(bare)}'"
    return _zero_shot(bare, choose_device(device), told, arguments.precision)


def _zero_shot(recipe: dict[str, Any], device: Device, told: str, precision: str | None) -> Source:
    import torch

    from toolbox.engine.assemble import build_model
    from toolbox.engine.device import limit_images
    from toolbox.engine.precision import eval_precision
    from toolbox.engine.saving import checkpoint as checkpoints

    limit_images(recipe)
    found = checkpoints.start_of(recipe)
    classes = found.manifest["classes"] if found else 2  # a head is left out, whatever its size
    model = build_model(recipe, seed=0, classes=classes, checkpoint=found, training=False)
    how = eval_precision(recipe, device, precision)
    return Source(model.to(torch.device(str(device))).eval(), device, how, "baseline", told)


def _pool(recipe: dict[str, Any]) -> str:
    pool = recipe["model"].get("pool", "cls")
    return pool if isinstance(pool, str) else pool.get("type", "?")


def kind_of(name: str) -> str:
    """Whether a command's argument means a "checkpoint", a "recipe", or a "backbone" by its id or folder.

    Raises ToolboxError for a run that is not there, beside others: any other path might be the id of a backbone.
    """
    path = Path(name)
    if not path.exists() and path.suffix != ".py" and path.parent.is_dir():
        runs = sorted(file.parent.name for file in path.parent.glob("*/config.py"))
        if runs and len(path.parts) > 1:
            near = difflib.get_close_matches(path.name, runs, n=1) or runs
            raise ToolboxError(f"{name} does not exist.", hint=f"In {path.parent} there is, e.g., {near[0]}.")
    if path.is_dir():
        ours = any((path / inner / "manifest.json").is_file() for inner in ("", "best", "last"))
        return "backbone" if not ours and (path / "config.json").is_file() else "checkpoint"
    namespace, colon, _ = name.partition(":")
    shipped = bool(colon) and namespace in {plugin.namespace for plugin in catalog().plugins}
    return "recipe" if shipped or path.suffix == ".py" or path.is_file() else "backbone"


def component_of(name: str) -> str:
    """The first backbone component that takes `name`: those of plugins first, the built-in ones last.

    Raises ToolboxError with what each of them says when none does.
    """
    import torch

    said: list[tuple[str, Problem]] = []
    for entry in sorted(catalog().find("backbone"), key=lambda entry: entry.namespace == "core"):
        if entry.missing:
            continue
        try:
            known = {parameter.name: parameter for parameter in parameters(catalog().resolve(entry.fullname))}
            if "name" not in known or any(p.required for p in known.values() if p.name != "name"):
                continue
            with torch.device("meta"):
                backbone = build({"type": entry.fullname, "name": name}, "backbone", where=entry.fullname)
        except ToolboxError as error:
            said.append((entry.fullname, error.problems[0]))
            continue
        if backbone.modality == "image":
            return entry.fullname
    hint = " ".join(f"{entry}: {problem.message}" for entry, problem in said)
    raise ToolboxError(f"'{name}' is no checkpoint, no recipe, and no backbone that is known here.", hint=hint)


def split_of(recipe: dict[str, Any], split: str) -> Dataset:
    """The dataset of a recipe's split, checked. Raises ToolboxError with its problems."""
    loader, where = recipe.get(f"{split}_dataloader"), f"{split}_dataloader.dataset"
    if not loader:
        names = [name for name in ("train", "val", "test") if recipe.get(f"{name}_dataloader")]
        raise ToolboxError(f"The recipe has no {split}_dataloader.", hint=f"It has {', '.join(names)}.")
    dataset = build(loader["dataset"], "dataset", where=where)
    problems = [problem.under(where) for problem in dataset.check()]
    if problems:
        raise ToolboxError.of(problems)
    return dataset


def recipe_of(name: str, overrides: list[str], plugins: list[str]) -> dict[str, Any]:
    """The recipe that a command's argument means: a recipe's file, or the one in a checkpoint."""
    from toolbox.config import changed, load_config, to_dict
    from toolbox.engine.saving import checkpoint as checkpoints

    if kind_of(name) == "checkpoint":
        return changed(checkpoints.read(name).manifest["recipe"], overrides, plugins, name)
    if kind_of(name) == "recipe":
        return to_dict(load_config(name, overrides, plugins))
    raise ToolboxError(f"--split names data of a recipe or a checkpoint, and '{name}' is neither.")


def run(source: Source, dataset: Dataset, arguments: argparse.Namespace) -> Embedded:
    """Embed a dataset as the arguments say, telling how far it is and which items could not be read."""
    from toolbox.engine.judging.embed import embed

    with progress(len(dataset)) as advance:
        found = embed(
            source.model, dataset, source.device, precision=source.precision, mode=source.mode,
            batch_size=arguments.batch_size, workers=workers_of(arguments), skip_bad=arguments.on_bad_item == "skip",
            progress=advance,
        )  # fmt: skip
    tell_bad(found.bad)
    return found


def workers_of(arguments: argparse.Namespace) -> int:
    """How many processes read."""
    from toolbox.engine.device import cores

    return max(1, cores() // 2) if arguments.num_workers is None else arguments.num_workers


def tell_bad(bad: list[tuple[int, str]]) -> None:
    """Name the items that were left out."""
    for _, message in bad:
        print(f"Left out: {message}", file=sys.stderr)


def pictures_of(images: str, *, skip_bad: bool) -> Pictures:
    """The pictures that a command's argument means. Raises ToolboxError naming those that are not there.

    - `skip_bad`: let them be found unreadable later, and be left out.
    """
    from toolbox.engine.judging.pictures import find_pictures

    found = find_pictures(images)
    missing = found.missing()
    if missing and not skip_bad:
        listed = ", ".join(missing[:10]) + (" ..." if len(missing) > 10 else "")
        raise ToolboxError(
            f"{len(missing)} of {len(found)} images of {images} do not exist below {found.root}: {listed}.",
            hint="Mend the list or the links, or leave them out with --on-bad-item skip.",
        )
    return found


@contextmanager
def progress(total: int, what: str = "embedding") -> Iterator[Callable[[int], None]]:
    """A function to call with what is done: it moves a bar on a terminal, elsewhere prints a line every ten seconds.

    After Ctrl-C or SIGTERM its next call raises Interrupted, when the loader's workers are at rest.
    """
    from toolbox.engine.signals import Interrupted, StopSignal

    with StopSignal() as stop, _shown(total, what) as show:

        def advance(done: int) -> None:
            if stop.received is not None:
                raise Interrupted(stop.received, "Interrupted: nothing was written.")
            show(done)

        yield advance


@contextmanager
def _shown(total: int, what: str) -> Iterator[Callable[[int], None]]:
    if sys.stdout.isatty():
        from rich.progress import Progress

        with Progress(transient=True) as bar:
            task = bar.add_task(what, total=total)
            yield lambda done: bar.update(task, completed=done)
        return
    begun = last = time.monotonic()

    def tell(done: int) -> None:
        nonlocal last
        now = time.monotonic()
        if now - last >= 10:
            last = now
            print(f"{what} {done:,}/{total:,}, {done / (now - begun):.0f} a second", flush=True)

    yield tell


def stoppable(command: Callable[[], int]) -> Callable[[], int]:
    """The command, ending with 128 + n when signal n stopped it."""

    def run() -> int:
        from toolbox.engine.signals import Interrupted

        try:
            return command()
        except Interrupted as interrupted:
            print(interrupted, file=sys.stderr)
            return 128 + interrupted.signum

    return run


def from_least(least: int) -> Callable[[str], int]:
    """What argparse needs for a whole number from `least` up."""

    def number(text: str) -> int:
        value = int(text)
        if value < least:
            raise argparse.ArgumentTypeError(f"it must be at least {least}, not {value}")
        return value

    return number
