"""train --overfit: whether a recipe can learn a few items by heart."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from toolbox.base import Dataset
from toolbox.builtins.few_items import FewItems
from toolbox.cli import train

RECIPE = str(Path(__file__).parent / "toy_recipe.py")


class Numbers(Dataset):
    unit = "numbers"

    def __init__(self, labels=None, records=None):
        self.labels, self.records = labels, records
        self.classes = None if labels is None else ["a", "b", "c"]

    def __len__(self):
        return 12

    def __getitem__(self, index):
        return {"id": index, "label": None if self.labels is None else self.labels[index]}

    def identities(self):
        return [f"number {index}" for index in range(12)]


def test_few_items_are_whole_classes_first():
    labels = [0, 0, 0, 0, 0, 1, 1, 1, 1, 1, 2, 2]
    few = FewItems(Numbers(labels), 8)
    assert [few[index]["id"] for index in range(len(few))] == [0, 1, 2, 3, 5, 6, 7, 8]
    assert few.labels == [0, 0, 0, 0, 1, 1, 1, 1]
    assert (few.classes, few.unit) == (["a", "b", "c"], "numbers")
    assert few.identities()[4] == "number 5"
    assert few.read(4, ["label"])["id"] == 5
    assert len(FewItems(Numbers(labels), 100)) == 12
    assert [FewItems(Numbers(labels), 11)[index]["id"] for index in range(11)] == [0, 1, 2, 3, 4, 5, 6, 7, 8, 10, 11]


def test_few_items_without_labels_are_the_first():
    records = [(0, [1], [9]), (2, [8], []), (1, [0, 11], [3])]
    few = FewItems(Numbers(records=records), 5)
    assert [few[index]["id"] for index in range(len(few))] == [0, 1, 2, 3, 4]
    assert few.records == [(0, [1], []), (1, [0], [3])]
    assert few.labels is None


def test_no_items_are_refused():
    with pytest.raises(ValueError, match="at least 1"):
        FewItems(Numbers(), 0)


def test_a_recipe_that_can_learn_says_so(toy, capsys):
    toy()
    options = ["--cfg-options", "optim_wrapper.optimizer.lr=0.01"]
    assert train.main([RECIPE, "--overfit", "16", *options]) == 0
    assert "Learned by heart: nearest 1.000 on the 16 items" in capsys.readouterr().out
    lines = [json.loads(line) for line in Path("work_dirs/toy_recipe_overfit/metrics.jsonl").read_text().splitlines()]
    assert max(line["step"] for line in lines) == 300


def test_a_recipe_that_does_not_train_says_so(toy, capsys):
    toy()
    assert train.main([RECIPE, "--overfit", "16", "--cfg-options", "optim_wrapper.optimizer.lr=0.0"]) == 0
    assert "Not learned by heart" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--overfit", "1"], "from 2 up, not 1"),
        (["--overfit", "4", "--cfg-options", "val_evaluator=None", "val_dataloader=None"], "needs training data and a"),
        (["--overfit", "4"], "takes 4 different classes"),
    ],
)
def test_what_cannot_be_tried_is_one_message(toy, capsys, options, message):
    toy()
    assert train.main([RECIPE, *options]) == 2
    assert message in capsys.readouterr().err
