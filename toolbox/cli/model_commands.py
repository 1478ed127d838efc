"""What commands that run a model over images share: arguments, the model and data that they name, progress."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from toolbox.cli.common import add_override_arguments, report_interruption
from toolbox.errors import ToolboxError
from toolbox.loading import find_model_kind
from toolbox.registry import build

if TYPE_CHECKING:
    from toolbox.base import Batch, Dataset, LoadedModel
    from toolbox.engine.distributed.context import DistributedContext
    from toolbox.engine.inference import Outputs
    from toolbox.inference.image_sources import ImageSource
    from toolbox.inference.item_outputs import ItemOutputs
    from toolbox.utils.model_io import Modality


def add_model_arguments(parser: argparse.ArgumentParser, *, backbone: bool = True, baseline: bool = True) -> None:
    """The arguments that `load_from_arguments`, `load_images` and `collect_outputs` read, beside `model` and `images`.

    - `backbone`: whether `model` may be the id of a backbone; `baseline`: whether its head may be left out.
    """
    parser.add_argument("--batch-size", type=whole_number(1), default=64, metavar="N", help="images at a time (64)")
    parser.add_argument("--num-workers", type=whole_number(0), metavar="N", help="processes that read (half the cores)")
    parser.add_argument("--device", help="auto, cpu, cuda, cuda:1 ...")
    add_precision(parser)
    parser.add_argument(
        "--on-bad-item",
        choices=["raise", "skip"],
        default="raise",
        help="what an unreadable image does: stop (default), or be left out and named",
    )
    if baseline:
        parser.add_argument(
            "--baseline", action="store_true", help="leave the head out: pooled features of the backbone"
        )
    else:
        parser.set_defaults(baseline=False)
    if backbone:
        parser.add_argument("--backbone", metavar="TYPE", help="the component that an id means (namespace.Name)")
    else:
        parser.set_defaults(backbone=None)
    add_override_arguments(parser, "e.g. model.pool=mean model.backbone.size=448")
    parser.add_argument("--overwrite", action="store_true", help="replace the file")


def add_precision(parser: argparse.ArgumentParser) -> None:
    """The argument that chooses the precision."""
    parser.add_argument(
        "--precision",
        choices=["fp32", "bf16", "fp16"],
        help="compute in it (default: as the run was evaluated; fp32 for a bare backbone)",
    )


def load_from_arguments(
    arguments: argparse.Namespace, overrides: list[str], distributed: DistributedContext
) -> LoadedModel:
    """The model that `arguments.model` means: a checkpoint or a run, a recipe, or a backbone's id.

    - `distributed`: the processes that compute together, each on a device of its own.
    """
    from toolbox.engine.device import choose_device, set_threads
    from toolbox.loading import load_model

    kind = find_model_kind(arguments.model)
    if kind != "backbone" and arguments.backbone:
        raise ToolboxError(
            f"--backbone says what an id means, and {arguments.model} is a {kind}.", hint="Leave it out."
        )
    processes, device = distributed.rank_info.local_world_size, arguments.device
    if distributed.world_size > 1:  # each on a device of its own
        device = str(choose_device(device or "auto", distributed.rank_info))
    set_threads(None, processes)
    model = load_model(
        arguments.model,
        device=device,
        precision=arguments.precision,
        overrides=overrides,
        plugins=arguments.plugin,
        backbone=arguments.backbone,
        baseline=arguments.baseline,
    )
    set_threads((model.recipe.get("env_cfg") or {}).get("threads"), processes)
    distributed.start(model.device)
    return model


def build_split(recipe: dict[str, Any], split: str) -> Dataset:
    """The dataset of a recipe's split, checked. Raises ToolboxError with its problems."""
    loader, where = recipe.get(f"{split}_dataloader"), f"{split}_dataloader.dataset"
    if not loader:
        names = [name for name in ("train", "val", "test") if recipe.get(f"{name}_dataloader")]
        raise ToolboxError(f"The recipe has no {split}_dataloader.", hint=f"It has {', '.join(names)}.")
    dataset = build(loader["dataset"], "dataset", where=where)
    if problems := [problem.with_prefix(where) for problem in dataset.check()]:
        raise ToolboxError.from_problems(problems)
    return dataset


def load_named_recipe(name: str, overrides: list[str], plugins: list[str]) -> dict[str, Any]:
    """The recipe that a command's argument means: a recipe's file, or the one in a checkpoint."""
    from toolbox.config import apply_changes, load_config, to_dict
    from toolbox.engine.checkpoint import checkpoint as checkpoints

    if find_model_kind(name) == "checkpoint":
        return apply_changes(checkpoints.read(name).manifest["recipe"], overrides, plugins, name)
    if find_model_kind(name) == "recipe":
        return to_dict(load_config(name, overrides, plugins))
    raise ToolboxError(
        f"--split names data of a recipe or a checkpoint, and '{name}' is neither.",
        hint="For a bare backbone, name it in the recipe: --cfg-options model.backbone.name=...",
    )


