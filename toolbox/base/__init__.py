"""The extension points: one small abstract class a file, and the few helpers every author needs."""

from toolbox.base.augment import Augment
from toolbox.base.backbone import Backbone
from toolbox.base.batch import Batch
from toolbox.base.checks import check_images, check_rate
from toolbox.base.dataset import Dataset, Sample, lazy_attribute
from toolbox.base.exported_backbone import ExportedBackbone
from toolbox.base.exported_model import ExportedModel
from toolbox.base.features import Features
from toolbox.base.files import check_file, new_file, to_json, write_text
from toolbox.base.functional import (
    average_patches,
    gather,
    gather_rows,
    get_dist_info,
    l2_normalize,
    take_cls_token,
    take_last_token,
    without_autocast,
)
from toolbox.base.head import Head
from toolbox.base.hook import Hook
from toolbox.base.image_files import (
    ImageFiles,
    compose_unicode,
    find_images,
    format_ending_counts,
    get_image_suffixes,
    identify_files,
    is_ignored_name,
    list_folders,
    natural_sort_key,
)
from toolbox.base.image_preprocess import ImagePreprocess, check_crop
from toolbox.base.images import decode_image, read_image, set_max_image_pixels
from toolbox.base.labels import MISSING_LABELS, find_similar_labels, read_label
from toolbox.base.loaded_model import LoadedModel
from toolbox.base.loss import Loss
from toolbox.base.metric import Metric
from toolbox.base.mix import Mix
from toolbox.base.model import Model
from toolbox.base.optimizer import Optimizer, Schedule
from toolbox.base.pool import Pool
from toolbox.base.preprocess import Preprocess
from toolbox.base.quantize import Quantize
from toolbox.base.report_items import Curve, Example, Gallery, Histogram, Matrix, Outcomes, ReportItem, Table
from toolbox.base.run import Run
from toolbox.base.sampler import Sampler
from toolbox.base.splits import SPLITS, split_by_hash, take_by_hash
from toolbox.base.stored_features import PooledBackbone
from toolbox.base.tune import Tune

__all__ = [
    "MISSING_LABELS",
    "SPLITS",
    "Augment",
    "Backbone",
    "Batch",
    "Curve",
    "Dataset",
    "Example",
    "ExportedBackbone",
    "ExportedModel",
    "Features",
    "Gallery",
    "Head",
    "Histogram",
    "Hook",
    "ImageFiles",
    "ImagePreprocess",
    "LoadedModel",
    "Loss",
    "Matrix",
    "Metric",
    "Mix",
    "Model",
    "Optimizer",
    "Outcomes",
    "Pool",
    "PooledBackbone",
    "Preprocess",
    "Quantize",
    "ReportItem",
    "Run",
    "Sample",
    "Sampler",
    "Schedule",
    "Table",
    "Tune",
    "average_patches",
    "check_crop",
    "check_file",
    "check_images",
    "check_rate",
    "compose_unicode",
    "decode_image",
    "find_images",
    "find_similar_labels",
    "format_ending_counts",
    "gather",
    "gather_rows",
    "get_dist_info",
    "get_image_suffixes",
    "identify_files",
    "is_ignored_name",
    "l2_normalize",
    "lazy_attribute",
    "list_folders",
    "natural_sort_key",
    "new_file",
    "read_image",
    "read_label",
    "set_max_image_pixels",
    "split_by_hash",
    "take_by_hash",
    "take_cls_token",
    "take_last_token",
    "to_json",
    "without_autocast",
    "write_text",
]
