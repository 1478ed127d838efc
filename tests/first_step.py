"""Count what runs from a recipe to its first trained step: python tests/first_step.py [RECIPE [KEY=VALUE ...]].

Prints how many functions and files of this project were called, and how often what should happen once happened. Data
that the recipe prepares are written before the count begins.
"""

from __future__ import annotations

import inspect
import sys
import tempfile
from collections import Counter
from pathlib import Path
from types import FrameType
from typing import Any

import toolbox
from toolbox.engine.console import QuietConsole

ROOT = Path(__file__).resolve().parents[1]
ONCE = ("validate", "check_recipe", "build_structure", "Evaluator.__init__", "RetrievalDataset.__init__")


class FirstStep(Exception):
    """The first step is done."""


def count(recipe: str, overrides: list[str]) -> tuple[Counter[tuple[str, str]], list[str]]:
    """How often each function, by (file, qualified name), was called; and our own frames around the backbone's call."""
    calls: Counter[tuple[str, str]] = Counter()
    above_backbone: list[str] = []

    def profile(frame: FrameType, event: str, argument: Any) -> None:
        if event != "call":
            return
        code = frame.f_code
        if not code.co_filename.startswith(str(ROOT)) or "/.venv/" in code.co_filename:
            return
        # functions that have a name: no body of a class or module, no comprehension, no local one
        if code.co_flags & inspect.CO_OPTIMIZED and "<" not in code.co_qualname:
            calls[str(Path(code.co_filename).relative_to(ROOT)), code.co_qualname] += 1
        if code.co_qualname == "ConvNeXt.forward" and not above_backbone:
            above_backbone.extend(list_frames(frame))

    def stop(*_: object) -> None:
        raise FirstStep

    config = toolbox.load_config(recipe, overrides)
    with tempfile.TemporaryDirectory() as folder:
        from toolbox.engine import trainer

        trainer.Trainer._agree = stop  # what follows the first step
        sys.setprofile(profile)
        try:
            toolbox.train(config, out=Path(folder) / "run", console=QuietConsole())
        except FirstStep:
            pass
        finally:
            sys.setprofile(None)
    return calls, above_backbone


def list_frames(frame: FrameType | None) -> list[str]:
    """Our own functions from the training step's call of the model to `frame`; none where no step is made."""
    names: list[str] = []
    while frame is not None:
        if frame.f_code.co_qualname == "TrainStep._add_gradients":
            return names[::-1]
        name = frame.f_code.co_filename
        if name.startswith(str(ROOT)) and "/.venv/" not in name:
            names.append(frame.f_code.co_qualname)
        frame = frame.f_back
    return []


def main() -> None:
    recipe, *overrides = sys.argv[1:] or [str(ROOT / "configs/demo/dinov3_sop.py")]
    calls, frames = count(recipe, ["evaluate_before=False", *overrides])
    print(f"{len(calls)} functions in {len({file for file, _ in calls})} files from the recipe to the first step")
    print(f"{len(frames) - 1} frames between the step and the backbone: {' > '.join(frames)}")
    for name in ONCE:
        print(f"{name}: {sum(times for (_, function), times in calls.items() if function == name)}")


if __name__ == "__main__":
    main()
