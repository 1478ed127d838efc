"""Key paths into recipes: reading, setting, comparing."""

from __future__ import annotations

import pytest

from toolbox.utils.key_paths import find_differences, flatten, get_value, has_key, is_within, set_value

RECIPE = {
    "a": {"b": [{"c": 1}, 2], "none": None, "": 0},
    "parts": {"model": {"x": 1}, "model.head": {"lr": 0.5}},
}


@pytest.mark.parametrize(
    ("path", "value"),
    [
        ("a.b.0.c", 1), ("a.b.1", 2), ("a.b", [{"c": 1}, 2]), ("a.none", None), ("parts.model.head.lr", 0.5),
        ("parts.model.x", 1), ("a.", 0),
    ],
)  # fmt: skip
def test_a_value_is_read_through_dicts_lists_and_keys_with_dots(path, value):
    assert has_key(RECIPE, path)
    assert get_value(RECIPE, path) == value


@pytest.mark.parametrize("path", ["", "x", "a.b.2", "a.b.-1", "a.b.c", "a.b.0.c.d", "a.none.x", "parts.model.lr"])
def test_a_path_that_leads_nowhere_gives_none(path):
    assert not has_key(RECIPE, path)
    assert get_value(RECIPE, path) is None


def test_a_value_is_set_with_what_is_missing_on_the_way():
    recipe = {"a": None}
    set_value(recipe, "a.b.c", 1)
    set_value(recipe, "a.b.d", 2)
    set_value(recipe, "top", 3)
    assert recipe == {"a": {"b": {"c": 1, "d": 2}}, "top": 3}


def test_differences_name_the_keys_that_differ_but_for_ignored_ones():
    before = {"a": {"b": 1, "c": [1]}, "d": {"e": 1}, "same": 0}
    now = {"a": {"b": 2, "c": [2]}, "d": None, "same": 0, "new": {"x": 1}}
    assert find_differences(before, now) == ["a.b", "a.c", "d", "new"]
    assert find_differences(before, now, ignored=("a.b", "d")) == ["a.c", "new"]
    assert find_differences(before, {"a": None, **before, "b": None}) == []  # a missing key is as one of None


def test_what_lies_within_a_path():
    assert is_within("a.b", "a.b")
    assert is_within("a.b.c", "a.b")
    assert not is_within("a.bc", "a.b")
    assert not is_within("a", "a.b")


def test_flat_recipes_go_through_lists_of_dicts_alone():
    assert flatten({"a": [{"b": 1}, {}], "c": [1, {}], "d": {}, "e": []}) == {
        "a.0.b": 1, "a.1": {}, "c": [1, {}], "d": {}, "e": [],
    }  # fmt: skip
