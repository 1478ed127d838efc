"""What runs on the device "strict", each case also on the processor, whose numbers it must give."""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

from aligned_pairs import ALIGNED, align, encode_texts
from recipes import (
    EMBEDDER_LOSSES,
    METRICS,
    NO_EVALUATION,
    NOISE,
    QUICK,
    RECIPES,
    SLOW,
    SUPCON,
    TEST,
    VIT,
    classifier,
    probes,
)

import toolbox
from toolbox.base import Batch
from toolbox.config import load_config
from toolbox.engine.console import QuietConsole
from toolbox.registry import get_catalog

RECIPE = Path(__file__).parent.parent / "toy_recipe.py"


def train(device: str, options: dict[str, Any], *, work_dir: str | None = None, **how: Any) -> dict[str, Any]:
    recipe = load_config(RECIPE, {**QUICK, **options})
    return toolbox.train(recipe, out=work_dir or device, device=device, console=QuietConsole(), **how)


def agree(found: Any, expected: Any, limit: float = 2e-3, path: str = "") -> None:
    """Compare the numbers of two results."""
    if isinstance(expected, dict):
        assert isinstance(found, dict), f"{path}: {found}"
        assert found.keys() == expected.keys(), f"{path}: {found.keys() ^ expected.keys()}"
        for key, value in expected.items():
            agree(found[key], value, limit, f"{path}.{key}")
    elif isinstance(expected, float) and not math.isnan(expected):
        assert math.isclose(found, expected, rel_tol=limit, abs_tol=limit), f"{path}: {found}, not {expected}"


def run(options: dict[str, Any], *, limit: float = 2e-3, compare: bool = True) -> dict[str, Any]:
    """A run on the device, and its numbers against those of the processor."""
    found = train("strict", options)
    assert found["device"] == "strict"
    assert found["peak_memory_bytes"] == 1 << 20
    if compare:
        expected = train("cpu", options)
        for key in ("before", "pixels", "after", "best"):
            agree(found[key], expected[key], limit, key)
    return found


