"""Metrics over datasets of awkward sizes: what one process and several must agree on to the last bit."""

from __future__ import annotations

from typing import Any

import torch
from contract_parts import Letters
from contract_parts import Patches as Tiles
from gradients import DEVICE
from toolbox_alignment.dual_encoder import DualEncoder
from toolbox_retrieval.embedder import Embedder
from toy_plugin import Patches

from toolbox.engine.data.batch_builder import input_specs
from toolbox.engine.distributed.context import DistributedContext
from toolbox.engine.distributed.parallel import spread
from toolbox.engine.evaluation.evaluator import Evaluator
from toolbox.engine.precision import Precision
from toolbox.utils.tower import Tower

BATCH = 8
RECALL = dict(
    type="retrieval.Recall",
    ks=[1, 2, 4],
    dims=[3, 8],
    intervals=40,
    alpha_qe=[3, 2.0],
    rerank=[4, 2, 0.3],
    expand_gallery=True,
)
LATE = dict(type="retrieval.LateInteractionRecall", ks=[1, 2, 4])
ACCURACY = dict(type="classification.Accuracy", ks=[1, 3], intervals=40)
CALIBRATION = dict(type="classification.CalibrationError")
# name -> (the dataset, the metrics)
SETS: dict[str, tuple[dict[str, Any], list[dict[str, Any]]]] = {
    f"{count} items": (dict(type="toy.Noise", count=count, seed=4), [RECALL, LATE, ACCURACY, CALIBRATION])
    for count in (6, 20, 32, 37, 71)
}
SETS["whitened by the training set"] = SETS["37 items"][0], [RECALL | {"whiten": 4}, LATE]
SETS["whitened by the gallery"] = SETS["71 items"][0], [RECALL | {"whiten": 4, "whiten_from": "gallery"}]
SETS["queries and gallery"] = dict(type="processes.Asked", count=53), [RECALL, LATE | {"lone": "skip"}]
SETS["some unreadable"] = dict(type="toy.Noise", count=61, bad=[0, 9, 60]), [RECALL, LATE, ACCURACY]
# with two processes the second one, with four the second and the fourth read nothing at first
SETS["whole batches unreadable"] = (
    dict(type="toy.Noise", count=61, bad=[*range(8, 16), *range(24, 32), 40]),
    [RECALL, LATE, ACCURACY, CALIBRATION],
)
SETS["a first batch unreadable"] = dict(type="toy.Noise", count=61, bad=list(range(8))), [RECALL, LATE, ACCURACY]
CLASSIFIERS = [
    dict(type="classification.KNN", ks=[1, 4, 9]),
    dict(type="classification.LogisticRegression", cs=[1.0, 100.0]),
]
SETS["classified by the training set"] = SETS["37 items"][0], [*CLASSIFIERS, RECALL]
SETS["few items to classify"] = SETS["6 items"][0], [*CLASSIFIERS, RECALL]
PAIRS = dict(type="alignment.Recall", ks=[1, 5], dims=[3, 8], intervals=40)
PROBE = dict(type="alignment.Probe", ks=[1, 5], intervals=40)
ZERO_SHOT = dict(type="alignment.ZeroShot", prompts=["{}", "a {} image"], ks=[1, 2])
for count in (3, 40, 53):
    SETS[f"{count} captioned items"] = dict(type="contract.Captions", count=count), [PAIRS, ZERO_SHOT]
SETS["mapped to texts"] = dict(type="contract.Captions", count=53), [PAIRS, PROBE]
TRAINING = dict(
    dataset=dict(type="toy.Noise", count=45, seed=9, bad=[44]), on_bad_item="skip", max_bad_share=0.9, batch_size=BATCH
)


class Answering(Embedder):
    """Also gives logits, of as many classes as the largest set has."""

    def predict(self, batch):
        found = super().predict(batch)
        weight = torch.randn(found["embeddings"].shape[1], 18, generator=torch.Generator().manual_seed(6))
        return found | {"logits": 5 * found["embeddings"] @ weight}


def _make_dual_encoder() -> DualEncoder:
    """Towers of one width without heads."""
    return DualEncoder({"image": Tower(Tiles(dim=12), "mean")}, {"text": Tower(Letters(dim=12), "last")})


def judged(
    distributed: DistributedContext, dataset: dict[str, Any], metrics: list[dict[str, Any]], mode: str
) -> dict[str, Any]:
    """What an evaluation finds: numbers, and what a report would show."""
    torch.manual_seed(5)
    is_dual = PAIRS in metrics
    model = _make_dual_encoder() if is_dual else Answering(Patches(width=8, size=8), "tokens")
    precision = Precision("fp32", DEVICE)
    settings = {"mode": mode, "find_unused_parameters": None}
    inputs = input_specs(model)
    parallel = spread(model, distributed, settings, DEVICE, precision, idle=False)
    loader = dict(dataset=dataset, batch_size=BATCH, num_workers=0, on_bad_item="skip", max_bad_share=0.9)
    training = TRAINING | {"dataset": dict(type="contract.Captions", count=45)} if is_dual else TRAINING
    target = Evaluator(loader, metrics, name="test", training=training)
    numbers = target.evaluate(parallel.module, inputs, DEVICE, precision)
    shown = [repr(finding) for metric in target.metrics for finding in metric.report_items(target.dataset)]
    return {"numbers": numbers, "findings": shown}


def everything(distributed: DistributedContext) -> dict[str, dict[str, Any]]:
    """All sets; with several processes also through a sharded model."""
    found = {name: judged(distributed, *SETS[name], "ddp") for name in SETS}
    if distributed.world_size > 1:
        found |= {f"fsdp:{name}": judged(distributed, *SETS[name], "fsdp") for name in list(SETS)[-10:]}
    return found
