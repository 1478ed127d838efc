"""Recipes whose splits were carved in two ways are refused."""

from __future__ import annotations

import inspect

import pytest
from toolbox_datasets.leaks import CARVING, find_leaks

from toolbox.registry import get_catalog


def recipe(train, val=None, test=None):
    return {
        f"{name}_dataloader": None if dataset is None else {"dataset": dataset}
        for name, dataset in (("train", train), ("val", val), ("test", test))
    }


def food(split, **arguments):
    return dict(type="datasets.Food101", root="food", split=split, **arguments)


def test_another_seed_or_share_is_refused():
    (problem,) = find_leaks(recipe(food("train", seed=1), food("val")))
    assert problem.where == "val_dataloader.dataset.seed"
    assert "train_dataloader.dataset 1" in problem.message
    (problem,) = find_leaks(recipe(food("train"), food("val", val_share=0.2)))
    assert problem.where == "val_dataloader.dataset.val_share"
    assert get_catalog().check_config(recipe(food("train", seed=1), food("val")))


@pytest.mark.parametrize(
    "config",
    [
        {},
        recipe(None),
        recipe(food("train")),
        recipe(food("train", seed=42), food("val")),
        recipe(food("train", seed=1, shots=5), food("val", seed=1, ratio=0.5), food("test")),
        recipe(food("train", seed=1), dict(type="datasets.Food101", root="other", split="val")),
        recipe(dict(type="datasets.ImageFolder", root="a", seed=1), dict(type="datasets.ImageFolder", root="a")),
        recipe(
            dict(type="datasets.ImageNet", root="a", classes=["x", "y"]),
            dict(type="datasets.ImageNet", root="a", classes=["z", "w"]),
        ),
        recipe("text", ["list"]),
    ],
)
def test_what_shares_nothing_passes(config):
    assert find_leaks(config) == []


def test_a_test_that_may_be_carved_counts_too():
    train = dict(type="datasets.HF", name="pets", split="train", test_share=0.3)
    assert len(find_leaks(recipe(train, None, {**train, "split": "test", "test_share": 0.2}))) == 1
    one, two = (dict(type="datasets.ImageFolder", root="a", split="val", divide=by) for by in ("images", "classes"))
    assert [problem.where for problem in find_leaks(recipe(one, two))] == ["val_dataloader.dataset.divide"]


@pytest.mark.parametrize(
    ("train", "val"),
    [
        (food("train"), food("train")),
        (food("train", shots=5, seed=1), food("train")),
        (dict(type="datasets.HF", name="food101"), dict(type="datasets.HF", name="ethz/food101")),
        (
            dict(type="datasets.ImageFolder", root="a", divide="images"),
            dict(type="datasets.ImageFolder", root="a", divide="images", split="val"),
        ),
    ],
    ids=["same", "fewer of them", "forgotten", "all of them"],
)
def test_images_that_were_trained_on_judge_nothing(train, val):
    (problem,) = find_leaks(recipe(train, val))
    assert problem.where == "val_dataloader.dataset.split"
    assert "images that were trained on" in problem.message


@pytest.mark.parametrize("root", ["./food", "food/", "x/../food"])
def test_a_folder_is_the_same_however_it_is_written(root):
    (problem,) = find_leaks(recipe(food("train", seed=1), {**food("val"), "root": root}))
    assert problem.where == "val_dataloader.dataset.seed"


@pytest.mark.parametrize("name", CARVING)
def test_the_defaults_are_those_of_the_datasets(name):
    parameters = inspect.signature(get_catalog().resolve(name, kind="dataset")).parameters
    assert {key: parameters[key].default for key in CARVING[name]} == CARVING[name]
