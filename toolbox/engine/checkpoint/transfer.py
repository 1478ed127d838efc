"""Which tensors of a checkpoint go into a model: all of them, or those of chosen parts."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from pathlib import Path

from torch import Size

from toolbox.errors import ToolboxError

_UNLIKE = (
    "Use the recipe that it was made with ({recipe}). Another training may start from parts of it: "
    "load_parts=['model.backbone']."
)
_OTHER_PARTS = "Name parts in load_parts that are of one kind and size in both models."
_FROZEN = (
    "They were trained there, and here they are frozen and pretrained: give the backbone no weights of its own "
    "(weights=False), so that checkpoints hold them, or train the same of it."
)


@dataclass
class Transfer:
    """Names of tensors: taken into the model, left in the checkpoint, new in the model, and what does not fit."""

    taken: list[str]
    left: list[str]
    new: list[str]
    wrong: dict[str, list[str]]
    hint: str = _UNLIKE

    def check(self, source: str) -> None:
        """Raise ToolboxError naming what does not fit."""
        if any(self.wrong.values()):
            listed = "; ".join(f"{what}: {', '.join(k[:3])} ({len(k)} in all)" for what, k in self.wrong.items() if k)
            files = (folder / "config.py" for folder in (Path(source), Path(source).parent))
            recipe = next((str(file) for file in files if file.is_file()), "config.py of its run")
            hint = self.hint.replace("{recipe}", recipe)
            raise ToolboxError(f"The checkpoint {source} is of another model: {listed}.", hint=hint)

    def summary(self) -> str:
        """What was and what was not taken, with counts."""
        parts = [f"{len(self.taken)} tensors were taken from it ({_places(self.taken)})"]
        if self.new:
            parts.append(f"{len(self.new)} tensors of the model are not from it ({_places(self.new)})")
        if self.left:
            parts.append(f"{len(self.left)} tensors of it were left out ({_places(self.left)})")
        return "; ".join(parts)


def match(
    own: Mapping[str, Size], frozen: Collection[str], held: Mapping[str, Size], parts: list[str] | None
) -> Transfer:
    """What goes where, by names and shapes.

    - `own`: the model's tensors; `frozen`: those of them that no checkpoint holds; `held`: the checkpoint's.
    - `parts`: paths whose tensors are wanted, e.g. "model.backbone"; None for all.

    Raises ToolboxError for a part that the model or the checkpoint does not have.
    """
    expected = {name for name in own if name not in frozen}
    for part in parts or []:
        for names, what in ((expected, "the model to be trained"), (held, "the checkpoint")):
            if not any(below(name, part) for name in names):
                there = ", ".join(sorted({f"model.{name.split('.')[0]}" for name in names})) or "nothing"
                known = f"There is, of what checkpoints hold: {there}."
                hint = _FROZEN if names is expected and any(below(name, part) for name in frozen) else known
                raise ToolboxError(f"'{part}' holds no tensors in {what}.", where="load_parts", hint=hint)
    wanted = {name for name in held if chosen(name, parts)}
    needed = {name for name in expected if chosen(name, parts)}
    unexpected = sorted(name for name in wanted - needed if held[name].numel())  # one without values: of older versions
    wrong = {
        "missing": sorted(name for name in needed - wanted if own[name].numel()),
        "unexpected": unexpected,
        "of another shape": sorted(name for name in wanted & own.keys() if held[name] != own[name]),
    }
    only_frozen = not wrong["missing"] and not wrong["of another shape"] and unexpected
    hint = _FROZEN if only_frozen and set(unexpected) <= set(frozen) else _UNLIKE if parts is None else _OTHER_PARTS
    taken = [name for name in held if name in wanted & needed]
    left = [name for name in held if name not in wanted]
    return Transfer(taken, left, [name for name in own if name in expected - needed], wrong, hint)


def chosen(name: str, parts: list[str] | None) -> bool:
    """Whether a name within the model lies in one of the parts; None are all."""
    return parts is None or any(below(name, part) for part in parts)


def touched(path: str, parts: list[str] | None) -> bool:
    """Whether one of the parts lies in, or around, the module at `path` within the model."""
    return chosen(path, parts) or any(part.startswith(f"model.{path}.") for part in parts or [])


def below(name: str, path: str) -> bool:
    """Whether a name within the model lies below a path of a recipe, which begins with "model"."""
    name = f"model.{name}"
    return name == path or name.startswith(path + ".")


def _places(names: list[str]) -> str:
    return ", ".join(sorted({f"model.{name.split('.')[0]}" for name in names})) or "nothing"
