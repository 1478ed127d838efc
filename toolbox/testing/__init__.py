"""For authors of plugins: checks of the contracts in toolbox.base, and a catalog for tests."""

from toolbox.testing.backbone import check_backbone
from toolbox.testing.data import check_augment, check_dataset, check_mix, check_sampler
from toolbox.testing.isolation import isolated_catalog
from toolbox.testing.loss import check_loss
from toolbox.testing.material import LabelledImages
from toolbox.testing.model import check_model
from toolbox.testing.modules import check_head, check_pool
from toolbox.testing.plugin import check_component, check_plugin
from toolbox.testing.training import check_metric, check_optimizer, check_schedule

__all__ = [
    "LabelledImages",
    "check_augment",
    "check_backbone",
    "check_component",
    "check_dataset",
    "check_head",
    "check_loss",
    "check_metric",
    "check_mix",
    "check_model",
    "check_optimizer",
    "check_plugin",
    "check_pool",
    "check_sampler",
    "check_schedule",
    "isolated_catalog",
]
