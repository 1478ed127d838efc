"""Loading, overriding, validating and dumping recipes."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import pytest
from offline_encoders import stand_in_for_hub

import toolbox
from toolbox.config import complete, dump, load_config, to_dict, validate
from toolbox.config.schema import REQUIRED, TOP_LEVEL
from toolbox.config.types import fits

ROOT = Path(__file__).parent.parent
RECIPES = sorted(path for path in (ROOT / "configs").rglob("*.py") if path.parent.name != "_base_")


def messages(config) -> list[str]:
    return [str(problem) for problem in toolbox.check_config(config, data=False)]


def write(path: Path, text: str) -> Path:
    path.write_text(text, encoding="utf-8")
    return path


@pytest.mark.parametrize("path", RECIPES, ids=lambda path: str(path.relative_to(ROOT)))
def test_every_recipe_is_valid_dumps_and_names_its_command(path, tmp_path):
    config = load_config(path, stand_in_for_hub(path))
    assert messages(config) == []
    resolved = complete(to_dict(config))
    again = load_config(write(tmp_path / "again.py", dump(resolved)))
    assert complete(to_dict(again)) == resolved
    shown = path.read_text()
    assert f"tools/train.py {path.relative_to(ROOT)}" in shown
    assert len(shown.splitlines()) <= 60, "a recipe is one page"


def test_keys_that_python_reserves_or_cannot_name_are_dumped(tmp_path):
    recipe = dict(
        train_dataloader=dict(augment={"global": dict(type="a.B", views=2), "local": dict(scale=[0.1, 1.0])}),
        optim_wrapper=dict(parts={"model.head": dict(lr=1e-3), "it's": dict()}),
        val_evaluator=[dict(type="c.D", by={"class": ["first\nsecond"] * 20})],
    )
    assert to_dict(load_config(write(tmp_path / "again.py", dump(recipe)))) == recipe | dict(plugins=[])


def test_all_problems_come_at_once_with_their_places(toy):
    config = toy(["model.pool=middle", "modle.x=1", "model.backbone.widht=3", "train_cfg.max_steps=twelve"])
    found = "\n".join(messages(config))
    assert "overrides modle: There is no key 'modle'. Did you mean 'model'?" in found
    assert "toy.Patches has no argument 'widht'. Did you mean 'width'?" in found
    assert "train_cfg.max_steps: int | None is expected here, not 'twelve'." in found


def test_place_is_the_nearest_literal_through_bases_and_helpers(tmp_path, toy, monkeypatch):
    toy()
    (tmp_path / "sub").mkdir()
    base = (ROOT / "tests/toy_recipe.py").read_text().replace('"toy.Patches"', '"toy.Patches", dpeth=3')
    write(tmp_path / "sub/base.py", base)
    child = write(
        tmp_path / "child.py",
        "_base_ = ['sub/base.py']\n_size = 7\n"
        "optim_wrapper = dict(\n    optimizer=dict(type='core.AdamW', lrr=_size))\n",
    )
    monkeypatch.chdir(tmp_path)
    found = messages(load_config(child))
    line = next(i for i, text in enumerate(base.splitlines(), 1) if "dpeth" in text)
    assert any(
        text.startswith(f"sub/base.py:{line} model.backbone.dpeth: toy.Patches has no argument") for text in found
    )
    assert any(text.startswith("child.py:4 optim_wrapper.optimizer.lrr: core.AdamW has no argument") for text in found)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("model = dict(\n", "no valid Python"),
        ("_base_ = ['nothing.py']\n", "The base 'nothing.py' does not exist"),
        ("_base_ = [name]\n", "must be a literal list"),
        ("filename = 'x'\n", "'filename' is reserved"),
        ("x = 1\ny = undefined_name\n", "NameError"),
        ("_base_ = ['broken.py']\n", "leads back to this file"),
        ("with read_base():\n    pass\n", "read_base"),
    ],
)
def test_broken_files_have_one_message_with_the_users_line(tmp_path, text, message):
    path = write(tmp_path / "broken.py", text)
    with pytest.raises(toolbox.ToolboxError) as caught:
        load_config(path)
    assert message in str(caught.value)
    assert "broken.py" in str(caught.value)
    if "NameError" in message:
        assert "broken.py:2" in str(caught.value)


def test_an_unknown_recipe_names_the_nearest(monkeypatch):
    monkeypatch.chdir(ROOT)
    for wrong, right in [
        ("configs/dinov3_spo.py", "configs/dinov3_sop.py"),
        ("dinov3_sop.py", "configs/dinov3_sop.py"),
    ]:
        with pytest.raises(toolbox.ToolboxError, match="There is no such recipe") as caught:
            load_config(wrong)
        assert right in str(caught.value)


def test_a_folder_of_a_run_in_place_of_a_recipe_names_the_recipe_in_it(tmp_path):
    (tmp_path / "run" / "checkpoint-5").mkdir(parents=True)
    (tmp_path / "run" / "config.py").write_text("")
    for folder in (tmp_path / "run", tmp_path / "run" / "checkpoint-5"):
        with pytest.raises(toolbox.ToolboxError, match="folder of a run") as caught:
            load_config(str(folder))
        assert str(tmp_path / "run" / "config.py") in str(caught.value)


def test_overrides_take_the_type_of_what_they_replace(toy):
    config = toy(
        [
            "optim_wrapper.optimizer.lr=1",
            "model.pool=cls",
            "val_evaluator.type=toy.Nearest",
            "work_dir=123",
            "train_dataloader.augment.scale=[0.5,1]",
            "model.backbone.dropout=0",
            "train_dataloader.dataset.bad=1,2",
            "optim_wrapper.parts=dict(a=dict(lr=1e-3))",
            "evaluate_before=False",
            "param_scheduler=None",
        ]
    )
    assert config.optim_wrapper.optimizer.lr == 1.0
    assert isinstance(config.optim_wrapper.optimizer.lr, float)
    assert config.work_dir == "123"
    assert config.train_dataloader.augment.scale == [0.5, 1]
    assert config.train_dataloader.dataset.bad == [1, 2]
    assert config.optim_wrapper.parts == {"a": {"lr": 1e-3}}
    assert config.evaluate_before is False
    assert config.param_scheduler is None
    assert toy({"optim_wrapper.optimizer.lr": 0.5}).optim_wrapper.optimizer.lr == 0.5


def test_overrides_reach_lists_and_dotted_keys(monkeypatch):
    config = load_config(
        ROOT / "configs/dinov3_sop.py", ["val_evaluator.0.ks=[1,2]", "optim_wrapper.parts.model.head.lr=0.5"]
    )
    assert config.val_evaluator[0].ks == [1, 2]
    assert config.optim_wrapper.parts == {"model.head": {"lr": 0.5}}
    with pytest.raises(toolbox.ToolboxError, match="index from 0 to 0"):
        load_config(ROOT / "configs/dinov3_sop.py", ["val_evaluator.3.ks=1"])
    with pytest.raises(toolbox.ToolboxError, match=r"key\.path=value"):
        load_config(ROOT / "configs/dinov3_sop.py", ["model.backbone"])
    with pytest.raises(toolbox.ToolboxError, match="plain value"):
        load_config(ROOT / "configs/dinov3_sop.py", ["train_cfg.max_epochs.x=1"])


def test_a_helper_cannot_be_overridden_and_says_who_uses_it(tmp_path):
    text = "_root = 'data'\ntrain_dataloader = dict(dataset=dict(root=_root))\nwork_dir = _root + '/run'\n"
    with pytest.raises(toolbox.ToolboxError) as caught:
        load_config(write(tmp_path / "helped.py", text), ["_root=elsewhere"])
    assert "Set the keys that use it: train_dataloader.dataset.root, work_dir." in str(caught.value)


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("train_dataloader.batch_size=8", "batch_size has no effect"),
        ("train_cfg.max_epochs=2", "either max_epochs or max_steps"),
        ("train_dataloader.num_workers=-1", "at least 0"),
        ("model.loss.type=toy.Pul", "Did you mean"),
        ("model.loss.type=toy.Noise", "expects a loss"),
        ("model.backbone.tune.mode=frozn", "Did you mean 'frozen'?"),
        ("model.backbone.tune=dict(mode='frozen',rank=3)", "rank"),
        ("optim_wrapper.parts={'model.haed':dict(lr=1)}", "There is no part 'model.haed'"),
        ("model.backbone.gradient_checkpointing=True", "cannot recompute activations"),
        ("test_dataloader=dict(dataset=dict(type='toy.Noise'))", "has no effect without test_evaluator"),
        ("param_scheduler.warmup=40", "warmup"),
        ("default_hooks.checkpoint.rule=bigger", "greater"),
    ],
)
def test_wrong_values_are_found_before_anything_runs(toy, override, message):
    found = "\n".join(str(problem) for problem in toolbox.check_config(toy([override])))
    assert message in found


def test_a_frozen_part_may_not_have_a_learning_rate(toy):
    config = toy(["model.backbone.tune.mode=frozen", "optim_wrapper.parts={'model.backbone':dict(lr=1e-3)}"])
    assert any("'model.backbone' is frozen" in message for message in messages(config))
    config = toy(["model.backbone.tune.mode=frozen", "model.head=None", "model.loss.type=losses.SupCon"])
    assert any("Nothing would be trained" in message for message in messages(config))


def test_parts_that_do_not_fit_are_found_without_data(toy):
    config = toy(["model.pool=cls"])
    assert any("CLS" in message for message in messages(config))


def rows(keys, prefix=""):
    """The table that docs/configs.md must hold: key, default, meaning."""
    for name, key in keys.items():
        if key.keys:
            yield f"| `{prefix}{name}` | | {key.doc} |"
            yield from rows(key.keys, f"{prefix}{name}.")
        else:
            given = "**required**" if key.default is REQUIRED else "" if key.default is None else f"`{key.default!r}`"
            what = f" ({'one or a list, ' if key.many else ''}kind `{key.kind}`)" if key.kind else ""
            yield f"| `{prefix}{name}` | {given} | {key.doc}{what} |"


def test_the_documented_keys_are_the_keys():
    page = (ROOT / "docs/configs.md").read_text(encoding="utf-8").splitlines()
    assert [row for row in rows(TOP_LEVEL) if row not in page] == []
    known = {row.split("`")[1] for row in rows(TOP_LEVEL)}
    assert {line.split("`")[1] for line in page if line.startswith("| `")} <= known | {
        "quantize",
        "tune",
        "gradient_checkpointing",
    }


def test_fits():
    assert fits(3, Annotated[int, []])
    assert fits(1, float)
    assert not fits(True, int)
    assert not fits("a", int | None)
    assert fits([1, 2.0], list[float])
    assert not fits([1, "a"], list[int])
    assert fits((0.9, 0.999), tuple[float, float])
    assert not fits([0.9], tuple[float, float])


REFERRING = """
model = dict(type='retrieval.Embedder', backbone=dict(type='toy.Patches', width='{model.head.dim}'),
             head=dict(type='core.Projection', dim=8))
