"""Processor files of transformers: followed as that library follows them, or refused, for every class that it has."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch
import transformers
from PIL import Image
from transformers.models.auto.image_processing_auto import IMAGE_PROCESSOR_MAPPING_NAMES

from toolbox.utils.image_processor import read_image_processor, read_timm_images

LARGEST = 400
"""Pixels a side that are still quick; the classes with larger images are slow."""


def class_names():
    """Every class in transformers' table, whatever that version keeps in it: names, pairs, or names by backend."""
    for value in IMAGE_PROCESSOR_MAPPING_NAMES.values():
        names = value.values() if isinstance(value, dict) else [value] if isinstance(value, str) else value
        yield from (name for name in names if name)


def saved(folder, name):
    """The folder of a processor of defaults, as the library saves it; None for a class that has no defaults."""
    try:
        getattr(transformers, name)().save_pretrained(folder)
    except (ImportError, TypeError, AttributeError):
        return None
    return folder


def noise(height, width):
    return Image.fromarray(np.random.default_rng(1).integers(0, 256, (height, width, 3), dtype=np.uint8))


def differences(folder, settings, scales=(1.0, 1.5)):
    """Largest and mean difference from the library's pixels, in steps of a byte, for pictures of these scales.

    Without what its processor cuts off: every backbone here cuts alike.
    """
    processor = transformers.AutoImageProcessor.from_pretrained(folder)
    whole = {"do_center_crop": False, "crop_pct": 1.0}
    options = {name: value for name, value in whole.items() if getattr(processor, name, None)}
    height, width = settings.size or (224, 224)
    for scale in scales:
        picture = noise(round(scale * height), round(scale * width))
        theirs = processor(images=[picture], return_tensors="pt", **options)["pixel_values"]
        preprocess = settings.preprocess(tuple(theirs.shape[-2:]))
        ours = preprocess.finish(preprocess(picture)[None])
        steps = ((ours - theirs) * 255 * torch.tensor(settings.std).view(3, 1, 1)).abs()
        yield steps.max().item(), steps.mean().item()


def small_enough(name):
    """Whether it makes small images; a pair of backends is tried by one of them."""
    size = getattr(getattr(transformers, name), "size", None) or {}
    sides = [side for side in size.values() if isinstance(side, int)] if isinstance(size, dict) else []
    return max(sides, default=0) <= LARGEST and not name.endswith("Pil")


def check(name, tmp_path):
    folder = saved(tmp_path / name, name)
    if folder is None:
        return "absent"
    try:
        settings = read_image_processor(folder)
    except ValueError:
        return "refused"
    resizes = settings.size is not None
    for largest, mean in differences(folder, settings, (1.0, 1.5) if resizes else (1.0,)):
        assert largest <= 3, name
        assert mean <= 0.5, name
    return "followed"


def test_small_images_of_every_class(tmp_path):
    names = sorted({name for name in class_names() if small_enough(name)})
    outcomes = {name: check(name, tmp_path) for name in names}
    followed = {name for name, outcome in outcomes.items() if outcome == "followed"}
    assert {
        "BeitImageProcessor",
        "BitImageProcessor",
        "BlipImageProcessor",
        "CLIPImageProcessor",
        "ConvNextImageProcessor",
        "DPTImageProcessor",
        "DeiTImageProcessor",
        "EfficientNetImageProcessor",
        "FlavaImageProcessor",
        "LevitImageProcessor",
        "MobileNetV2ImageProcessor",
        "PoolFormerImageProcessor",
        "PvtImageProcessor",
        "SiglipImageProcessor",
        "ViTImageProcessor",
    } <= followed
    assert {name for name, outcome in outcomes.items() if outcome == "refused"} >= {
        "ImageGPTImageProcessor",
        "MobileViTImageProcessor",
        "Siglip2ImageProcessor",
    }


@pytest.mark.slow
def test_large_images_and_other_backends_of_every_class(tmp_path):
    names = sorted({name for name in class_names() if not small_enough(name)})
    outcomes = {name: check(name, tmp_path) for name in names}
    assert {"SamImageProcessor", "DetrImageProcessor", "ViTImageProcessorPil"} <= {
        name for name, outcome in outcomes.items() if outcome == "followed"
    }


def test_the_comparison_sees_another_filter_and_another_scale(tmp_path):
    folder = saved(tmp_path, "ViTImageProcessor")
    settings = read_image_processor(folder)
    for change in ({"interpolation": "bicubic"}, {"interpolation": "nearest"}, {"mean": (0.485, 0.456, 0.406)}):
        wrong = type(settings)(**{**vars(settings), **change})
        assert any(largest > 3 or mean > 0.5 for largest, mean in differences(folder, wrong)), change


