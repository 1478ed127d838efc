"""The ConvNeXt: sizes, shape of its features, and what is refused."""

from __future__ import annotations

from itertools import pairwise

import pytest
import torch
from toolbox_dinov3.convnext import ConvNeXt
from toolbox_dinov3.ids import KNOWN

TINY = {"hidden_sizes": [8, 16, 24, 32], "depths": [1, 1, 2, 1], "layer_scale_init_value": 0.5}
PUBLISHED = {"convnext-tiny": 28e6, "convnext-small": 50e6, "convnext-base": 88e6, "convnext-large": 197e6}


def tiny(size: int = 32, **arguments) -> ConvNeXt:
    torch.manual_seed(0)
    return ConvNeXt(name=None, arch=TINY, size=size, **arguments)


@pytest.mark.parametrize("short", PUBLISHED)
def test_released_sizes(short):
    known = next(known for known in KNOWN if known.short == short)
    with torch.device("meta"):
        net = ConvNeXt(short)
        assert net(torch.empty(2, 3, 224, 224)).tokens.shape == (2, 1 + 7 * 7, net.dim)
    widths, depths = known.arch["hidden_sizes"], known.arch["depths"]
    expected = 2 * widths[-1] + 3 * 16 * widths[0] + 3 * widths[0]  # final norm; stem: 4 x 4 convolution, norm
    for last, width in pairwise(widths):
        expected += 2 * last + 4 * last * width + width
    for width, depth in zip(widths, depths, strict=True):
        expected += depth * (49 * width + width + 2 * width + 8 * width * width + 5 * width + width)
    count = sum(parameter.numel() for parameter in net.parameters())
    assert count == expected
    assert abs(count / PUBLISHED[short] - 1) < 0.02
    assert (net.dim, len(net.layers()), net.weights_id) == (widths[-1], sum(depths), known.id)


def test_features_are_the_pooled_map_and_the_map():
    net = tiny().eval()
    features = net(torch.randn(2, 3, 64, 96))
    assert features.tokens.shape == (2, 1 + 2 * 3, 32)
    assert (features.prefix, features.grid, features.blocks) == (1, (2, 3), None)
    single = net(torch.randn(2, 3, 32, 32))
    assert single.grid == (1, 1)
    torch.testing.assert_close(single.tokens[:, 0], single.tokens[:, 1])  # a map of one cell is its own mean


def test_map_is_row_by_row():
    blocks_off = {**TINY, "layer_scale_init_value": 0.0}  # what is left are strided convolutions: each cell by itself
    net, pixels = ConvNeXt(name=None, arch=blocks_off, size=32).eval(), torch.randn(1, 3, 64, 96)
    changed = pixels.clone()
    changed[..., :32, 64:] = 3.0  # the upper right cell
    difference = (net(changed).tokens - net(pixels).tokens).abs().sum(-1)[0, 1:]
    assert (difference > 0).tolist() == [False, False, True, False, False, False]


def test_layers_are_in_order_and_drop_path_rises():
    net = tiny(drop_path=0.4)
    order = [id(module) for module in net.modules()]
    places = [order.index(id(layer)) for layer in net.layers()]
    assert places == sorted(places)
    assert len(places) == 5
    rates = [getattr(layer.drop_path, "drop_prob", 0.0) for layer in net.layers()]
    assert rates == pytest.approx([0.0, 0.1, 0.2, 0.3, 0.4])
    pixels = torch.randn(8, 3, 32, 32)
    assert not torch.equal(net.train()(pixels).tokens, net(pixels).tokens)
    exact = tiny().train()
    assert torch.equal(exact(pixels).tokens, exact(pixels).tokens)


def test_layer_scale_of_a_net_from_scratch():
    assert tiny().layers()[0].gamma.unique().tolist() == [0.5]


def test_checkpointing_recomputes_and_changes_no_number():
    found = []
    for recomputes in (False, True):
        net, pixels, kept = tiny(drop_path=0.5).train(), torch.randn(2, 3, 64, 96, generator=torch.manual_seed(1)), []
        if recomputes:
            net.enable_checkpointing()
        with torch.autograd.graph.saved_tensors_hooks(lambda t, kept=kept: kept.append(1) or t, lambda t: t):
            tokens = net(pixels).tokens
        tokens.square().sum().backward()
        found.append((tokens, [parameter.grad for parameter in net.parameters()], len(kept)))
    (plain, gradients, many), (tokens, again, few) = found
    assert few < many / 2
    assert torch.equal(tokens, plain)
    for mine, expected in zip(again, gradients, strict=True):
        torch.testing.assert_close(mine, expected)
    assert torch.equal(net.eval()(pixels).tokens, tiny().eval()(pixels).tokens)


def test_refusals():
    assert ConvNeXt.abilities == {"checkpointing"}
    net, pixels = tiny(), torch.zeros(1, 3, 32, 32)
    with pytest.raises(ValueError, match=r"dinov3.ViT does both"):
        net(pixels, layers=2)
    with pytest.raises(ValueError, match=r"dinov3.ViT does both"):
        net(pixels, mask=torch.zeros(1, 1, dtype=torch.bool))
    with pytest.raises(ValueError, match="multiples of 32 pixels, not 48 x 32"):
        net(torch.zeros(1, 3, 48, 32))
    with pytest.raises(ValueError, match="multiple of 32 pixels, not 48: try 32 or 64"):
        tiny(size=48)
    with pytest.raises(ValueError, match=r"no field 'depth'\. Did you mean 'depths'"):
        ConvNeXt(name=None, arch={"depth": [1]})
    with pytest.raises(ValueError, match="equally many"):
        ConvNeXt(name=None, arch={"depths": [1, 1]})
