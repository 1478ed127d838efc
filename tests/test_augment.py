"""Random views: sizes, seeds, geometry, color and speed."""

from __future__ import annotations

import random

import numpy as np
import pytest
from PIL import Image, ImageEnhance
from timing import is_quick

from toolbox.builtins.augment import RandomViews, recolor
from toolbox.builtins.geometry import crop_affine, draw_box

EVERYTHING = {"rotate": 20, "shear": 10, "color": 0.4, "gray": 0.2, "blur": 0.5, "erase": 0.5}


def picture(width=50, height=40, seed=0):
    """Smooth colors, so that views can be compared over resampling."""
    small = np.random.default_rng(seed).integers(0, 256, (4, 5, 3), dtype=np.uint8)
    return Image.fromarray(small).resize((width, height), Image.Resampling.BICUBIC)


def values(image):
    return np.asarray(image, dtype=np.float64)


def seeded(seed, augment, image, size):
    random.seed(seed)
    return augment(image, size)


@pytest.mark.parametrize("settings", [{}, EVERYTHING], ids=["crop", "everything"])
@pytest.mark.parametrize("size", [(32, 32), (24, 48), (224, 160)])
@pytest.mark.parametrize("shape", [(50, 40), (7, 300), (1, 1), (448, 460)])
def test_views_have_exactly_the_size(settings, size, shape):
    augment = RandomViews(**settings)
    for seed in range(10):
        view = seeded(seed, augment, picture(*shape), size)
        assert (view.size, view.mode) == (size[::-1], "RGB")


@pytest.mark.parametrize("settings", [{}, EVERYTHING], ids=["crop", "everything"])
def test_the_seed_decides_the_view(settings):
    augment, image = RandomViews(**settings), picture()
    first, again, other = (seeded(seed, augment, image, (32, 32)) for seed in (1, 1, 2))
    assert np.array_equal(first, again)
    assert not np.array_equal(first, other)


def test_several_views_differ():
    views = seeded(0, RandomViews(views=3), picture(), (16, 16))
    assert len(views) == 3
    assert not np.array_equal(views[0], views[1])
    assert not np.array_equal(views[1], views[2])


def test_other_color_modes_become_rgb():
    for mode in ("L", "RGBA", "P", "CMYK"):
        assert RandomViews(**EVERYTHING)(picture().convert(mode), (16, 16)).mode == "RGB"


def test_the_image_itself_is_not_changed():
    image = picture(16, 16)
    before = values(image)
    for seed in range(10):
        seeded(seed, RandomViews(scale=(1, 1), ratio=(1, 1), erase=1.0), image, (16, 16))
    assert np.array_equal(values(image), before)


def test_boxes_keep_their_share_and_shape():
    random.seed(0)
    for _ in range(500):
        left, top, right, bottom = draw_box((100, 80), (0.1, 0.3), (0.5, 2.0))
        assert 0 <= left < right <= 100
        assert 0 <= top < bottom <= 80
        width, height = right - left, bottom - top
        assert 0.0999 < width * height / 8000 < 0.3001
        assert 0.4999 < width / height < 2.0001


def test_no_randomness_left_gives_the_image_or_its_mirror():
    image = picture(32, 32)
    for flip, expected in ((0.0, image), (1.0, image.transpose(Image.Transpose.FLIP_LEFT_RIGHT))):
        view = RandomViews(scale=(1, 1), ratio=(1, 1), flip=flip)(image, (32, 32))
        assert np.array_equal(view, expected)
        assert np.array_equal(crop_affine(image, (0, 0, 32, 32), (32, 32), flip=bool(flip)), expected)


def test_one_transform_equals_crop_and_resize():
    image, box = picture(120, 90), (10.5, 20.0, 70.5, 65.0)
    resized = image.resize((40, 30), Image.Resampling.BICUBIC, box=box)
    assert np.abs(values(crop_affine(image, box, (40, 30))) - values(resized)).mean() < 2
    other = image.resize((40, 30), Image.Resampling.BICUBIC, box=(30.5, 20.0, 90.5, 65.0))
    assert np.abs(values(other) - values(resized)).mean() > 8, "any crop would pass"


def test_angles_turn_clockwise():
    image = picture(32, 32)
    for angle, turned in ((90, Image.Transpose.ROTATE_270), (180, Image.Transpose.ROTATE_180)):
        view = crop_affine(image, (0, 0, 32, 32), (32, 32), angle=angle)
        assert np.abs(values(view) - values(image.transpose(turned))).max() <= 1


