"""What a model refuses in the batches it would get is found by --check, not after the evaluation before training."""

from __future__ import annotations

import numpy as np
import pytest

import toolbox
from toolbox.utils.stored_embeddings import write_embeddings

SUPCON = "dict(type='losses.SupCon')"
MEMORY = f"model.loss=dict(type='losses.CrossBatchMemory',loss={SUPCON})"
PAIRS = "train_dataloader.sampler=dict(type='retrieval.Pairs',batch_size=8)"
TWO_VIEWS = "train_dataloader.augment=dict(type='core.Augment',views=2)"


def messages(config) -> list[str]:
    return [str(problem) for problem in toolbox.check_config(config)]


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        (["model.cross_view=True"], "compares two views of an item"),
        (["model.cross_view=True", PAIRS], None),
        (["model.cross_view=True", TWO_VIEWS], None),
        ([MEMORY, PAIRS], None),
        ([MEMORY, PAIRS, "model.cross_view=True"], "set model.cross_view=False"),
    ],
)
def test_views_and_blocks(toy, options, expected):
    found = messages(toy(options))
    assert not found if expected is None else len(found) == 1 and expected in found[0]


def test_a_file_of_a_teacher_for_other_data(toy):
    # as the toy dataset names its items: 0, 1 ...
    taught = ["model.teacher_file=teacher.npz", "model.loss=dict(type='losses.Distillation')"]
    embeddings = np.random.default_rng(0).normal(size=(200, 4))
    write_embeddings("teacher.npz", range(1000, 1200), embeddings)
    found = messages(toy(taught))
    assert len(found) == 1
    assert "teacher.npz holds no embedding of" in found[0]
    write_embeddings("teacher.npz", range(200), embeddings)
    assert not messages(toy(taught))


@pytest.mark.parametrize(
    "name",
    [
        "SupCon",
        "InfoNCE",
        "Triplet",
        "MultiSimilarity",
        "Circle",
        "ProxyAnchor",
        "ArcFace",
        "SubCenterArcFace",
        "RecallAtK",
        "CoSENT",
        "SigLIP",
    ],
)
def test_losses_that_can_be_used_are_not_refused(toy, name):
    for more in ([], [PAIRS], [PAIRS, "model.cross_view=True"]):
        assert not messages(toy([f"model.loss=dict(type='losses.{name}')", *more]))


def test_a_loss_that_needs_values_is_left_to_the_run(toy):
    """Negative control for the look without values: nothing is known, and nothing is said."""
    import toy_plugin

    def by_value(self, embeddings, labels, ref_embeddings, ref_labels):
        return embeddings.sum() if labels.max() > 0 else embeddings.mean()

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(toy_plugin.Pull, "compute", by_value)
        assert not messages(toy([]))
