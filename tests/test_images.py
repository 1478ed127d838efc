"""Pictures as files have them: size, orientation, and what a broken one says."""

from __future__ import annotations

import multiprocessing
import runpy

import pytest
from PIL import Image

from toolbox.base import decode_image, images, read_image, set_max_image_pixels
from toolbox.base.images import MAX_IMAGE_PIXELS
from toolbox.engine.data.batch_builder import BatchBuilder, InputSpec
from toolbox.engine.data.batch_plan import TrainBatches
from toolbox.engine.data.loader import batches
from toolbox.inference.image_sources import ImageSource
from toolbox.registry import build


@pytest.fixture(autouse=True)
def _limit():
    yield
    set_max_image_pixels(None)


def photo(path, size=(40, 30), **options):
    Image.new("RGB", size, (200, 100, 50)).save(path, **options)
    return path


def test_a_photo_of_108_megapixels_is_read_without_a_warning(tmp_path):
    Image.new("1", (12_000, 9_000), 1).save(tmp_path / "phone.tif")
    assert read_image(tmp_path / "phone.tif").size == (12_000, 9_000)
    assert 200_000_000 < MAX_IMAGE_PIXELS == Image.MAX_IMAGE_PIXELS


@pytest.mark.parametrize("limit", [800, 300])  # of 1,200 pixels: Pillow itself only warns below twice its limit
@pytest.mark.filterwarnings("ignore::PIL.Image.DecompressionBombWarning")
def test_a_larger_one_is_refused_with_the_key(tmp_path, limit):
    path = photo(tmp_path / "a.png")
    set_max_image_pixels(limit)
    words = rf"a\.png is larger than {limit} pixels: .*env_cfg\.max_image_pixels"
    with pytest.raises(OSError, match=words):
        read_image(path)
    with pytest.raises(OSError, match=words):
        decode_image(path.read_bytes(), "a.png")
    set_max_image_pixels(1200)
    assert read_image(path).size == (40, 30)


def test_the_limit_that_a_script_has_set_is_kept():
    for value, kept in ((7, 7), (None, None), (89_478_485, MAX_IMAGE_PIXELS)):
        Image.MAX_IMAGE_PIXELS = value
        runpy.run_path(images.__file__)
        assert kept == Image.MAX_IMAGE_PIXELS


class Read:
    """A preprocess that says how wide a picture is."""

    size = None

    def __call__(self, image):
        return image.width

    def collate(self, values):
        return values


@pytest.mark.parametrize("method", ["fork", pytest.param("spawn", marks=pytest.mark.slow)])
@pytest.mark.filterwarnings("ignore::PIL.Image.DecompressionBombWarning")
def test_workers_have_the_limit_of_the_recipe(tmp_path, method):
    names = [photo(tmp_path / f"{i}.png").name for i in range(4)]
    dataset = ImageSource(tmp_path, names)
    sampler = build({"type": "core.Sequential", "batch_size": 2}, "sampler")
    sampler.setup(dataset, seed=0)
    multiprocessing.set_start_method(method, force=True)
    try:
        set_max_image_pixels(300)
        fetch = BatchBuilder(dataset, {"image": InputSpec("image", Read())}, skip_bad=True)
        found = list(batches(fetch, TrainBatches(sampler, 0, 2), workers=1))
    finally:
        multiprocessing.set_start_method(None, force=True)
    assert [len(batch.bad) for batch in found] == [2, 2]


def exif(orientation):
    found = Image.Exif()
    found[0x112] = orientation
    return found


@pytest.mark.parametrize("ending", ["jpg", "png", "webp", "tif"])
def test_pictures_are_turned_as_their_orientation_says(tmp_path, ending):
    assert read_image(photo(tmp_path / f"a.{ending}", exif=exif(6))).size == (30, 40)
    assert read_image(photo(tmp_path / f"b.{ending}", exif=exif(99))).size == (40, 30)


@pytest.mark.filterwarnings("ignore:Corrupt EXIF", "ignore:Truncated File")
@pytest.mark.parametrize("block", [b"garbage", b"Exif\0\0II*\0\x08\0\0\0\x05\0", b"Exif\0\0"])
def test_a_broken_orientation_does_not_cost_the_picture(tmp_path, block):
    for ending in ("png", "jpg"):
        assert read_image(photo(tmp_path / f"a.{ending}", exif=block)).size == (40, 30)


def test_an_empty_file_is_called_empty(tmp_path):
    (tmp_path / "a.jpg").write_bytes(b"")
    with pytest.raises(OSError, match=r"a\.jpg cannot be read as an image: the file is empty"):
        read_image(tmp_path / "a.jpg")
    with pytest.raises(OSError, match="row 3 cannot be read as an image: the file is empty"):
        decode_image(b"", "row 3")