train_dataloader = dict(dataset=dict(type='toy.Noise', seed=3, bad=[1, 2]), batch_size=4)
val_dataloader = dict(dataset=dict(type='toy.Noise', seed='{train_dataloader.dataset.seed}'),
                      batch_size='{train_dataloader.batch_size}')
val_evaluator = [dict(type='retrieval.Recall', ks=[1, 5])]
test_dataloader = '{val_dataloader}'
test_evaluator = '{val_evaluator}'
optim_wrapper = dict(optimizer=dict(type='core.AdamW', lr='{optim_wrapper.parts.model.head.lr}'),
                     parts={'model.head': dict(lr=0.5)})
train_cfg = dict(max_steps=2)
"""


@pytest.fixture
def referring(tmp_path, toy):
    toy()
    path = write(tmp_path / "referring.py", REFERRING)
    return lambda overrides=(): to_dict(load_config(path, overrides))


def test_a_key_may_refer_to_another_one(referring):
    recipe = referring()
    assert (
        recipe["val_dataloader"]
        == recipe["test_dataloader"]
        == dict(dataset=dict(type="toy.Noise", seed=3), batch_size=4)
    )
    assert recipe["test_evaluator"] == recipe["val_evaluator"]
    assert recipe["test_evaluator"] is not recipe["val_evaluator"]
    assert recipe["optim_wrapper"]["optimizer"]["lr"] == 0.5
    assert recipe["model"]["backbone"]["width"] == 8


def test_references_follow_overrides_children_and_code(referring, tmp_path):
    recipe = referring(["train_dataloader.dataset.seed=7", "val_evaluator.0.ks=[2]", "model.head.dim=4"])
    assert recipe["val_dataloader"]["dataset"]["seed"] == recipe["test_dataloader"]["dataset"]["seed"] == 7
    assert recipe["test_evaluator"][0]["ks"] == [2]
    assert recipe["model"]["backbone"]["width"] == 4
    child = write(tmp_path / "child.py", "_base_ = ['referring.py']\ntrain_dataloader = dict(dataset=dict(seed=9))\n")
    config = load_config(child)
    assert to_dict(config)["test_dataloader"]["dataset"]["seed"] == 9
    config.train_dataloader.dataset.seed = 11
    assert to_dict(config)["test_dataloader"]["dataset"]["seed"] == 11
    again = load_config(write(tmp_path / "again.py", dump(config)), ["train_dataloader.dataset.seed=12"])
    assert to_dict(again)["test_dataloader"]["dataset"]["seed"] == 11, "a dumped recipe is resolved"


def test_a_path_may_lie_below_what_another_key_names(referring):
    below = ["val_dataloader.dataset.seed={train_dataloader.dataset.name}/val.jsonl"]
    recipe = referring([*below, "train_dataloader.dataset.name=data/mine/"])
    assert recipe["val_dataloader"]["dataset"]["seed"] == "data/mine/val.jsonl"
    with pytest.raises(toolbox.ToolboxError, match=r"is a path below that of .*, which is 3"):
        referring([*below, "train_dataloader.dataset.name=3"])


def test_an_override_in_the_place_of_a_reference_stands_alone(referring):
    recipe = referring(["val_dataloader.dataset.seed=5", "train_dataloader.dataset.seed=7"])
    assert [recipe[f"{name}_dataloader"]["dataset"]["seed"] for name in ("train", "val", "test")] == [7, 5, 5]
    for order in (1, -1):  # below a reference: the other key's value, then the change, in whatever order they come
        given = ["test_evaluator.0.lone=skip", "val_evaluator.0.ks=[1]", "test_dataloader.dataset.seed=1"][::order]
        recipe = referring(given)
        assert recipe["test_evaluator"] == [dict(type="retrieval.Recall", ks=[1], lone="skip")]
        assert recipe["val_evaluator"] == [dict(type="retrieval.Recall", ks=[1])]
        assert [recipe[f"{name}_dataloader"]["dataset"]["seed"] for name in ("val", "test")] == [3, 1]
    recipe = referring(["val_dataloader.batch_size=16"])
    assert recipe["test_dataloader"]["batch_size"] == 16, "a number, not the text '16'"
    recipe = referring(["val_dataloader.dataset.bad={train_dataloader.dataset.bad}"])
    assert recipe["test_dataloader"]["dataset"]["bad"] == [1, 2]


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("val_dataloader.dataset.seed={train_dataloader.dataset.sede}", "does not set. Set below 'train_dataloader.da"),
        ("val_dataloader.dataset.seed={trian_dataloader.dataset.seed}", "Did you mean 'train_dataloader'?"),
        ("val_evaluator={test_evaluator}", "leads back to itself"),
        ("val_dataloader.dataset={test_dataloader.dataset}", "leads back to itself"),
        ("val_dataloader.dataset={val_dataloader}", "leads back to itself"),
        ("val_evaluator={val_evaluator.5}", "leads back to itself"),
        ("test_evaluator={val_evaluator.5}", "Set below 'val_evaluator': 0."),
        ("work_dir={custom_hooks}", "does not set"),
    ],
)
def test_references_that_lead_nowhere(referring, override, message):
    with pytest.raises(toolbox.ToolboxError) as caught:
        referring([override])
    assert message in str(caught.value)
    assert override.split("=")[0] in str(caught.value) or override.split("=")[0].replace("val", "test") in str(
        caught.value
    )
    assert "overrides" in str(caught.value) or "referring.py:" in str(caught.value)


def test_other_texts_in_braces_are_no_references(referring):
    for text in ("{caption}", "a {model}", "{model.head.dim} and more", "{x.y.z}", "{}", "{{model}}"):
        assert referring({"work_dir": text})["work_dir"] == text


def test_validation_does_not_change_the_recipe(toy):
    config = to_dict(toy())
    before = repr(config)
    assert validate(config) == []
    assert repr(config) == before
