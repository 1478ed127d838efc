"""Recall of images by texts and of texts by images: equal to brute force, ties against the query, honest remarks."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from caption_pairs import brute_force, encode, make_texts, show
from toolbox_alignment.image_text_recall import ImageTextRecall
from toolbox_alignment.pair_accumulator import PairAccumulator
from toolbox_alignment.pair_ranking import rank_pairs

from toolbox.base import Batch, Curve, Gallery, Histogram, Outcomes, l2_normalize
from toolbox.base.dataset import Dataset


class Captions(Dataset):
    """Items with texts alone, of which no image is read."""

    def __init__(self, texts: list[list[str]]):
        self.texts = texts

    def __len__(self) -> int:
        return len(self.texts)

    def __getitem__(self, index):
        raise AssertionError("texts are read without images")

    def read(self, index, fields):
        assert list(fields) == ["text"]
        return {"text": self.texts[index], "id": f"item {index}"}


def feed(metric: ImageTextRecall, texts, images, of_text, **options):
    show(metric.update, texts, images, of_text, names=(metric.image_output, metric.text_output), **options)
    return metric.compute()


@pytest.mark.parametrize("items", [2, 3, 23, 60])
@pytest.mark.parametrize("memory_mb", [1, 256])
def test_numbers_equal_brute_force(items, memory_mb):
    texts = make_texts(items, seed=items)
    images, of_text = encode(texts, seed=items)
    metric = ImageTextRecall(memory_mb=memory_mb)
    assert feed(metric, texts, images, of_text) == pytest.approx(brute_force(texts, images, of_text), abs=1e-6)


def test_blocks_of_rows_change_nothing():
    texts = make_texts(300, seed=3, shared=50)
    images, of_text = encode(texts)
    found = feed(ImageTextRecall(), texts, images, of_text, batch_size=100)
    assert found == pytest.approx(brute_force(texts, images, of_text), abs=1e-6)


def test_the_order_of_items_and_batches_changes_nothing():
    texts = make_texts(40)
    images, of_text = encode(texts)
    expected = feed(ImageTextRecall(), texts, images, of_text)
    order = torch.randperm(40, generator=torch.Generator().manual_seed(2)).tolist()
    assert feed(ImageTextRecall(), texts, images, of_text, batch_size=11, order=order) == pytest.approx(expected)


def test_one_point_for_everything_finds_nothing():
    texts = [[f"text {item}"] for item in range(30)]
    images = torch.ones(30, 4)
    numbers = feed(ImageTextRecall(ks=[1, 29]), texts, images, {f"text {item}": torch.ones(4) for item in range(30)})
    recalls = [value for name, value in numbers.items() if "recall" in name]
    assert recalls
    assert all(value == 0 for value in recalls)
    assert numbers["similarity_matching"] == pytest.approx(numbers["similarity_other"]) == pytest.approx(1)


def test_a_text_of_several_images_is_one_candidate_that_is_right_for_all():
    texts = [["a cat"], ["a cat"], ["a dog"]]
    of_text = {"a cat": torch.tensor([1.0, 0.0]), "a dog": torch.tensor([0.0, 1.0])}
    images = l2_normalize(torch.tensor([[1.0, 0.1], [1.0, 0.2], [0.2, 1.0]]))
    metric = ImageTextRecall(ks=[1, 2])
    numbers = feed(metric, texts, images, of_text)
    assert numbers["i2t_recall@1"] == numbers["t2i_recall@1"] == 1
    assert metric._pairs.texts.shape == (2, 2)


def test_k_above_the_candidates_is_left_out_with_a_remark():
    texts = [["one", "two", "three"], ["four", "five", "six"]]
    images, of_text = encode(texts)
    metric = ImageTextRecall(ks=[1, 5])
    numbers = feed(metric, texts, images, of_text)
    assert {name for name in numbers if "recall" in name} == {
        *("mean_recall", "i2t_recall@1", "i2t_recall@5", "t2i_recall@1"),
    }
    assert metric.remarks() == ["Recall@5 of images is left out: there are 2."]


def test_shorter_embeddings_are_cut_then_made_unit_rows():
    texts = make_texts(30)
    images, of_text = encode(texts)
    numbers = feed(ImageTextRecall(dims=[3]), texts, images, of_text)
    cut = {name: l2_normalize(values[:3]) for name, values in of_text.items()}
    expected = brute_force(texts, l2_normalize(images[:, :3]), cut)
    assert {name: numbers[f"dim3/{name}"] for name in expected} == pytest.approx(expected, abs=1e-6)
    metric = ImageTextRecall(dims=[9])
    problems = metric.check_outputs({"embeddings": torch.zeros(1, 8), "text_embeddings": torch.zeros(1, 8)})
    assert "asks for 9 dimensions, and the embeddings have 8" in problems[0].message


def test_intervals_hold_the_numbers_and_widen_where_images_share_their_texts():
    texts = [[f"text {item}"] for item in range(200)]
    images, of_text = encode(texts, noise=0.3)
    single = feed(ImageTextRecall(intervals=500), texts, images, of_text)
    assert single["i2t_recall@1_low"] < single["i2t_recall@1"] < single["i2t_recall@1_high"]
    assert get_width(single) == pytest.approx(binomial(single["i2t_recall@1"], 200), rel=0.15)
    shared = [[f"text {item // 10}"] for item in range(200)]
    images = l2_normalize(images[torch.arange(200) // 10 * 10] + 1e-3 * images)  # ten images that move together
    of_text = {f"text {number}": l2_normalize(of_text[f"text {10 * number}"] - images[0]) for number in range(20)}
    together = feed(ImageTextRecall(intervals=500), shared, images, of_text)
    assert 0.1 < together["i2t_recall@1"] < 0.9
    assert get_width(together) > 2 * binomial(together["i2t_recall@1"], 200)


def get_width(numbers: dict[str, float]) -> float:
    return numbers["i2t_recall@1_high"] - numbers["i2t_recall@1_low"]


def binomial(share: float, count: int) -> float:
    """The width of an interval where each item stands for itself."""
    return 2 * 1.96 * math.sqrt(share * (1 - share) / count)


def test_towers_are_evaluated_alone():
    texts = make_texts(20)
    images, of_text = encode(texts)
    metric = ImageTextRecall(image="small", text="long")
    numbers = feed(metric, texts, images, of_text)
    expected = brute_force(texts, images, of_text)
    assert numbers == pytest.approx({f"small-long/{name}": value for name, value in expected.items()}, abs=1e-6)
    assert metric.direction("small-long/similarity_other") == "less"
    assert metric.direction("small-long/i2t_recall@1") == "greater"
    problems = metric.check_outputs({"embeddings": torch.zeros(1, 2), "text_embeddings": torch.zeros(1, 2)})
    assert "reads the model's 'embeddings_small'" in problems[0].message
    assert "several" in problems[0].hint


def test_a_model_that_gives_no_texts_or_another_width_is_refused():
    metric = ImageTextRecall()
    assert "'text_embeddings'" in metric.check_outputs({"embeddings": torch.zeros(1, 2)})[0].message
    problems = metric.check_outputs({"embeddings": torch.zeros(1, 2), "text_embeddings": torch.zeros(1, 3)})
    assert "are 2 wide here, and those of texts 3" in problems[0].message
    assert not metric.check_outputs({"embeddings": torch.zeros(1, 2), "text_embeddings": torch.zeros(4, 2)})


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (dict(ks=[0]), "ks must be different numbers from 1 up"),
        (dict(ks=[5, 5]), "ks must be different numbers from 1 up"),
        (dict(dims=[-1]), "dims must be different"),
        (dict(intervals=3), "intervals must be 0 for none"),
        (dict(memory_mb=0), "memory_mb must be at least 1"),
    ],
)
def test_arguments_that_make_no_sense_are_refused(options, message):
    with pytest.raises(ValueError, match=message):
        ImageTextRecall(**options)


def test_what_cannot_be_compared_is_refused():
    with pytest.raises(ValueError, match="saw no item at all"):
        ImageTextRecall().compute()
    texts = make_texts(4)
    images, of_text = encode(texts)
    images[1] = math.nan
    with pytest.raises(ValueError, match="1 of 4 image embeddings hold NaN"):
        feed(ImageTextRecall(), texts, images, of_text)
    with pytest.raises(ValueError, match="some were given twice"):
        feed(ImageTextRecall(), texts, images, of_text, order=[0, 1, 1])
    with pytest.raises(ValueError, match="tells of no texts"):
        PairAccumulator("Recall").add(
            {"embeddings": images, "text_embeddings": images}, Batch(ids=[0, 1, 2, 3], indices=[0, 1, 2, 3])
        )


def test_the_report_shows_both_ways_and_reads_no_image():
    texts = make_texts(30)
    images, of_text = encode(texts, noise=2.0)
    metric = ImageTextRecall()
    feed(metric, texts, images, of_text)
    items = metric.report_items(Captions(texts))
    galleries = {item.title: item for item in items if isinstance(item, Gallery)}
    assert list(galleries) == [
        "Images and the texts found",
        "Hardest misses among images",
        "Texts and the images found",
        "Hardest misses among texts",
    ]
    for example in galleries["Images and the texts found"].examples:
        assert isinstance(example.query, int)
        for text, is_right, _ in example.results:
            assert is_right == (text in texts[example.query])
        scores = [score for *_, score in example.results]
        assert scores == sorted(scores, reverse=True)
    for example in galleries["Texts and the images found"].examples:
        assert all(is_right == (example.query in texts[item]) for item, is_right, _ in example.results)
    first, second = (item for item in items if isinstance(item, Outcomes))
    assert len(first.ids) == 30
    assert len(second.ids) == len(of_text) == len(set(second.ids))
    assert float(np.mean([rank <= 5 for rank in first.values])) == pytest.approx(metric.compute()["i2t_recall@5"])
    assert any(isinstance(item, Curve) for item in items)
    assert any(isinstance(item, Histogram) for item in items)


def test_a_rank_counts_those_that_reach_the_best_match():
    images = torch.eye(3)
    texts = l2_normalize(torch.tensor([[1.0, 0.9, 0.0], [0.0, 1.0, 0.0], [0.5, 0.0, 1.0]]))
    ranking = rank_pairs(images, texts, torch.tensor([0, 1, 2]), torch.tensor([2, 1, 0]))
    assert ranking.texts.tolist() == [2, 1, 3]
    assert ranking.images.tolist() == [3, 1, 2]
