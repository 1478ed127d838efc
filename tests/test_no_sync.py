"""A step never waits for the device: nothing in it reads a value, or copies from the processor's ordinary memory.

It runs on torch's meta device, which has no values to read, under a mode that also refuses the copies that would wait.
"""

from __future__ import annotations

import pytest
import torch
from pretrained import ARCH
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from toolbox.base import Batch, ImagePreprocess
from toolbox.engine.assemble import apply_tuning, build_structure
from toolbox.engine.data.batch_builder import InputSpec
from toolbox.engine.data.loader import ready
from toolbox.engine.device import choose_device
from toolbox.engine.distributed.parallel import Parallel
from toolbox.engine.grad_cache import GradCache
from toolbox.engine.hooks.average import WeightAverage
from toolbox.engine.param_groups import ParamGroup
from toolbox.engine.precision import Precision
from toolbox.engine.train_step import TrainStep

META = torch.device("meta")


class Waits(Exception):
    """An operation would wait for the device."""


class NoWaiting(TorchDispatchMode):
    """Refuses what makes a processor wait for an accelerator, with the meta device in the accelerator's place."""

    def __torch_dispatch__(self, operation, types, args=(), kwargs=None):
        kwargs = kwargs or {}
        name = operation.overloadpacket.__name__
        given = [value for value in tree_leaves((args, kwargs)) if isinstance(value, torch.Tensor)]
        there = [value for value in given if value.device.type == "meta"]
        here = [value for value in given if value.device.type == "cpu"]
        if name in ("_local_scalar_dense", "nonzero", "masked_select", "equal", "_unique2") and there:
            raise Waits(f"{name} reads a value")
        if name in ("_to_copy", "copy_"):
            to = kwargs.get("device") or (args[0].device if name == "copy_" else given[0].device)
            source = args[1] if name == "copy_" else given[0]
            crosses = torch.device(to).type != source.device.type
            waits = not kwargs.get("non_blocking", args[2] if name == "copy_" and len(args) > 2 else False)
            if crosses and (waits or source.device.type == "meta"):
                raise Waits(f"{name} from {source.device} to {to} waits")
        elif there and any(value.ndim for value in here):
            raise Waits(f"{name} copies a tensor of the processor's")
        elif name == "index" and any(v.dtype in (torch.bool, torch.uint8) for v in args[1] if v is not None):
            raise Waits("an index by a mask reads how much it chooses")
        return operation(*args, **kwargs)


def stepped(loss: dict, *, max_norm=1.0, chunk=None, decay=0.9, tune="full", steps=2, **more):
    """Steps with an average, as a run makes them, where nothing may wait."""
    backbone = dict(type="dinov3.ViT", name=None, arch=ARCH, size=32, tune=dict(mode=tune))
    head = dict(type="core.Projection", dim=8)
    recipe = dict(type="retrieval.Embedder", backbone=backbone, head=head, loss=loss) | more
    mixed = (
        {"mixed": (torch.arange(8, device=META), torch.rand(8, device=META))} if "Classifier" in recipe["type"] else {}
    )
    with META:
        model = build_structure({"model": recipe}, classes=4).train()
        apply_tuning(model)
    cpu = choose_device("cpu")
    precision = Precision("fp32", cpu)
    parameters = {name: value for name, value in model.named_parameters() if value.requires_grad}
    update = TrainStep(
        Parallel(model),
        [ParamGroup(1e-3, 0.05, 1e-3, parameters)],
        lambda groups: torch.optim.AdamW(groups),
        [],
        precision,
        max_norm,
        GradCache(model, chunk, precision, cpu) if chunk else None,
    )
    average = WeightAverage(parameters, decay, 0.0, steps)
    for step in range(steps):
        batch = Batch.example(
            {name: torch.zeros(8, 3, 32, 32, device="meta") for name in model.inputs},
            labels=torch.zeros(8, dtype=torch.long, device="meta"),
            blocks=2 if more.get("cross_view") else 1,
            **mixed,
        )
        with NoWaiting():
            model.before_step(step, steps)
            update([batch, batch], step, steps)
            model.after_step(step, steps)
            average.update(step + 1)


SUPCON = dict(type="losses.SupCon")
LOSSES = {
    "SupCon": SUPCON,
    "InfoNCE": dict(type="losses.InfoNCE"),
    "Triplet": dict(type="losses.Triplet"),
    "Triplet, hard": dict(type="losses.Triplet", miner="hard"),
    "MultiSimilarity": dict(type="losses.MultiSimilarity"),
    "Circle": dict(type="losses.Circle"),
    "ProxyAnchor": dict(type="losses.ProxyAnchor"),
    "ArcFace": dict(type="losses.ArcFace"),
    "SubCenterArcFace": dict(type="losses.SubCenterArcFace"),
    "CoSENT": dict(type="losses.CoSENT"),
    "SigLIP": dict(type="losses.SigLIP"),
    "Sum": dict(type="losses.Sum", losses=[SUPCON, dict(type="losses.SigLIP")], weights=[1.0, 0.5]),
    "Matryoshka": dict(type="losses.Matryoshka", loss=SUPCON, dims=[8, 4]),
    "CrossBatchMemory": dict(type="losses.CrossBatchMemory", loss=SUPCON, size=20, warmup=1),
}


