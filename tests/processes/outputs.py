"""What embedding and classifying give, beside what an evaluation of the same data sees."""

from __future__ import annotations

from typing import Any

import torch
from gradients import DEVICE
from metrics import BATCH, SETS, Answering
from toy_plugin import Patches

from toolbox.base import Metric
from toolbox.engine.data.batch_builder import input_specs
from toolbox.engine.distributed.context import DistributedContext
from toolbox.engine.evaluation.evaluator import Evaluator
from toolbox.engine.precision import Precision
from toolbox.inference.item_outputs import join_outputs, run_over_items
from toolbox.registry import build
from toolbox.utils.model_io import get_unit_embeddings

NAMES = ("6 items", "37 items", "some unreadable", "whole batches unreadable", "a first batch unreadable")


class Keep(Metric):
    """The embeddings that this process sees, by index."""

    def reset(self):
        self.rows = {}

    def update(self, outputs, batch):
        self.rows |= dict(zip(batch.indices, outputs["embeddings"], strict=True))

    def compute(self):
        return {}


def embeddings_of(outputs, batch):
    return get_unit_embeddings(outputs, batch.ids).numpy()


def classes_of(outputs, batch):
    return outputs["logits"].argmax(1).tolist()


def everything(distributed: DistributedContext) -> dict[str, dict[str, Any]]:
    torch.manual_seed(5)
    model = Answering(Patches(width=8, size=8), "tokens")
    precision, found = Precision("fp32", DEVICE), {}
    how = dict(precision=precision, batch_size=BATCH, workers=0, skip_bad=True)
    for name in NAMES:
        dataset = build(SETS[name][0], "dataset")
        embedded, classified = (
            join_outputs(run_over_items(model, dataset, DEVICE, convert, **how), len(dataset))
            for convert in (embeddings_of, classes_of)
        )
        loader = dict(dataset=SETS[name][0], batch_size=BATCH, num_workers=0, on_bad_item="skip", max_bad_share=0.9)
        target = Evaluator(loader, [], name="test")
        target.metrics = [Keep()]
        target.evaluate(model, input_specs(model), DEVICE, precision)
        found[name] = {
            "embeddings": torch.as_tensor(embedded.rows),
            "ids": embedded.ids,
            "indices": embedded.indices,
            "bad": embedded.bad,
            "classes": (classified.rows, classified.ids, classified.bad),
            "evaluated": target.metrics[0].rows,
        }
    return found
