"""What the name of a model means, and the loaded model that it gives.

`find_model_kind` tells a checkpoint or a run's folder, a recipe, and the name of a backbone apart, in this order.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from toolbox.config import apply_changes, complete, is_shipped, load_config, load_plugins, validate
from toolbox.errors import Problem, ToolboxError
from toolbox.planning import make_runnable
from toolbox.registry import build, get_catalog, read_parameters

if TYPE_CHECKING:
    from toolbox.base import Backbone, LoadedModel
    from toolbox.engine.checkpoint.checkpoint import Checkpoint

Overrides = Mapping[str, Any] | Iterable[str]


def load_model(
    name: str,
    *,
    device: str | None = None,
    precision: str | None = None,
    overrides: Overrides = (),
    plugins: Iterable[str] = (),
    backbone: str | None = None,
    baseline: bool = False,
) -> LoadedModel:
    """The model that a name means; arguments as of `toolbox.load`.

    - `device`: default: of a recipe what it says, else "auto".
    - `backbone`: the component that an id means, "namespace.Name"; default: the first that takes it.
    - `baseline`: leave the head of a trained model out: the pooled features of its backbone.
    """
    from toolbox.engine.checkpoint import checkpoint as checkpoints

    name, plugins = str(Path(name).expanduser()) if name.startswith("~") else name, list(plugins)
    load_plugins(plugins)
    kind = find_model_kind(name)
    if kind == "checkpoint":
        return open_checkpoint(
            checkpoints.read(name),
            name=name,
            device=device or "auto",
            precision=precision,
            overrides=overrides,
            plugins=plugins,
            baseline=baseline,
        )
    if kind == "recipe":
        recipe = make_runnable(load_config(name, overrides, plugins), device, training=False)
        description = f"{name}, zero-shot: pooled features of its backbone"
        return _load_zero_shot(recipe, description, recipe["env_cfg"]["device"], precision)
    component = backbone or find_component(name)
    bare = {"model": {"type": "core.PooledFeatures", "backbone": {"type": component, "name": name}}}
    recipe = complete(apply_changes(bare, overrides, plugins))
    pool = recipe["model"].get("pool", "cls")
    pool = pool if isinstance(pool, str) else "none" if pool is None else pool.get("type", "?")
    return _load_zero_shot(recipe, f"{component} {name}, zero-shot, pool '{pool}'", device or "auto", precision)


def open_checkpoint(
    checkpoint: Checkpoint,
    *,
    name: str | None = None,
    device: str = "auto",
    precision: str | None = None,
    overrides: Overrides = (),
    plugins: Iterable[str] = (),
    baseline: bool = False,
) -> LoadedModel:
    """The model of a checkpoint; arguments as of `load_model`, `name` being what the user calls it."""
    recipe = apply_changes(checkpoint.manifest["recipe"], overrides, plugins, str(checkpoint.path))
    if problems := validate(recipe):
        raise ToolboxError.from_problems(problems)
    description = f"{name or checkpoint.path}, step {checkpoint.step}" + (", without its head" if baseline else "")
    return _load(
        recipe,
        device,
        precision,
        checkpoint,
        description=description,
        mode="baseline" if baseline else "predict",
        classes=checkpoint.class_names(),
        step=checkpoint.step,
        identity={
            "step": checkpoint.step,
            "files": checkpoint.manifest["files"],
            "frozen": checkpoint.manifest["frozen"],
        },
    )


def _load_zero_shot(recipe: dict[str, Any], description: str, device: str, precision: str | None) -> LoadedModel:
    """The model of a recipe with its backbone as it comes, or as `load_from` has it."""
    from toolbox.engine.checkpoint.start import open_start

    return _load(recipe, device, precision, open_start(recipe), description=description, mode="baseline")


def _load(
    recipe: dict[str, Any], device: str, precision: str | None, checkpoint: Checkpoint | None, **facts: Any
) -> LoadedModel:
    """A recipe's model on its device, in the class that its users get; `facts`: the other fields of that."""
    import torch

    from toolbox.engine.assemble import build_model
    from toolbox.engine.device import choose_device, limit_images
    from toolbox.engine.precision import eval_precision
    from toolbox.inference.loaded import compute, user_class

    chosen = choose_device(device)
    how = eval_precision(recipe, chosen, precision)
    limit_images(recipe)
    classes = checkpoint.manifest["classes"] if checkpoint else 2  # a head is left out then, whatever its size
    model = build_model(recipe, seed=0, classes=classes, checkpoint=checkpoint, training=False)
    model = model.to(torch.device(str(chosen))).eval()
    cls = user_class(model, recipe["model"]["type"])
    return cls(model=model, recipe=recipe, device=chosen, precision=how, compute=compute, **facts)


def find_model_kind(name: str) -> str:
    """Whether a name means a "checkpoint", a "recipe", or a "backbone" by its id or folder.

    Raises ToolboxError for a run that is not there, beside others: any other path might be the id of a backbone.
    """
    path = Path(name)
    if not path.exists() and path.suffix != ".py" and path.parent.is_dir():
        runs = sorted(file.parent.name for file in path.parent.glob("*/config.py"))
        if runs and len(path.parts) > 1:
            near = difflib.get_close_matches(path.name, runs, n=1) or runs
            raise ToolboxError(f"{name} does not exist.", hint=f"In {path.parent} there is, e.g., {near[0]}.")
    from toolbox.base.files import resolve_run_link

    path = resolve_run_link(path)
    if path.is_dir():
        ours = any((resolve_run_link(path / inner) / "manifest.json").is_file() for inner in ("", "best", "last"))
        return "backbone" if not ours and (path / "config.json").is_file() else "checkpoint"
    return "recipe" if is_shipped(name) or path.suffix == ".py" or path.is_file() else "backbone"


def find_component(name: str) -> str:
    """The first backbone component that takes `name`; those for the names of a whole library are asked last.

    An encoder of images comes before one of texts: of a pair such as CLIP it is the image tower.

    Raises ToolboxError with what each of them says when none does.
    """
    refusals: list[tuple[str, Problem]] = []
    of_texts: list[str] = []
    classes: dict[str, type[Backbone]] = {}
    for entry in get_catalog().find("backbone"):
        if not entry.missing:
            try:
                classes[entry.fullname] = get_catalog().resolve(entry.fullname)
            except ToolboxError as error:
                refusals.append((entry.fullname, error.problems[0]))
    for fullname in sorted(classes, key=lambda fullname: classes[fullname].takes_any_name):
        known = {parameter.name: parameter for parameter in read_parameters(classes[fullname])}
        if "name" not in known or any(p.required for p in known.values() if p.name != "name"):
            continue
        try:
            backbone = _build_by_name(fullname, name)
        except ToolboxError as error:
            refusals.append((fullname, error.problems[0]))
            continue
        if backbone.modality == "image":
            return fullname
        of_texts.append(fullname)
    if of_texts:
        return of_texts[0]
    hint = " ".join(f"{fullname}: {problem.message}" for fullname, problem in refusals)
    raise ToolboxError(f"'{name}' is no checkpoint, no recipe, and no backbone that is known here.", hint=hint)


def takes_name(fullname: str, name: str) -> bool:
    """Whether a backbone component has an encoder of that name, id or folder."""
    try:
        _build_by_name(fullname, name)
    except ToolboxError:
        return False
    return True


def _build_by_name(fullname: str, name: str) -> Backbone:
    """The structure of an encoder, without weights. Raises ToolboxError where the component has none of that name."""
    import torch

    with torch.device("meta"):
        return build({"type": fullname, "name": name}, "backbone", where=fullname)
