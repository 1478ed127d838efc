"""Images to tensors: the numbers of other libraries, the cut, and the way into data workers."""

from __future__ import annotations

import pickle
import time

import numpy as np
import pytest
import torch
from PIL import Image
from torchvision.transforms import v2

from toolbox.base import ImagePreprocess
from toolbox.errors import ToolboxError

MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


def noise(width: int, height: int, mode: str = "RGB") -> Image.Image:
    pixels = np.random.default_rng(0).integers(0, 256, (height, width, 3), dtype=np.uint8)
    return Image.fromarray(pixels).convert(mode)


def reference(image: Image.Image) -> torch.Tensor:
    steps = [v2.ToImage(), v2.ToDtype(torch.float32, scale=True), v2.Normalize(MEAN, STD)]
    return v2.Compose(steps)(image)


def finished(preprocess, image):
    """One image all the way to what the encoder takes."""
    return preprocess.finish(preprocess.collate([preprocess(image)]))[0]


def test_an_image_of_the_right_size_keeps_its_pixels():
    image = noise(64, 48)
    out = finished(ImagePreprocess((48, 64), MEAN, STD), image)
    assert (out.dtype, tuple(out.shape), out.is_contiguous()) == (torch.float32, (3, 48, 64), True)
    torch.testing.assert_close(out, reference(image), rtol=0, atol=2e-6)


def test_same_numbers_as_the_processor_of_transformers():
    import transformers

    processor = getattr(transformers, "DINOv3ViTImageProcessor", None) or transformers.DINOv3ViTImageProcessorFast
    image = noise(64, 64)
    expected = processor(size={"height": 64, "width": 64})(image, return_tensors="pt")["pixel_values"][0]
    torch.testing.assert_close(finished(ImagePreprocess((64, 64), MEAN, STD), image), expected, rtol=0, atol=2e-6)


@pytest.mark.parametrize("size", [(90, 60), (60, 90), (200, 64), (30, 20)])
def test_same_as_resizing_the_shorter_side_and_cutting_the_centre(size):
    image, (width, height) = noise(*size), size
    width, height = width * 32 // min(size), height * 32 // min(size)
    left, top = (width - 32) // 2, (height - 32) // 2
    resized = image.resize((width, height), Image.Resampling.BICUBIC).crop((left, top, left + 32, top + 32))
    out = finished(ImagePreprocess((32, 32), MEAN, STD), image)
    # noise overshoots, and Pillow rounds between its two passes, whose order depends on the shape: a few levels of 255
    torch.testing.assert_close(out, reference(resized), rtol=0, atol=0.1)
    assert (out - reference(resized)).abs().mean() < 0.01
    for other in (resized.rotate(180), image.resize((32, 32), Image.Resampling.BICUBIC)):
        assert (out - reference(other)).abs().mean() > 0.2


@pytest.mark.parametrize("size", [(500, 375), (375, 500), (256, 256), (224, 224), (640, 300)])
def test_a_crop_is_the_protocol_of_imagenet(size):
    """Short side to 256, 224 cut out of the centre; on smooth pictures the two orders differ by a little."""
    across = np.linspace(0, 255, size[0])[None, :].repeat(size[1], 0)
    down = np.linspace(0, 255, size[1])[:, None].repeat(size[0], 1)
    image = Image.fromarray(np.stack([across, down, (across + down) / 2], -1).astype(np.uint8))
    steps = v2.Compose([v2.Resize(256, v2.InterpolationMode.BICUBIC), v2.CenterCrop(224)])
    expected = reference(steps(image))
    out = finished(ImagePreprocess((224, 224), MEAN, STD, crop=0.875), image)
    torch.testing.assert_close(out, expected, rtol=0, atol=0.04)
    assert (finished(ImagePreprocess((224, 224), MEAN, STD), image) - expected).abs().max() > 0.2


def test_views_of_an_augment_are_not_cut_again():
    image, cut = noise(64, 64), ImagePreprocess((32, 32), MEAN, STD, crop=0.5)
    exact = noise(32, 32)
    assert torch.equal(cut.uncut()(exact), ImagePreprocess((32, 32), MEAN, STD)(exact))
    assert not torch.equal(cut(exact), cut.uncut()(exact))
    assert torch.equal(cut(image), ImagePreprocess((32, 32), MEAN, STD)(image.crop((16, 16, 48, 48))))
    assert cut.crop == 0.5
    assert pickle.loads(pickle.dumps(cut)).crop == 0.5
    for wrong in (0, 1.1, float("nan")):
        with pytest.raises(ValueError, match=r"try 0\.875"):
            ImagePreprocess((32, 32), MEAN, STD, crop=wrong)


