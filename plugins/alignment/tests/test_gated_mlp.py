"""The gated head is what its docstring says, in plain torch too."""

import pytest
import torch
from toolbox_alignment.gated_mlp import GatedMLP
from torch.nn import functional as F


def make(**options) -> GatedMLP:
    torch.manual_seed(0)
    head = GatedMLP(dim=4, **options)
    head.connect(6)
    return head.eval()


def test_one_linear_layer_gates_the_other():
    head, x = make(expansion=2.0, dropout=0.3), 3 * torch.randn(5, 6)
    n = F.layer_norm(x, (6,), head.norm.weight, head.norm.bias)
    y = head.projection(head.gate(n).clamp(0, 6) * head.value(n))
    torch.testing.assert_close(head(x), y)
    assert head.gate.out_features == 12
    assert not torch.equal(head.train()(x), y)


def test_it_is_the_same_in_plain_torch():
    head, x = make(), torch.randn(5, 6)
    scope = {"head": {f"head.{name}": value for name, value in head.state_dict().items()}, "x": x, "F": F}
    exec("\n".join(head.in_plain_torch("head")), scope)
    torch.testing.assert_close(scope["x"], head(x))


@pytest.mark.parametrize("options", [dict(dim=0), dict(expansion=0), dict(dropout=1.0)])
def test_values_that_make_no_head_are_refused(options):
    with pytest.raises(ValueError, match=r"width|probability"):
        GatedMLP(**options)