def write(folder, **content):
    (folder / "preprocessor_config.json").write_text(json.dumps(content))
    return read_image_processor(folder)


def test_what_a_file_leaves_out_is_the_default_of_its_class(tmp_path):
    vit = write(tmp_path, image_processor_type="ViTImageProcessor", size={"height": 32, "width": 32})
    clip = write(tmp_path, image_processor_type="CLIPImageProcessor", crop_size=32, size={"shortest_edge": 32})
    assert (vit.mean, vit.std, vit.interpolation) == ((0.5,) * 3, (0.5,) * 3, "bilinear")
    assert (clip.mean, clip.interpolation) == ((0.48145466, 0.4578275, 0.40821073), "bicubic")
    # as older versions, and other kinds of processor, wrote it
    assert write(tmp_path, feature_extractor_type="ViTFeatureExtractor", size=32) == vit
    assert write(tmp_path, image_processor_type="ViTImageProcessorFast", size=32) == vit
    (tmp_path / "preprocessor_config.json").unlink()
    nested = {"processor_class": "CLIPProcessor", "image_processor": {"image_processor_type": "ViTImageProcessor"}}
    (tmp_path / "processor_config.json").write_text(json.dumps(nested))
    assert read_image_processor(tmp_path).mean == vit.mean
    (tmp_path / "processor_config.json").write_text(json.dumps({"processor_class": "CLIPProcessor"}))
    with pytest.raises(ValueError, match="transformers cannot read the image processor in"):
        read_image_processor(tmp_path)
    with pytest.raises(ValueError, match="image_processor_type"):
        write(tmp_path, image_mean=[0.5] * 3)  # of no class, beside no config.json


def test_scaling_is_followed_whatever_makes_it(tmp_path):
    efficient = {
        "image_processor_type": "EfficientNetImageProcessor",
        "size": {"height": 32, "width": 32},
        "include_top": False,
    }
    offset = write(tmp_path, **efficient, rescale_factor=1 / 127.5, rescale_offset=True, do_normalize=False)
    assert (offset.mean, offset.std) == (pytest.approx((0.5,) * 3), pytest.approx((0.5,) * 3))
    assert max(largest for largest, _ in differences(tmp_path, offset)) <= 2
    bytes_ = write(tmp_path, **efficient, do_rescale=False, do_normalize=False)
    assert (bytes_.mean, bytes_.std) == (pytest.approx((0.0,) * 3), pytest.approx((1 / 255,) * 3))
    for wrong, message in (
        ({"image_std": [0.5, -0.5, 0.5]}, "does not multiply colours by a positive factor"),
        ({"resample": 4}, "resizes by PIL's filter 4"),
        ({"image_mean": None}, "makes no pixel_values"),
        ({"do_center_crop": True, "crop_size": {"height": 48, "width": 48}}, "pads images"),
    ):
        with pytest.raises(ValueError, match=message):
            write(tmp_path, **{**efficient, **wrong})


def test_encoders_that_take_blue_first(tmp_path):
    settings = write(
        tmp_path,
        image_processor_type="MobileViTImageProcessor",
        size={"shortest_edge": 36},
        crop_size={"height": 32, "width": 32},
    )
    assert settings.channels == "BGR"
    assert max(largest for largest, _ in differences(tmp_path, settings)) <= 2
    plain = write(
        tmp_path,
        image_processor_type="MobileViTImageProcessor",
        size={"shortest_edge": 36},
        crop_size={"height": 32, "width": 32},
        do_flip_channel_order=False,
    )
    assert plain.channels == "RGB"


def test_descriptions_of_timm():
    from timm.data import resolve_data_config

    for given in (
        {"mean": None, "std": [0.5] * 3},
        {"crop_pct": 0.9},
        {"interpolation": "bilinear", "mean": [0.5] * 3},
    ):
        ours, theirs = read_timm_images(given), resolve_data_config(pretrained_cfg=given)
        assert (ours.interpolation, list(ours.mean)) == (theirs["interpolation"], list(theirs["mean"]))
        assert list(ours.std) == list(theirs["std"])
    with pytest.raises(ValueError, match="interpolation must be one of nearest"):
        read_timm_images({"interpolation": "hamming"})
    with pytest.raises(ValueError, match="mean and std need three numbers each"):
        read_timm_images({"mean": [0.5], "std": [0.5]})