def load_split(arguments: argparse.Namespace) -> Dataset:
    """The data that `arguments.split` names in the recipe that `arguments.model` means, checked."""
    return build_split(load_named_recipe(arguments.model, arguments.cfg_options, arguments.plugin), arguments.split)


def collect_outputs(
    model: LoadedModel,
    dataset: Dataset,
    arguments: argparse.Namespace,
    convert: Callable[[Outputs, Batch], Any],
    *,
    what: str = "embedding",
    modality: Modality = "image",
) -> ItemOutputs:
    """Run a model over images or texts as the arguments say, showing how far it is and what could not be read.

    - `convert`: makes of the outputs of a batch, and the batch, a list or an array with a row for each image. Rows are
      on the CPU: they travel between processes.
    - `what`: what is done, for the progress; `modality`: what the model is given of the items.

    Returns `rows`, their `ids` and `indices` in the dataset's order, and the `bad`, (index, message) of unreadable
    images. Of several processes only the main one gets them.
    """
    from toolbox.engine.data.bad_items import list_messages
    from toolbox.engine.device import cores
    from toolbox.inference.item_outputs import join_outputs, run_over_items

    with show_progress(len(dataset), what) as advance:
        pieces = run_over_items(
            model.model,
            dataset,
            model.device,
            convert,
            precision=model.precision,
            mode=model.mode,
            batch_size=arguments.batch_size,
            workers=max(1, cores() // 2) if arguments.num_workers is None else arguments.num_workers,
            skip_bad=arguments.on_bad_item == "skip",
            modality=modality,
            progress=advance,
        )
        outputs = join_outputs(pieces, len(dataset))
    for _, message in outputs.bad:
        print(f"Left out: {list_messages([message])}", file=sys.stderr)
    return outputs


def embed_dataset(
    model: LoadedModel, dataset: Dataset, arguments: argparse.Namespace, *, modality: Modality = "image"
) -> ItemOutputs:
    """Embed a dataset as the arguments say; `rows` is (N, D) float32, of length 1. Otherwise as `collect_outputs`."""
    from toolbox.utils.model_io import get_unit_embeddings

    def convert(outputs: Outputs, batch: Batch) -> Any:
        return get_unit_embeddings(outputs, batch.ids, modality=modality).numpy()

    return collect_outputs(model, dataset, arguments, convert, modality=modality)


def load_images(arguments: argparse.Namespace) -> ImageSource:
    """The dataset of the folders, images and lists that `arguments.images` names.

    Raises ToolboxError naming what is not there; images that a list names may be absent with `--on-bad-item skip`: they
    are found unreadable later, and left out.
    """
    from toolbox.inference.image_sources import find_image_sources

    dataset = find_image_sources(*arguments.images)
    missing = dataset.missing()
    if missing and arguments.on_bad_item != "skip":
        listed = ", ".join(missing[:10]) + (" ..." if len(missing) > 10 else "")
        where = f"{shorten_list(arguments.images)} do not exist below {dataset.root}"
        raise ToolboxError(
            f"{len(missing)} of {len(dataset)} images of {where}: {listed}.",
            hint="Mend the list or the links, or leave them out with --on-bad-item skip.",
        )
    return dataset


def shorten_list(names: list[str]) -> str:
    """The first three of several names, and how many more there are."""
    return ", ".join(names[:3]) + (f" and {len(names) - 3:,} more" if len(names) > 3 else "")


def describe_model(model: LoadedModel) -> str:
    """What a model is and how it computes, for the line that a command begins with."""
    return f"{model.description}, in {model.precision.name} on {model.device}"


@contextmanager
def show_progress(total: int, what: str = "embedding") -> Iterator[Callable[[int], None]]:
    """A function to call with the number of items that are done; it moves a bar, or prints a line every few seconds.

    After Ctrl-C or SIGTERM its next call raises Interrupted, when the loader's workers are at rest.
    """
    from toolbox.engine.signals import Interrupted, StopSignal
    from toolbox.progress import choose_console

    display = choose_console()
    with StopSignal() as stop:

        def advance(count: int) -> None:
            if stop.received is not None:
                raise Interrupted(stop.received, "Interrupted: nothing was written.")
            display.reach(what, count, total)

        try:
            yield advance
        finally:
            display.stop()


def make_stoppable(command: Callable[[argparse.Namespace], int]) -> Callable[[argparse.Namespace], int]:
    """The command, ending with 128 + n when signal n stopped it."""

    def run(arguments: argparse.Namespace) -> int:
        from toolbox.engine.signals import Interrupted

        try:
            return command(arguments)
        except Interrupted as interrupted:
            return report_interruption(interrupted)

    return run


def whole_number(least: int) -> Callable[[str], int]:
    """The `type` of an argument that is a whole number from `least` up."""

    def number(text: str) -> int:
        value = int(text)
        if value < least:
            raise argparse.ArgumentTypeError(f"it must be at least {least}, not {value}")
        return value

    return number