def test_backbones_hand_their_crop_on_and_the_loader_cuts_only_what_no_augment_has_cut():
    from toolbox.base import Augment, Dataset
    from toolbox.engine.data.batch_builder import BatchBuilder, InputSpec
    from toolbox.registry import build

    vit = dict(hidden_size=16, num_hidden_layers=1, num_attention_heads=2)
    for backbone in (
        dict(type="dinov3.ViT", name=None, arch=dict(patch_size=8, **vit), size=32),
        dict(type="dinov3.ConvNeXt", name=None, arch=dict(hidden_sizes=[8, 16], depths=[1, 1]), size=32),
        dict(type="encoders.HFVision", name=None, size=32, arch=dict(model_type="dinov2", patch_size=8, **vit)),
        dict(type="encoders.Timm", name="vit_tiny_patch16_224", size=32, weights=False, arch=dict(depth=1)),
    ):
        assert build(backbone).preprocess().crop == 1
        preprocess = build({**backbone, "crop": 0.5}).preprocess()
        assert preprocess.crop == 0.5
        with pytest.raises(ToolboxError, match="crop must be a share"):
            build({**backbone, "crop": 2})

    class One(Dataset):
        def __len__(self):
            return 1

        def __getitem__(self, index):
            return {"image": noise(32, 32), "id": 0}

    class Same(Augment):
        def __call__(self, image, size):
            return image

    plain, seen = (
        BatchBuilder(One(), {"image": InputSpec("image", preprocess)}, augment=a)[[(0, 0)]] for a in (None, Same())
    )
    assert torch.equal(plain.inputs["image"][0], preprocess(noise(32, 32)))
    assert torch.equal(seen.inputs["image"][0], preprocess.uncut()(noise(32, 32)))


@pytest.mark.parametrize("interpolation", ["nearest", "bilinear", "lanczos"])
def test_interpolation(interpolation):
    image = noise(48, 48)
    resized = image.resize((32, 32), Image.Resampling[interpolation.upper()])
    out = finished(ImagePreprocess((32, 32), MEAN, STD, interpolation), image)
    torch.testing.assert_close(out, reference(resized), rtol=0, atol=2e-6)
    assert not torch.equal(out, finished(ImagePreprocess((32, 32), MEAN, STD), image))


def test_nothing_is_squashed_for_an_oblong_target():
    image = Image.new("RGB", (100, 100), "black")
    image.paste("white", (40, 40, 60, 60))
    out = finished(ImagePreprocess((40, 80), (0, 0, 0), (1, 1, 1)), image)[0] > 0.5
    assert out.sum(0).max() == out.sum(1).max() == 16  # 20 pixels of 100, at 80 for 100


@pytest.mark.parametrize("mode", ["L", "P", "RGBA", "CMYK"])
def test_other_color_modes(mode):
    image = noise(32, 32, "L" if mode == "L" else "RGB").convert(mode)
    out = finished(ImagePreprocess((32, 32), MEAN, STD), image)
    torch.testing.assert_close(out, reference(image.convert("RGB")), rtol=0, atol=2e-6)


def test_pickles_without_a_module_and_is_small():
    preprocess = ImagePreprocess((32, 32), MEAN, STD)
    data = pickle.dumps(preprocess)
    assert len(data) < 2000
    copy = pickle.loads(data)
    assert (copy.size, copy.mean, copy.std) == ((32, 32), MEAN, STD)
    image = noise(50, 40)
    assert torch.equal(finished(copy, image), finished(preprocess, image))


def test_input_image_is_untouched_and_batches_stack():
    image = noise(32, 32)
    before = image.tobytes()
    preprocess = ImagePreprocess((32, 32), MEAN, STD)
    batch = preprocess.collate([preprocess(image), preprocess(image)])
    assert (batch.shape, batch.dtype) == ((2, 3, 32, 32), torch.uint8)
    assert preprocess.finish(batch).dtype == torch.float32
    assert batch.dtype == torch.uint8
    assert image.tobytes() == before


def test_not_slower_than_torchvision():
    image, preprocess = noise(224, 224), ImagePreprocess((224, 224), MEAN, STD)

    def measure(function):
        start = time.process_time()
        function(image)
        return time.process_time() - start

    ours, theirs = [], []
    for _ in range(200):  # side by side, until a quiet moment has come for both
        ours.append(measure(preprocess))
        theirs.append(measure(reference))
        if len(ours) >= 20 and min(ours) < 1.5 * min(theirs):
            return
    pytest.fail(f"{min(ours)} s an image, where torchvision takes {min(theirs)} s")


def test_refusals():
    with pytest.raises(ValueError, match="reads PIL images, not ndarray"):
        ImagePreprocess((8, 8), MEAN, STD)(np.zeros((8, 8, 3)))
    with pytest.raises(ValueError, match="three numbers each, std positive"):
        ImagePreprocess((8, 8), MEAN, (0.1, 0.1, 0))
    with pytest.raises(ValueError, match="one of nearest, bilinear, bicubic, lanczos, not 'cubic'"):
        ImagePreprocess((8, 8), MEAN, STD, "cubic")
