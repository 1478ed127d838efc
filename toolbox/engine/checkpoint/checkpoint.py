"""Checkpoints: folders of safetensors and JSON with checksums; `best` and `last` lead to one of them.

checkpoint-120/
  model.safetensors     every trained or new tensor outside adapters
  adapters/<part>/      one adapter as peft writes it; peft loads it alone
  state.safetensors     tensors of the training state: optimizer, generators
  state.json            the rest of the training state
  classes.json          the names of the training data's classes, where they have labels
  trained_items.npz     digests of the items that were trained on, where their dataset tells them
  manifest.json         format, step, recipe, checksums, plugins, identity of what was frozen

Of a model that is spread over processes, model/ and state/ hold what each process has, as torch.distributed.checkpoint
writes it to safetensors; everything else is the same, and any number of processes can read it.
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Callable, Mapping
from contextlib import ExitStack
from dataclasses import dataclass
from functools import wraps
from pathlib import Path, PurePosixPath
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor
from torch.distributed.tensor import DTensor

from toolbox.base import Model
from toolbox.base.files import resolve_run_link
from toolbox.engine.checkpoint.files import as_json, new_folder, point, refused, remove, sha256
from toolbox.engine.checkpoint.state import join, split
from toolbox.engine.distributed.context import SINGLE_PROCESS, DistributedContext
from toolbox.engine.distributed.tensors import are_sharded, load_shards, save_shards, shard_shapes, whole
from toolbox.engine.parts import adapted, model_state
from toolbox.engine.trained_items import TrainedItems
from toolbox.errors import ToolboxError

FORMAT = 1
WISE_FT, TRAINED_ITEMS = "wise_ft", "trained_items.npz"
_NAME = re.compile(r"checkpoint-(\d+)")


def _readable(method: Callable[..., Any]) -> Callable[..., Any]:
    """Let a method of Checkpoint raise ToolboxError for files that hold something else than they should."""

    @wraps(method)
    def reading(self: Checkpoint, *arguments: Any, **options: Any) -> Any:
        try:
            return method(self, *arguments, **options)
        except (OSError, ValueError, LookupError, TypeError, RecursionError, SafetensorError) as error:
            name = method.__name__.replace("_", " ")
            raise ToolboxError(f"The {name} of the checkpoint {self.path} cannot be read: {error}.") from error

    return reading


@dataclass
class Checkpoint:
    """A verified checkpoint on disk.

    - `parts`: the parts that are wanted of it, as in `load_parts`; None for all.
    """

    path: Path
    manifest: dict[str, Any]
    parts: list[str] | None = None

    @property
    def step(self) -> int:
        return self.manifest["step"]

    @property
    def frozen(self) -> dict[str, Any]:
        """What identifies the frozen pretrained tensors of each backbone, which are not held here."""
        return self.manifest["frozen"]

    @property
    def sharded(self) -> bool:
        """Whether several processes wrote a part each."""
        return (self.path / "model").is_dir()

    @_readable
    def model_tensors(self) -> dict[str, Tensor]:
        """Every trained or new tensor outside adapters, whole."""
        return load_shards(self.path / "model") if self.sharded else load_file(self.path / "model.safetensors")

    @_readable
    def shapes(self) -> dict[str, torch.Size]:
        """The shapes of `model_tensors`; no tensor is read."""
        if self.sharded:
            return shard_shapes(self.path / "model")
        with safe_open(self.path / "model.safetensors", framework="pt") as file:
            return {name: torch.Size(file.get_slice(name).get_shape()) for name in file.keys()}  # noqa: SIM118

    def adapters(self) -> list[str]:
        """The parts that have an adapter here."""
        files = (Path(name).parts for name in self.manifest["files"])
        return sorted({names[1] for names in files if names[0] == "adapters"})

    @_readable
    def adapter_tensors(self, part: str) -> dict[str, Tensor]:
        """One adapter's tensors, under peft's names."""
        return load_file(self.path / "adapters" / part / "adapter_model.safetensors")

    @_readable
    def class_names(self) -> list[str] | None:
        """The names of the classes of the training data; None where there were none, or where nobody wrote them yet."""
        if "classes.json" not in self.manifest["files"]:
            return None
        return [str(name) for name in json.loads((self.path / "classes.json").read_text(encoding="utf-8"))]

    @_readable
    def trained_items(self) -> TrainedItems | None:
        """The items that the model was trained on; None where they are not known."""
        return TrainedItems.load(self.path / TRAINED_ITEMS) if TRAINED_ITEMS in self.manifest["files"] else None

    @_readable
    def state(self, into: Mapping[str, Tensor] | None = None) -> dict[str, Any] | None:
        """The training state; None for weights that no run can continue from.

        - `into`: the trained parameters by name: of a sharded state, what belongs to one of them is read as it is
          spread over processes. All processes must call it then.
        """
        value = self.plain_state()
        if not (self.path / "state").is_dir():
            return join(value, load_file(self.path / "state.safetensors"))
        shapes = shard_shapes(self.path / "state")
        owners = {path: into[name] for path in shapes for name in path.split("/") if into and name in into}
        parts = {
            path: torch.zeros_like(owner.detach())
            for path, owner in owners.items()
            if isinstance(owner, DTensor) and owner.shape == shapes[path]
        }
        return join(value, load_shards(self.path / "state", parts))

    @_readable
    def plain_state(self) -> Any:
        """The training state but for its tensors, of which none is read; None for weights alone."""
        return json.loads((self.path / "state.json").read_text(encoding="utf-8"))


def save(
    folder: Path,
    step: int,
    model: Model,
    state: dict[str, Any],
    *,
    recipe: dict[str, Any],
    extra: dict[str, Any],
    classes: list[str] | None = None,
    trained: TrainedItems | None = None,
    distributed: DistributedContext = SINGLE_PROCESS,
) -> Path:
    """Write `checkpoint-<step>` into `folder`, read it back, and move `last` to it; arguments as of `write`."""
    target = folder / f"checkpoint-{step}"
    write(
        target,
        step,
        model,
        state,
        recipe=recipe,
        extra=extra,
        classes=classes,
        trained=trained,
        distributed=distributed,
    )

    def verified() -> None:
        read(target)
        point(folder / "last", target)

    distributed.run_on_main(verified)
    return target


def write(
    target: Path,
    step: int,
    model: Model,
    state: dict[str, Any] | None,
    *,
    recipe: dict[str, Any],
    extra: dict[str, Any],
    classes: list[str] | None = None,
    trained: TrainedItems | None = None,
    distributed: DistributedContext = SINGLE_PROCESS,
) -> None:
    """Write a checkpoint as the folder `target`. Raises ToolboxError when the disk refuses.

    - `state`: the training state, None for weights that no run can continue from; `recipe`: the resolved configuration.
    - `extra`: further entries of the manifest (plugins, number of classes, frozen parts).
    - `classes`: the names of the training data's classes, None where they have none.
    - `trained`: the items that the model was trained on; that of the main process counts.
    - `distributed`: the processes of the run; all of them must call it.
    """
    value, tensors = split(state)
    own = model_state(model)
    sharded = are_sharded(own) or are_sharded(tensors)
    adapters = {
        name: {key: whole(t.detach()).cpu().contiguous() for key, t in backbone.adapter.state_dict().items()}
        for name, backbone in adapted(model).items()
    }
    with ExitStack() as stack:
        part = distributed.run_on_main(lambda: stack.enter_context(new_folder(target)))
        if sharded:
            try:
                for name, held in (("model", own), ("state", tensors)):
                    save_shards(held, part / name)
            except OSError as error:  # every process gets it, and the first to say so is the one that is read
                raise refused(target, error) from error
            distributed.barrier()
        if not distributed.is_main:
            return
        if not sharded:
            _write(own, part / "model.safetensors")
            _write(tensors, part / "state.safetensors")
        for name, adapter in adapters.items():
            adapter_folder = part / "adapters" / name
            adapter_folder.mkdir(parents=True)
            _write(adapter, adapter_folder / "adapter_model.safetensors")
            adapted(model)[name].adapter.save_config(adapter_folder)
        (part / "state.json").write_text(as_json(value), encoding="utf-8")
        if classes is not None:  # ASCII: names of folders need not be Unicode
            (part / "classes.json").write_text(json.dumps(classes, indent=0) + "\n", encoding="utf-8")
        if trained is not None and len(trained.items):
            trained.save(part / TRAINED_ITEMS)
        files = {
            str(path.relative_to(part)): {"sha256": sha256(path), "bytes": path.stat().st_size}
            for path in sorted(part.rglob("*"))
            if path.is_file()
        }
        manifest = {"format": FORMAT, "step": step, "processes": distributed.world_size, "recipe": split(recipe)[0]}
        manifest |= {"files": files, **extra}
        (part / "manifest.json").write_text(as_json(manifest), encoding="utf-8")


def _write(tensors: dict[str, Tensor], path: Path) -> None:
    try:
        save_file(tensors, path, metadata={"format": "pt"})
    except SafetensorError as error:  # what the library makes of a full disk
        raise OSError(str(error)) from error


def read(path: str | Path, *, verify: bool = True) -> Checkpoint:
    """Open and verify a checkpoint: its folder, `best` or `last`, or a run's folder.

    In a run's folder it is what the run was tested with: `wise_ft` if there is one, else `best`, else `last`.

    - `verify`: compare every file with its checksum; False where another process has done so.

    Raises ToolboxError if it is none, or damaged, naming the file.
    """
    given = Path(os.path.expanduser(path))
    path = resolve_run_link(given)
    if not (path / "manifest.json").is_file():
        inside = [resolve_run_link(path / name) for name in (WISE_FT, "best", "last")]
        inside = [folder for folder in inside if (folder / "manifest.json").is_file()]
        if not inside:
            what = (
                "does not exist" if not given.exists() else "is no checkpoint of this toolbox: it has no manifest.json"
            )
            raise ToolboxError(
                f"{given} {what}.", hint="Give a folder work_dirs/<run>/checkpoint-<step>, or work_dirs/<run>/best."
            )
        path = inside[0]
    path = path.resolve()
    damaged = ToolboxError(
        f"The checkpoint {path} is damaged", hint="Use another one of the run; resume=True without a path finds it."
    )
    try:
        manifest = json.loads((path / "manifest.json").read_text(encoding="utf-8"))
        version = manifest["format"]
        manifest |= {key: join(manifest[key], {}) for key in ("recipe",) if key in manifest}
        lacking = {"step", "recipe", "files", "classes", "frozen", "plugins", "best"} - manifest.keys()
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise _because(damaged, "manifest.json cannot be read") from error
    if version != FORMAT:
        raise ToolboxError(f"{path} has format {version}, and this toolbox reads {FORMAT}.", hint="Update one of them.")
    if lacking:
        raise _because(damaged, f"manifest.json lacks {', '.join(sorted(lacking))}")
    wrong = _misfit(manifest)
    if wrong:
        raise _because(damaged, f"manifest.json holds {wrong}")
    for name, known in manifest["files"].items() if verify else ():
        file = path / name
        if not file.is_file():
            raise _because(damaged, f"{name} is missing")
        if file.stat().st_size != known["bytes"] or sha256(file) != known["sha256"]:
            raise _because(damaged, f"{name} is not what was written")
    return Checkpoint(path, manifest)


def _misfit(manifest: dict[str, Any]) -> str:
    """What in a manifest is not as it was written: it may be anyone's. Empty where all is."""
    expected = {"step": int, "recipe": dict, "files": dict, "classes": int | None, "frozen": dict, "plugins": dict}
    for key, kind in expected.items():
        if not isinstance(manifest[key], kind) or isinstance(manifest[key], bool):
            return f"a {key} of another type"
    for name, known in manifest["files"].items():
        path = PurePosixPath(name)
        if path.is_absolute() or ".." in path.parts or "\\" in name or ":" in name:
            return f"the file name {name!r}, which leads out of the folder"
        if not isinstance(known, dict) or not {"bytes", "sha256"} <= known.keys():
            return f"no checksum of {name}"
    return ""


def newest(folder: Path) -> tuple[Checkpoint | None, list[str]]:
    """The newest checkpoint of a run that is whole, and what was wrong with newer ones."""
    complaints: list[str] = []
    for path in reversed(all_in(folder)):
        try:
            return read(path), complaints
        except ToolboxError as error:
            complaints.append(str(error))
    return None, complaints


def all_in(folder: Path) -> list[Path]:
    """The checkpoints of a run's folder, oldest first."""
    if not folder.is_dir():
        return []
    checkpoints = [(int(match[1]), path) for path in folder.iterdir() if (match := _NAME.fullmatch(path.name))]
    return [path for _, path in sorted(checkpoints)]


def rotate(folder: Path, keep: int) -> None:
    """Remove all but the newest `keep` checkpoints and those that `best` and `last` lead to."""
    kept = {resolve_run_link(folder / name).resolve() for name in ("best", "last")}
    for path in all_in(folder)[: -keep or None]:
        if path.resolve() not in kept:
            remove(path)


def _because(error: ToolboxError, reason: str) -> ToolboxError:
    problem = error.problems[0]
    return ToolboxError(f"{problem.message}: {reason}.", hint=problem.hint)
