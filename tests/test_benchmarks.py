"""The benchmarks of the engine and of fine-tuning measure what they claim. No test checks how fast it is."""

from __future__ import annotations

import json

import pytest
from toolbox_retrieval.embedder import Embedder

import toolbox
from benchmarks import alignment, cache, command, engine, throughput
from toolbox.engine.device import choose_device


def test_the_engine_and_the_bare_loop_work_on_the_same_images(monkeypatch):
    """Once it did not: the engine read batches of its own, of another size."""
    seen = []
    original = Embedder.encode

    def encode(self, batch):
        seen.append(batch.inputs["image"].clone())
        return original(self, batch)

    monkeypatch.setattr(Embedder, "encode", encode)
    found = engine.run(pairs=2, steps=1, model="demo")
    rows, size = engine._MODELS["demo"][2], engine._MODELS["demo"][1]
    assert {tuple(images.shape) for images in seen} == {(rows, 3, size, size)}
    assert all((images == seen[0]).all() for images in seen)
    assert len(seen) == 2 + 2  # to warm up, and once a pair
    assert len(found["ratios"]) == len(found["spread"]) == 2


@pytest.mark.slow
def test_stored_features_are_timed_against_the_backbone_at_work():
    found = cache.run(pairs=1, items=8, batch=4, size=32, epochs=2)
    assert len(found["ratios_epoch"]) == len(found["ratios_extraction"]) == 1
    assert found["ratio_epoch_median"] > 1  # a promise for large images, and true of the smallest ones
    assert found["stored_per_second"] > found["images_per_second"]


def test_a_pair_of_towers_is_timed_against_the_same_steps_by_hand():
    pytest.importorskip("open_clip.loss")
    found = alignment.run(pairs=2, steps=1, items=12, batch=6, size=32, epochs=2)
    assert len(found["ratios"]) == len(found["ratios_epoch"]) == len(found["spread"]) == 2
    assert found["loss_difference_by_hand"] < 1e-6
    assert found["loss_difference_stored"] < 1e-5
    assert found["ratio_epoch_median"] > 1  # a promise for larger images, and true of the smallest ones


@pytest.mark.slow
def test_throughput_counts_operations_and_compares_them_with_the_device(capsys):
    options = ["--backbone", "small", "--size", "32", "--batch", "4", "--steps", "1", "--pairs", "2", "--json"]
    assert command.main(["throughput", *options, "--device", "cpu", "--variants", "channels_last"]) == 0
    found = json.loads(capsys.readouterr().out)
    tokens, width, layers = 4 + 1, 192, 4
    forward = 2 * (layers * (tokens * width**2 * 12 + 2 * tokens**2 * width) + 4 * 768 * width)
    assert found["gflops_per_image"] * 1e9 == pytest.approx(3 * forward, rel=0.05)
    assert found["share_plain"] > 0
    assert found["tflops_plain"] == pytest.approx(
        found["images_per_second_plain"] * found["gflops_per_image"] / 1000, rel=1e-6
    )
    assert found["share_plain"] == pytest.approx(found["tflops_plain"] / found["matmul_tflops"], rel=1e-6)
    assert found["ratio_channels_last"] > 0
    assert found["spread"][0] <= found["spread"][1]
    assert "cores" in found["device"]


def test_a_variant_that_is_not_there_is_refused():
    with pytest.raises(toolbox.ToolboxError, match="no variant faster"):
        throughput.run(variants="faster", device="cpu")


def test_a_device_that_does_not_tell_its_name_has_one(monkeypatch):
    monkeypatch.setattr(throughput.Path, "read_text", lambda *_, **__: "nothing")
    assert "cores" in throughput.get_device_name(choose_device("cpu"))
