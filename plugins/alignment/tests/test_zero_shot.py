"""Zero-shot classification says what it needs of a dataset's classes before it asks anything of a model."""

from __future__ import annotations

import pytest
from toolbox_alignment.zero_shot import ZeroShot

from toolbox.base import Dataset


class Named(Dataset):
    def __init__(self, classes: list[str] | None, has_class_names: bool = True):
        self.labels, self.classes, self.has_class_names = [0, 1], classes, has_class_names

    def __len__(self) -> int:
        return 2

    def __getitem__(self, index: int):
        return {"label": index, "id": index}


@pytest.mark.parametrize(("classes", "named"), [(None, True), (["line 1", "line 2"], False)])
def test_classes_without_names_make_no_prompts(classes, named):
    dataset = Named(classes, named)
    (problem,) = ZeroShot().check(dataset)
    assert (problem.message, problem.where) == ("The classes of this dataset have no names.", "names")
    assert ZeroShot(names=["cat", "dog"]).check(dataset) == []
    (problem,) = ZeroShot(names=["cat"]).check(dataset)
    assert "ZeroShot chooses between classes" in problem.message or "There are 1 names for 2 classes" in problem.message
    assert ZeroShot().check(Named(["cat", "dog"])) == []
