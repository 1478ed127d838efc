"""The embedder, its pools and its projection."""

from __future__ import annotations

from typing import get_type_hints

import pytest
import torch
from toolbox_retrieval.embedder import Embedder
from torch import nn

from toolbox.base import Backbone, Batch, Features, Loss
from toolbox.builtins.projection import Projection
from toolbox.utils.pool import TokenPool, pool_gem


class Toy(Backbone):
    """Tokens in, tokens out: the first is the CLS token."""

    dim = 4

    def __init__(self):
        super().__init__()
        self.scale = nn.Parameter(torch.ones(()))

    def forward(self, inputs, *, layers=1, mask=None):
        return Features(inputs * self.scale, prefix=1)

    def layers(self):
        return []

    def preprocess(self):
        raise NotImplementedError


class Recorder(Loss):
    """Keeps what it was called with."""

    needs_labels = False

    def connect(self, dim, classes=None):
        self.connected = [*getattr(self, "connected", []), (dim, classes)]

    def compute(self, embeddings, labels, ref_embeddings, ref_labels):
        self.seen = embeddings, labels, ref_embeddings, ref_labels
        return embeddings.sum()


def batch(rows=6, views=1, labels=True):
    torch.manual_seed(0)
    return Batch.example(
        {"image": torch.randn(rows, 5, 4)},
        labels=torch.arange(rows // views) if labels else None,
        views={"image": views},
    )


def model(**arguments):
    built = Embedder(backbone=Toy(), **arguments)
    built.connect(classes=7)
    return built


def test_connects_the_head_to_the_pool_and_the_loss_to_the_head_once():
    built = model(pool="cls+mean", head=Projection(dim=3), loss=Recorder())
    assert (built.head.in_dim, built.out_dim) == (8, 3)
    assert built.criterion.connected == [(3, 7)]
    with pytest.raises(ValueError, match="already connected"):
        built.connect(classes=7)
    assert built.criterion.connected == [(3, 7)]
    assert model(pool="cls+mean", loss=Recorder()).criterion.connected == [(8, 7)]


def test_predictions_are_unit_rows_in_float32_and_the_baseline_knows_no_head():
    built, data = model(head=Projection(dim=3)), batch()
    for dtype in (torch.float32, torch.bfloat16):
        with torch.autocast("cpu", torch.bfloat16, enabled=dtype == torch.bfloat16):
            found, before = (built(data, mode)["embeddings"] for mode in ("predict", "baseline"))
        assert found.dtype == before.dtype == torch.float32
        torch.testing.assert_close(found.norm(dim=1), torch.ones(6))
        assert found.shape == (6, 3)
    expected = data.inputs["image"][:, 0]
    torch.testing.assert_close(before, expected / expected.norm(dim=1, keepdim=True))
    torch.testing.assert_close(model()(data, "predict")["embeddings"], before)


@pytest.mark.parametrize("views", [1, 2, 3])
def test_all_rows_together(views):
    built, data = model(loss=Recorder()), batch(views=views)
    built(data, "loss")["loss"].backward()
    embeddings, labels, *references = built.criterion.seen
    # an item's views stand together, as they do when several processes hold some items each
    by_item = [view * 6 // views + item for item in range(6 // views) for view in range(views)]
    assert torch.equal(embeddings, data.inputs["image"][by_item, 0])
    assert torch.equal(labels, data.labels.repeat(views)[by_item])
    assert references == [None, None]
    assert built.backbone.scale.grad is not None


@pytest.mark.parametrize("views", [2, 3])
def test_first_view_against_the_others(views):
    built, data = model(loss=Recorder(), cross_view=True), batch(views=views)
    built(data, "loss")
    embeddings, labels, references, reference_labels = built.criterion.seen
    rows, count = data.inputs["image"][:, 0], 6 // views
    assert torch.equal(embeddings, rows[:count])
    assert torch.equal(references, rows[count:])
    assert torch.equal(torch.cat([labels, reference_labels]), data.labels.repeat(views))


def test_cross_view_without_labels_takes_two_views():
    built = model(loss=Recorder(), cross_view=True)
    built(batch(views=2, labels=False), "loss")
    assert built.criterion.seen[1] is built.criterion.seen[3] is None
    with pytest.raises(ValueError, match="exactly 2 views, and this batch has 3"):
        built(batch(views=3, labels=False), "loss")
    with pytest.raises(ValueError, match="compares two views"):
        built(batch(views=1), "loss")


def test_without_a_loss_it_predicts_and_says_why_it_cannot_train():
    built = model()
    assert built(batch(), "predict")["embeddings"].shape == (6, 4)
    with pytest.raises(ValueError, match=r"set model\.loss"):
        built(batch(), "loss")


def test_pool_is_a_component_or_its_mode():
    chosen = TokenPool("mean")
    assert model(pool=chosen).pool is chosen
    assert model(pool="mean").pool.mode == "mean"
    assert get_type_hints(Embedder.__init__)["backbone"] is Backbone
    with pytest.raises(ValueError, match="Try one of cls, mean"):
        model(pool="max")


def test_a_loss_with_parameters_is_a_part_beside_the_methods_of_a_model():
    class Proxies(Recorder):
        def connect(self, dim, classes=None):
            self.proxies = nn.Parameter(torch.zeros(classes, dim))

    built = model(head=Projection(dim=3), loss=Proxies())
    assert {"criterion.proxies", "head.stack.0.weight", "backbone.scale"} <= set(dict(built.named_parameters()))
    assert built.get_submodule("criterion") is built.criterion


# --- pools -------------------------------------------------------------------------------------------------------
TOKENS = torch.tensor([[[9.0, 9.0], [1.0, 2.0], [3.0, 4.0], [5.0, 9.0]]])
PADDED = Features(TOKENS, prefix=1, valid=torch.tensor([[True, True, True, False]]))


@pytest.mark.parametrize(
    ("mode", "expected", "padded"),
    [
        ("cls", [9, 9], [9, 9]),
        ("mean", [3, 5], [2, 3]),
        ("cls+mean", [9, 9, 3, 5], [9, 9, 2, 3]),
        ("last", [5, 9], [3, 4]),
        ("gem", [(153 / 3) ** (1 / 3), (801 / 3) ** (1 / 3)], [14 ** (1 / 3), 36 ** (1 / 3)]),
    ],
)
def test_pools(mode, expected, padded):
    pool = TokenPool(mode)
    features = Features(TOKENS, prefix=1)
    torch.testing.assert_close(pool(features).detach(), torch.tensor([expected], dtype=torch.float))
    torch.testing.assert_close(pool(PADDED).detach(), torch.tensor([padded], dtype=torch.float))
    assert pool(features).shape[1] == pool.dim(2)


def test_generalized_mean_lies_between_mean_and_maximum_and_learns_its_power():
    torch.manual_seed(0)
    features = Features(torch.rand(3, 7, 4), prefix=2)
    patches = features.tokens[:, 2:]
    torch.testing.assert_close(pool_gem(features, 1.0), patches.mean(1))
    torch.testing.assert_close(pool_gem(features, 60.0), patches.amax(1), rtol=0.05, atol=0)
    pool = TokenPool("gem")
    pool(features).sum().backward()
    assert pool.power.grad.abs() > 0
    negative = Features(-torch.rand(1, 3, 4), prefix=1)
    (gradient,) = torch.autograd.grad(pool(negative).sum(), pool.power)
    assert gradient.isfinite()
    assert pool(Features(features.tokens.bfloat16(), prefix=2)).dtype == torch.float32


def test_cls_of_a_backbone_without_one():
    with pytest.raises(ValueError, match="no CLS token"):
        TokenPool("cls")(Features(TOKENS))


# --- projection --------------------------------------------------------------------------------------------------
@pytest.mark.parametrize(
    ("arguments", "kinds", "widths"),
    [
        ({}, ["Linear"], [(4, 5)]),
        ({"layers": 3}, ["Linear", "GELU", "Linear", "GELU", "Linear"], [(4, 4), (4, 4), (4, 5)]),
        (
            {"layers": 2, "hidden": 6, "dropout": 0.1},
            [
                "Dropout",
                "Linear",
                "GELU",
                "Dropout",
                "Linear",
            ],
            [(4, 6), (6, 5)],
        ),
        ({"norm": "batch", "bias": False}, ["BatchNorm1d", "Linear"], [(4, 5)]),
        ({"norm": "layer", "layers": 2}, ["LayerNorm", "Linear", "GELU", "LayerNorm", "Linear"], [(4, 4), (4, 5)]),
    ],
)
def test_projection(arguments, kinds, widths):
    head = Projection(dim=5, **arguments)
    head.connect(4, classes=3)
    assert [type(module).__name__ for module in head.stack] == kinds
    linear = [module for module in head.stack if isinstance(module, nn.Linear)]
    assert [(module.in_features, module.out_features) for module in linear] == widths
    assert all((module.bias is not None) == arguments.get("bias", True) for module in linear)
    assert head(torch.randn(3, 4)).shape == (3, 5)
    assert (head.in_dim, head.out_dim) == (4, 5)


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"dim": 0}, "not layers=1, dim=0"),
        ({"layers": 0}, "not layers=0"),
        ({"hidden": 8}, "hidden=8 needs"),
        ({"layers": 2, "hidden": 0}, "hidden=0 needs"),
        ({"norm": "group"}, "norm 'group' does not exist"),
        ({"dropout": 1.0}, "dropout=1.0 is no probability"),
    ],
)
def test_projection_refuses(wrong, message):
    with pytest.raises(ValueError, match=message):
        Projection(**wrong)
