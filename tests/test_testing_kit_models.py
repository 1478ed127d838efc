"""The conformance check of models, and of metrics with texts of their own: each catches what breaks its contract."""

from __future__ import annotations

import pytest
import torch
from contract_models import DualEncoder, Pretrainer
from contract_parts import Contrastive, Letters, Patches
from test_testing_kit import caught
from toolbox_alignment.zero_shot import ZeroShot

from toolbox.builtins.projection import Projection
from toolbox.testing import check_metric, check_model
from toolbox.utils.tower import Tower


def make(kind: type = DualEncoder) -> DualEncoder:
    torch.manual_seed(0)
    vision = {"image": Tower(Patches(dropout=0.0), "mean", Projection(dim=4))}
    return kind(vision, {"text": Tower(Letters(), "last", Projection(dim=4))}, Contrastive())


def _of_batch(self, batch):
    return {name: rows - rows.mean(0) for name, rows in DualEncoder.encode(self, batch).items()}


def _both(self, batch):
    outputs = DualEncoder.predict(self, batch)
    return outputs | ({"embeddings": sum(outputs.values())} if len(outputs) > 1 else {})


def _first_item(self, batch):
    return {name: rows[:1] for name, rows in DualEncoder.predict(self, batch).items()}


BROKEN = [
    (dict(predict=lambda self, batch: {}), r"predict must return \{name: tensor\}"),
    (dict(predict=_first_item), "a row for each of 6 items"),
    (dict(predict=lambda self, batch: {"embeddings": torch.rand(6, 2)}), "the same again in eval mode"),
    (dict(predict=lambda self, batch: {"embeddings": torch.full((6, 2), torch.nan)}), "must be finite"),
    (dict(predict=_both), "with and without inputs of other modalities"),
    (dict(predict=lambda self, batch: {"rows": torch.ones(6, 2)}), "must give 'embeddings' of the inputs that are im"),
    (dict(encode=_of_batch, predict=DualEncoder.encode), "each row from that row of the inputs alone"),
    (dict(compute_loss=lambda self, rows, batch: {"value": torch.ones(())}), "loss must return"),
    (dict(compute_loss=lambda self, rows, batch: {"loss": rows["embeddings"]}), "must be one number"),
    (dict(compute_loss=lambda self, rows, batch: {"loss": rows["embeddings"].sum().detach()}), "is something detached"),
    (dict(compute_loss=lambda self, rows, batch: {"loss": 0 * rows["embeddings"].sum()}), "pass a gradient to what"),
    (dict(compute_loss=lambda self, rows, batch: {"loss": rows["embeddings"].sum() / 0}), "must be finite"),
    (dict(preprocess=lambda self: {}), "the conversion of each"),
]


@pytest.mark.parametrize(("changes", "message"), BROKEN, ids=lambda value: value if isinstance(value, str) else "")
def test_models(changes, message):
    check_model(make)
    caught(check_model, lambda: make(type("Broken", (DualEncoder,), changes)), message)


def test_a_model_of_one_piece_passes():
    class Own(Pretrainer):
        """The toy looks at crops of several views, which the check does not make."""

        def check(self):
            return [None]

    check_model(lambda: Own(Patches(masked=True, dropout=0.0)))


class ClassOfFirstText(ZeroShot):
    """Asks for what is no text."""

    def list_texts(self, dataset):
        return [1, 2]


def test_metrics_with_texts_of_their_own():
    check_metric(ZeroShot)
    caught(check_metric, ClassOfFirstText, "list_texts must return texts")
    total = {
        "update": lambda self, outputs, batch: None,
        "compute": lambda self: {"x": float(self.text_embeddings.sum())},
    }
    check_metric(type("OfTexts", (ZeroShot,), total | {"check_outputs": lambda self, outputs: []}))