def test_shear_moves_rows_or_columns_apart():
    image = Image.new("RGB", (33, 33), "white")
    image.paste("black", (16, 0, 17, 33))
    sheared = values(crop_affine(image, (0, 0, 33, 33), (33, 33), shear=(20, 0)))[..., 0]
    darkest = sheared.argmin(axis=1)
    assert darkest[16] == 16
    assert abs(int(darkest[-1]) - int(darkest[0])) == pytest.approx(32 * np.tan(np.radians(20)), abs=1.5)
    straight = values(crop_affine(image, (0, 0, 33, 33), (33, 33), shear=(0, 20)))[..., 0]
    assert (straight[8:24].argmin(axis=1) == 16).all()


def test_fine_detail_is_averaged_before_a_rotation():
    noise = np.random.default_rng(0).integers(0, 256, (400, 400, 1), dtype=np.uint8).repeat(3, axis=2)
    view = crop_affine(Image.fromarray(noise), (0, 0, 400, 400), (20, 20), angle=10)
    assert values(view)[5:15, 5:15].std() < 15, "aliasing: single pixels were sampled"


def test_outside_has_the_color_of_the_corners():
    image = Image.new("RGB", (64, 64), (200, 210, 220))
    image.paste("black", (20, 20, 44, 44))
    view = crop_affine(image, (0, 0, 64, 64), (64, 64), angle=45)
    assert view.getpixel((0, 0)) == (200, 210, 220)


def test_color_matches_the_separate_operations():
    image = picture()
    for factors in ((1.3, 1, 1), (1, 0.6, 1), (1, 1, 0.3), (1, 1, 0), (0.8, 0.7, 0.5), (1, 1, 1)):
        expected = image
        for operation, factor in zip(
            (ImageEnhance.Brightness, ImageEnhance.Contrast, ImageEnhance.Color), factors, strict=True
        ):
            expected = operation(expected).enhance(factor)
        assert np.abs(values(recolor(image, *factors)) - values(expected)).max() <= 2
    assert np.abs(values(recolor(image, 1.3, 1, 1)) - values(image)).max() > 20


def test_gray_and_color_are_independent():
    image = picture(16, 16)
    plain = {"scale": (1, 1), "ratio": (1, 1), "flip": 0}
    gray = values(RandomViews(gray=1.0, **plain)(image, (16, 16)))
    assert np.abs(gray - gray[..., :1]).max() <= 1
    assert np.abs(gray[..., 0] - values(image.convert("L"))).max() <= 2
    half = RandomViews(gray=0.5, **plain)
    kept = [np.array_equal(seeded(seed, half, image, (16, 16)), image) for seed in range(40)]
    assert 5 < sum(kept) < 35


def test_erasing_gives_a_rectangle_one_color():
    image = picture(64, 64)
    random.seed(3)
    view = RandomViews(scale=(1, 1), ratio=(1, 1), flip=0, erase=1.0)(image, (64, 64))
    changed = (values(view) != values(image)).any(axis=2)
    assert 0.01 < changed.mean() < 0.4
    assert len(np.unique(values(view)[changed], axis=0)) == 1


def test_blur_takes_away_detail():
    image = Image.fromarray(np.random.default_rng(0).integers(0, 256, (224, 224, 3), dtype=np.uint8))
    random.seed(0)
    view = RandomViews(scale=(1, 1), ratio=(1, 1), flip=0, blur=1.0)(image, (224, 224))
    assert values(view).std() < 0.8 * values(image).std()


@pytest.mark.parametrize(
    ("name", "wrong"),
    [
        ("scale", (0, 1)),
        ("scale", (0.5, 0.2)),
        ("scale", (0.5, 1.5)),
        ("scale", (0.5,)),
        ("ratio", (0, 1)),
        ("ratio", (2, 1)),
        ("flip", 1.1),
        ("rotate", -1),
        ("rotate", 181),
        ("shear", 50),
        ("color", 1.1),
        ("gray", 2),
        ("blur", -0.1),
        ("erase", 1.5),
        ("views", 0),
    ],
)
def test_values_out_of_range_are_refused(name, wrong):
    with pytest.raises(ValueError, match=name):
        RandomViews(**{name: wrong})


def test_small_images_are_fast():
    augment, image = RandomViews(**EVERYTHING), picture(64, 64)
    assert is_quick(lambda: [augment(image, (32, 32)) for _ in range(100)], 0.15), "15 ms are usual on one core"