@pytest.mark.parametrize("name", LOSSES)
def test_no_loss_waits(name):
    stepped(LOSSES[name], steps=3 if name == "CrossBatchMemory" else 2)  # its memory is full in the third


@pytest.mark.parametrize("tune", ["frozen", "lora"])
def test_no_classifier_of_mixed_images_waits(tune):
    loss, head = dict(type="losses.CrossEntropy", label_smoothing=0.1), dict(type="classification.MLP")
    stepped(loss, type="classification.Classifier", head=head, tune=tune)


@pytest.mark.parametrize(
    "manner",
    [
        dict(max_norm=None),
        dict(chunk=3),
        dict(decay=None),
        dict(tune="lora"),
        dict(tune="last"),
        dict(tune="frozen"),
        dict(cross_view=True),
        dict(pool="mean"),
        dict(pool="gem"),
        dict(pool="cls+mean"),
    ],
    ids=str,
)
def test_no_manner_of_a_step_waits(manner):
    stepped(SUPCON, **manner)


def test_a_teacher_does_not_wait():
    teacher = dict(type="dinov3.ViT", name=None, arch=ARCH, size=32)
    stepped(dict(type="losses.Distillation"), teacher=teacher)
    stepped(dict(type="losses.Distillation"), teacher=teacher, chunk=3)


def test_the_loss_that_must_wait_is_known():
    """The shape of its ranks depends on the labels; docs/benchmarks.md says so."""
    with pytest.raises(Waits, match="_local_scalar_dense"):
        stepped(dict(type="losses.RecallAtK"))


class AsNorm:
    """Stands for ImagePreprocess before its constants were kept."""

    @staticmethod
    def finish(batch):
        return batch.float() * torch.tensor([1.0, 2.0, 3.0]).view(3, 1, 1).to(batch.device)


def test_a_batch_is_made_ready_without_waiting():
    def made(preprocess):
        batch = Batch.example({"image": torch.zeros(2, 3, 8, 8, dtype=torch.uint8)}, labels=torch.zeros(2))
        with NoWaiting():
            return ready(batch, {"image": InputSpec("image", preprocess)}, META)

    own = ImagePreprocess((8, 8), (0.5, 0.4, 0.3), (0.2, 0.3, 0.4))
    own.finish(torch.zeros(1, 3, 8, 8, device="meta"))  # the first batch of a process may
    found = made(own)
    assert found.inputs["image"].device == found.labels.device == META
    with pytest.raises(Waits):
        made(AsNorm)


def with_line(monkeypatch, line):
    """The step, with one more thing done to every loss."""
    original = TrainStep._remember

    def remember(self, values, step):
        line(values["loss"])
        original(self, values, step)

    monkeypatch.setattr(TrainStep, "_remember", remember)


@pytest.mark.parametrize(
    "line",
    [
        lambda loss: loss.item(),
        lambda loss: float(loss),
        lambda loss: bool(loss.isfinite()),
        lambda loss: loss.cpu(),
        lambda loss: torch.zeros(2).to(loss.device),
        lambda loss: torch.zeros(2, device=loss.device)[torch.tensor([1, 0])],
        lambda loss: torch.zeros(2, device=loss.device)[torch.ones(2, dtype=torch.bool, device=loss.device)],
        lambda loss: torch.zeros(2, device=loss.device).nonzero(),
        lambda loss: torch.equal(loss, loss),
        lambda loss: torch.zeros(2).copy_(loss.expand(2)),
    ],
    ids=["item", "float", "bool", "cpu", "to", "index", "mask", "nonzero", "equal", "copy"],
)
def test_a_step_that_waits_is_found(monkeypatch, line):
    """Negative controls."""
    with_line(monkeypatch, line)
    with pytest.raises(Waits):
        stepped(SUPCON)


def test_what_does_not_wait_is_let_pass(monkeypatch):
    with_line(monkeypatch, lambda loss: torch.zeros(2).to(loss.device, non_blocking=True) * 2.0 + torch.tensor(1.0))
    stepped(SUPCON)


def test_gradients_that_must_be_finite_would_wait(monkeypatch):
    original = torch.nn.utils.clip_grad_norm_
    monkeypatch.setattr(
        torch.nn.utils, "clip_grad_norm_", lambda parameters, norm: original(parameters, norm, error_if_nonfinite=True)
    )
    with pytest.raises(Waits, match="_local_scalar_dense"):
        stepped(SUPCON)


def test_torch_own_average_would_wait(monkeypatch):
    def update(average):
        average._averages.update_parameters(torch.nn.ParameterList(average._weights))

    monkeypatch.setattr(WeightAverage, "_take_in", update)
    with pytest.raises(Waits, match="_to_copy from cpu"):
        stepped(SUPCON)
