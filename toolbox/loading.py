"""What the name of a model means, and the encoder that it gives."""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from toolbox.config import changed, complete, load_config, load_plugins, validate
from toolbox.errors import Problem, ToolboxError
from toolbox.planning import runnable
from toolbox.registry import build, catalog, parameters

if TYPE_CHECKING:
    from toolbox.base import Model
    from toolbox.engine.judging.encoder import Encoder
    from toolbox.engine.precision import Precision
    from toolbox.engine.saving.checkpoint import Checkpoint
    from toolbox.plugin import Device

Overrides = Mapping[str, Any] | Iterable[str]


def load_encoder(
    name: str, *, device: str | None = None, precision: str | None = None, overrides: Overrides = (),
    plugins: Iterable[str] = (), backbone: str | None = None, baseline: bool = False,
) -> Encoder:  # fmt: skip
    """The encoder that a name means; arguments as of `toolbox.load`.

    - `device`: default: of a recipe what it says, else "auto".
    - `backbone`: the component that an id means, e.g. "core.Timm"; default: the first that takes it.
    - `baseline`: leave the head of a trained model out: the pooled features of its backbone.
    """
    from toolbox.engine.saving import checkpoint as checkpoints

    name, plugins = str(Path(name).expanduser()) if name.startswith("~") else name, list(plugins)
    load_plugins(plugins)
    kind = kind_of(name)
    if kind == "checkpoint":
        return open_checkpoint(
            checkpoints.read(name), name=name, device=device or "auto", precision=precision, overrides=overrides,
            plugins=plugins, baseline=baseline,
        )  # fmt: skip
    if kind == "recipe":
        recipe = runnable(load_config(name, overrides, plugins), device, training=False)
        told = f"{name}, zero-shot: pooled features of its backbone"
        return _zero_shot(recipe, told, recipe["env_cfg"]["device"], precision)
    component = backbone or component_of(name)
    bare = {"model": {"type": "core.Embedder", "backbone": {"type": component, "name": name}}}
    recipe = complete(changed(bare, overrides, plugins))
    pool = recipe["model"].get("pool", "cls")
    pool = pool if isinstance(pool, str) else "none" if pool is None else pool.get("type", "?")
    return _zero_shot(recipe, f"{component} {name}, zero-shot, pool '{pool}'", device or "auto", precision)


def open_checkpoint(
    found: Checkpoint, *, name: str | None = None, device: str = "auto", precision: str | None = None,
    overrides: Overrides = (), plugins: Iterable[str] = (), baseline: bool = False,
) -> Encoder:  # fmt: skip
    """The encoder of a checkpoint; arguments as of `load_encoder`, `name` being what the user calls it."""
    from toolbox.engine.judging.encoder import Encoder

    recipe = changed(found.manifest["recipe"], overrides, plugins, str(found.path))
    problems = validate(recipe)
    if problems:
        raise ToolboxError.of(problems)
    told = f"{name or found.path}, step {found.step}" + (", without its head" if baseline else "")
    return Encoder(
        *_ready_model(recipe, device, precision, found), told=told, mode="baseline" if baseline else "predict",
        classes=found.class_names(), step=found.step,
        identity={"step": found.step, "files": found.manifest["files"], "frozen": found.manifest["frozen"]},
    )  # fmt: skip


def _zero_shot(recipe: dict[str, Any], told: str, device: str, precision: str | None) -> Encoder:
    """The encoder of a recipe's backbone as it comes, or as `load_from` has it."""
    from toolbox.engine.judging.encoder import Encoder
    from toolbox.engine.saving import checkpoint as checkpoints

    return Encoder(*_ready_model(recipe, device, precision, checkpoints.start_of(recipe)), told=told, mode="baseline")


def _ready_model(
    recipe: dict[str, Any], device: str, precision: str | None, checkpoint: Checkpoint | None
) -> tuple[Model, dict[str, Any], Device, Precision]:
    """The first arguments of an encoder: a recipe's model on its device, the recipe, the device and the precision."""
    import torch

    from toolbox.engine.assemble import build_model
    from toolbox.engine.device import choose_device, limit_images
    from toolbox.engine.precision import eval_precision

    chosen = choose_device(device)
    how = eval_precision(recipe, chosen, precision)
    limit_images(recipe)
    classes = checkpoint.manifest["classes"] if checkpoint else 2  # a head is left out then, whatever its size
    model = build_model(recipe, seed=0, classes=classes, checkpoint=checkpoint, training=False)
    return model.to(torch.device(str(chosen))), recipe, chosen, how


def kind_of(name: str) -> str:
    """Whether a name means a "checkpoint", a "recipe", or a "backbone" by its id or folder.

    Raises ToolboxError for a run that is not there, beside others: any other path might be the id of a backbone.
    """
    path = Path(name)
    if not path.exists() and path.suffix != ".py" and path.parent.is_dir():
        runs = sorted(file.parent.name for file in path.parent.glob("*/config.py"))
        if runs and len(path.parts) > 1:
            near = difflib.get_close_matches(path.name, runs, n=1) or runs
            raise ToolboxError(f"{name} does not exist.", hint=f"In {path.parent} there is, e.g., {near[0]}.")
    from toolbox.base.files import follow

    path = follow(path)
    if path.is_dir():
        ours = any((follow(path / inner) / "manifest.json").is_file() for inner in ("", "best", "last"))
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