def losses() -> None:
    """Every loss of an embedder: its value and its gradients are those of the processor."""
    import torch

    from toolbox.registry import build

    for name, setting in EMBEDDER_LOSSES.items():
        found = {}
        for device in ("cpu", "strict"):
            torch.manual_seed(0)
            loss = build(setting, "loss")
            loss.connect(8, 4)
            loss.train().to(device)
            rows = torch.randn(12, 8, generator=torch.Generator().manual_seed(1)).to(device).requires_grad_()
            labels = (torch.arange(12) // 3).to(device)
            try:
                values = [loss(rows, labels) for _ in range(2)]  # a memory of the first is read by the second
                sum(values).backward()
                loss.after_step()
            except BaseException as error:
                error.add_note(f"with {name} on {device}")
                raise
            found[device] = [value.item() for value in values], rows.grad.cpu()
        agree(dict(enumerate(found["strict"][0])), dict(enumerate(found["cpu"][0])), 1e-4, name)
        assert torch.allclose(found["strict"][1], found["cpu"][1], atol=1e-5), name


def metrics() -> None:
    """Every metric, given outputs of the device: with a batch that is there too, and with one of the processor."""
    import torch

    from toolbox.registry import build

    dataset = toolbox.build(NOISE)
    drawn = torch.Generator().manual_seed(0)
    rows = 2 * torch.eye(8)[torch.arange(32) // 4] + torch.randn(32, 8, generator=drawn)
    outputs = {
        "embeddings": rows,
        "logits": rows,
        "tokens": rows.view(32, 2, 4),
        "linear/cls/0.1": rows.argmax(1)[:, None],
        "linear/cls/1": rows.argmin(1)[:, None],
    }
    for name, setting in METRICS.items():
        found = {}
        for device, place in (("cpu", "cpu"), ("strict", "cpu"), ("strict", "strict")):
            metric = build(setting, "metric")
            metric.reset()
            try:
                for half in (slice(0, 16), slice(16, 32)):
                    there = {key: value[half].to(device) for key, value in outputs.items()}
                    items = list(range(32))[half]
                    batch = Batch(labels=(torch.arange(32) // 4)[half].to(place), ids=items, indices=items)
                    if metric.wants_training():
                        metric.fit(there, batch)
                    metric.update(there, batch)
                found[device, place] = metric.compute()
                metric.report_items(dataset)
            except BaseException as error:
                error.add_note(f"with {name} on {device}, labels on {place}")
                raise
        for how in found:
            agree(found[how], found["cpu", "cpu"], 1e-4, f"{name} {how}")


def mined() -> None:
    """Hard negatives of rows on the device."""
    import torch
    from toolbox_retrieval.mining import mine_negatives

    from toolbox.base import l2_normalize

    rows = l2_normalize(torch.randn(32, 8, generator=torch.Generator().manual_seed(0)))
    labels = torch.arange(32) // 4
    how = dict(negatives=2, margin=0.0, max_similarity=0.9, keep_short=True, memory_mb=1)
    assert mine_negatives(rows.to("strict"), labels.to("strict"), **how) == mine_negatives(rows, labels, **how)


def chosen() -> None:
    """A probe whose choice, whichever method won, classifies on the device as on the processor."""
    train("strict", probes(), work_dir="run")
    paths = folder_of_pictures()
    found = [toolbox.load("run", device=device).classify(paths, top=3) for device in ("strict", "cpu")]
    for ours, theirs in zip(*found, strict=True):
        assert [name for name, _ in ours] == [name for name, _ in theirs]
        agree(dict(ours), dict(theirs))
    command("test", "run/config.py", "run", "--device", "strict", "--split", "val")


def all_losses() -> None:
    """Runs with every loss of an embedder."""
    for name, loss in EMBEDDER_LOSSES.items():
        try:
            train("strict", {"model.loss": loss, **NO_EVALUATION}, work_dir=name.replace(" ", "-"))
        except BaseException as error:
            error.add_note(f"with {name}")
            raise


def mixed_precision(kind: str) -> None:
    """bf16 or fp16 autocast; fp16 with a gradient scaler."""
    options = {"model.backbone": VIT, "model.loss": SUPCON, "optim_wrapper.precision": kind}
    found = train("strict", options)
    agree(found["after"], train("cpu", options)["after"] if kind == "bf16" else found["after"], 0.1)
    train("strict", classifier() | {"optim_wrapper.precision": kind}, work_dir="classifier")


def resumed() -> None:
    """A run with dropout that is continued ends as the one that was not interrupted, bit for bit."""
    from same import assert_equal

    from toolbox.engine.checkpoint import checkpoint as checkpoints

    options = {
        "model.backbone": dict(type="toy.Patches", dropout=0.3),
        "train_cfg": dict(max_steps=4, val_interval=2),
        "default_hooks.checkpoint": dict(interval=2, max_keep_ckpts=9),
        "optim_wrapper.average": dict(decay=0.5),
        "train_cfg.val_interval": 2,
    }
    train("strict", options, work_dir="whole")
    train("strict", options | {"train_cfg.max_steps": 2}, work_dir="half")
    shutil_copy("whole", "stopped")
    train("strict", options, work_dir="stopped", resume=True)
    ours, theirs = checkpoints.read("stopped/last"), checkpoints.read("whole/last")
    assert ours.step == theirs.step == 4
    assert_equal(ours.model_tensors(), theirs.model_tensors(), "model")
    assert_equal(ours.state(), theirs.state(), "state")
    train("cpu", options | {"train_cfg.max_steps": 5}, work_dir="stopped", resume=True)  # on another device
    train("strict", options | {"train_cfg.max_steps": 6}, work_dir="stopped", resume=True)  # and back


def shutil_copy(source: str, target: str) -> None:
    """What a run that died after step 2 had left."""
    import shutil

    shutil.copytree(source, target, symlinks=True)
    shutil.rmtree(f"{target}/checkpoint-4")


def folder_of_pictures(count: int = 6) -> list[str]:
    dataset = toolbox.build(NOISE)
    Path("pictures").mkdir()
    paths = [f"pictures/{index}.png" for index in range(count)]
    for index, path in enumerate(paths):
        dataset[index]["image"].save(path)
    return paths


def command(name: str, *arguments: str) -> None:
    """A command in this process, of the core or of a plugin."""
    code = get_catalog().command(name).load()([str(argument) for argument in arguments])
    assert code == 0, f"{name} ended with {code}"


def used() -> None:
    """A trained embedder that encodes, embeds and is tested."""
    import torch

    train("strict", {"model.backbone": VIT, "model.loss": SUPCON, **TEST}, work_dir="run")
    paths = folder_of_pictures()
    found = toolbox.load("run", device="strict").encode_image(paths)
    assert found.device.type == "cpu"
    assert torch.allclose(found, toolbox.load("run", device="cpu").encode_image(paths), atol=1e-5)
    command("embed", "run", "pictures", "e.npz", "--device", "strict")
    recipe = load_config("run/config.py")
    numbers = {device: toolbox.evaluate(recipe, "run", device=device) for device in ("strict", "cpu")}
    agree(numbers["strict"], numbers["cpu"])


def used_more() -> None:
    """Mining, a teacher's stored embeddings, an export and WiSE-FT of what the device has trained."""
    from pretrained import save_weights

    dataset = toolbox.build(NOISE)
    for index in range(len(dataset)):
        path = Path(f"data/{dataset.labels[index]}/{index}.png")
        path.parent.mkdir(parents=True, exist_ok=True)
        dataset[index]["image"].save(path)
    weights = VIT | {"name": str(save_weights(Path("weights"))), "arch": None}
    wise = {"train_cfg": dict(max_steps=2, val_interval=1, wise_ft=dict(alphas=[0.0, 0.5, 1.0]))}
    data = {"train_dataloader.dataset": dict(type="datasets.ImageFolder", root="data")}
    found = train("strict", {"model.backbone": weights, "model.loss": SUPCON, **wise, **data}, work_dir="run")
    assert found["wise_ft"]["alpha"] in (0.0, 0.5, 1.0)
    command("mine_negatives", "run", "m.jsonl", "--device", "strict", "--keep-short")
    assert Path("m.jsonl").read_text()
    command("embed", "run", "t.npz", "--split", "train", "--device", "strict")
    taught = {**data, "model.loss": dict(type="losses.Distillation"), "model.teacher_file": "t.npz"}
    train("strict", taught, work_dir="taught")
    toolbox.export("run", "exported")
    command("test", "run/config.py", "run", "--device", "strict", "--split", "val", "--out", "tested")


def predicted() -> None:
    train("strict", classifier(), work_dir="run")
    paths = folder_of_pictures()
    encoder = toolbox.load("run", device="strict")
    found, expected = encoder.classify(paths), toolbox.load("run", device="cpu").classify(paths)
    assert [[name for name, _ in row] for row in found] == [[name for name, _ in row] for row in expected]
    command("predict", "run", "pictures", "--device", "strict", "--out", "p.csv", "--page", "p.html")


def stored() -> None:
    """Features that are stored once and trained on."""
    options = {
        "model.backbone": VIT | {"tune": dict(mode="frozen")},
        "model.loss": SUPCON,
        "features": dict(folder="features"),
        "train_dataloader.augment": None,
    }
    first = train("strict", options, work_dir="first")
    again = train("strict", options, work_dir="again")
    agree(again["after"], first["after"])
    print(first["features"], again["features"])
    train(
        "strict", probes() | {"features": dict(folder="features"), "train_dataloader.augment": None}, work_dir="probes"
    )


def metric_of_a_plugin() -> None:
    """The example in the docstring of Metric, on outputs of the device."""
    from toolbox.registry import get_catalog

    nearest = get_catalog().resolve("toy.Nearest", "metric")
    original = nearest.update

    def update(self: Any, outputs: dict[str, Any], batch: dict[str, Any]) -> None:
        assert outputs["embeddings"].device.type == "strict"
        (outputs["embeddings"].sum(dim=1) - batch.labels).abs()
        original(self, outputs, batch)

    nearest.update = update
    try:
        run({"evaluate_before": True}, compare=False)
    finally:
        nearest.update = original


def refuses() -> None:
    """Negative controls: what the device must not let pass."""
    import pytest
    import torch

    here, there, zero = torch.ones(3, 4), torch.ones(3, 4, device="strict"), torch.tensor([0])
    for action in (
        lambda: there + here,
        lambda: here + there,
        lambda: torch.cat([there, here]),
        lambda: there[zero],
        lambda: here[zero.to("strict")],
        lambda: torch.where(there > 0, here, there),
        lambda: torch.nn.functional.linear(there, here),
        lambda: torch.stack([here[0], there[0]]),
        lambda: torch.randn(2, device="strict", generator=torch.Generator()),
        lambda: there.index_add_(0, zero, there[:1]),
        lambda: there.new_zeros(2) + torch.ones(1),
        lambda: there @ here.T,
        lambda: there.masked_fill(here > 0, 1.0),
    ):
        with pytest.raises(RuntimeError, match="Expected"):
            action()
    with pytest.raises(TypeError, match="numpy"):
        there.numpy()
    with pytest.raises(RuntimeError, match="cannot pin"):
        there.pin_memory()
    assert (there * torch.tensor(2.0)).sum().item() == 24.0
    assert there.cpu().numpy().shape == (3, 4)
    assert torch.equal(here.to("strict").cpu(), here)
    torch.manual_seed(1)
    first = torch.randn(3, device="strict")
    torch.manual_seed(1)
    assert first.tolist() == torch.randn(3, device="strict").tolist()


def of(kind: str) -> dict[str, Callable[[], None]]:
    """The cases by name; `kind`: "fast" or "slow"."""
    found: dict[str, Callable[[], Any]] = {
        "refuses": refuses,
        "losses": losses,
        "metrics": metrics,
        "mined": mined,
        "chosen": chosen,
        "all losses": all_losses,
        "bf16": partial(mixed_precision, "bf16"),
        "fp16": partial(mixed_precision, "fp16"),
        "resumed": resumed,
        "used": used,
        "predicted": predicted,
        "stored": stored,
        "used more": used_more,
        "metric of a plugin": metric_of_a_plugin,
        "text encoders": encode_texts,
        **{name: partial(align, name) for name in ALIGNED},
        **{name: partial(run, options) for name, options in RECIPES.items()},
    }
    return {name: case for name, case in found.items() if (name in SLOW) == (kind == "slow")}
