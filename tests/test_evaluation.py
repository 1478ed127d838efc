"""Evaluating with `tools/test.py`: more numbers, what whitening learns from, the folder that is written."""

from __future__ import annotations

import functools
import json
import re

import pytest
import torch
from test_retrieval import leave_one_out

from toolbox import api
from toolbox.base import Batch, Metric
from toolbox.base.report_items import Outcomes
from toolbox.cli.tables import print_metrics
from toolbox.cli.test import main
from toolbox.config.validate import complete
from toolbox.engine import inference
from toolbox.engine.data.batch_builder import input_specs
from toolbox.engine.evaluation.evaluator import Evaluator
from toolbox.engine.hooks.pixel_baseline import RawPixels
from toolbox.engine.precision import Precision
from toolbox.errors import ToolboxError
from toolbox.plugin import Device
from toolbox.preflight.preflight import check_recipe
from toolbox.report import load_report_items

RECALL = {"type": "retrieval.Recall", "ks": [1, 10]}
VIT = {
    "type": "dinov3.ViT",
    "name": None,
    "size": 32,
    "arch": {"hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2, "patch_size": 8},
}
PLAIN = ["recall@1", "recall@10", "map@r", "r_precision", "mrr", "queries", "queries_without_positive"]


@pytest.fixture
def recipe(toy, tmp_path):
    """`recipe(overrides) -> path of a recipe` that the commands take; judged by Recall."""

    def write(overrides=(), name="recipe.py"):
        config = toy({"val_evaluator": [RECALL], **dict(overrides)})
        text = "".join(f"{key} = {value!r}\n" for key, value in api.to_dict(config).items())
        (tmp_path / name).write_text(text)
        return str(tmp_path / name)

    return write


@pytest.fixture
def trained(recipe):
    """(recipe, run folder) of a trained toy."""
    path = recipe({"train_cfg": {"max_steps": 4}, "evaluate_before": False})
    api.train(api.load_config(path), out="run")
    return path, "run"


def numbers_of(capsys, *arguments):
    assert main([*map(str, arguments), "--json"]) == 0, capsys.readouterr().err
    return json.loads(capsys.readouterr().out)


# options


def test_options_add_numbers_after_the_plain_ones(trained, capsys):
    plain = numbers_of(capsys, *trained)
    assert list(plain) == PLAIN
    more = ("dims=2,4", "intervals=50", "whiten=3", "alpha_qe=[3,2.5]", "rerank=[20, 6, 0.3]")
    found = numbers_of(capsys, *trained, "--metric", *more)
    assert list(found.items())[: len(PLAIN)] == list(plain.items())
    prefixes = dict.fromkeys(name.split("/")[0] for name in found if "/" in name)
    assert list(prefixes) == ["dim2", "dim4", "whiten", "alpha_qe", "k_reciprocal"]
    assert found["recall@1_low"] <= found["recall@1"] <= found["recall@1_high"]
    both = numbers_of(capsys, *trained, "--metric", "alpha_qe=3,2.5", "expand_gallery=true")
    assert both["alpha_qe/map@r"] != found["alpha_qe/map@r"]
    other = numbers_of(capsys, *trained, "--metric", "rerank=3,2,1.0")
    # with lambda 1 the distance is that of the cosine
    assert {name: other[f"k_reciprocal/{name}"] for name in PLAIN[:5]} == pytest.approx(
        {name: plain[name] for name in PLAIN[:5]}
    )
    assert found["k_reciprocal/map@r"] != pytest.approx(plain["map@r"], abs=1e-4)


def test_values_have_the_types_of_the_arguments(trained, capsys, monkeypatch):
    from toolbox_retrieval import recall

    seen = []
    original = recall.Recall.__init__
    monkeypatch.setattr(
        recall.Recall,
        "__init__",
        functools.wraps(original)(lambda self, **given: (seen.append(given), original(self, **given))[1]),
    )
    main([*trained, "--metric", "rerank=20,6,0.3", "alpha_qe=[10,3]", "--metric", "lone=miss", "--json"])
    assert seen[-1] == {"ks": [1, 10], "alpha_qe": [10, 3], "rerank": [20, 6, 0.3], "lone": "miss"}
    main([*trained, "--json"])
    assert seen[-1] == {"ks": [1, 10]}
    api.evaluate(api.load_config(trained[0]), trained[1], metrics={"dims": [4], "lone": "miss"})
    assert seen[-1] == {"ks": [1, 10], "dims": [4], "lone": "miss"}


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--metric", "rerank=20,6"], "rerank must be"),
        (["--metric", "rerank=6,20,0.3"], "rerank must be"),
        (["--metric", "rerank=20.5,6,0.3"], "rerank must be"),
        (["--metric", "dims=[9]"], "9 dimensions, and the embeddings have 8"),
        (["--metric", "dims=[0]"], "dims must be"),
        (["--metric", "dims=4"], "val_evaluator.0.dims: list[int] | None is expected here, not 4"),
        (["--metric", "whiten=9"], "9 dimensions, and the embeddings have 8"),
        (["--metric", "whiten_from=gallery"], "no effect without whiten"),
        (["--metric", "expand_gallery=true"], "no effect without alpha_qe"),
        (["--metric", "intervals=3"], "at least 20 resamples"),
        (["--metric", "alpha_qe=0,3"], "alpha_qe must be"),
        (
            ["--metric", "rernak=1"],
            "No metric here has rernak: there is retrieval.Recall. Did you mean 'rerank'?",
        ),
        (["--metric", "rerank"], "'rerank' sets no argument of a metric. Write key=value"),
        (["--split", "test"], "no test set"),
    ],
)
def test_options_that_make_no_sense_are_one_message(trained, capsys, options, message):
    assert main([*trained, *options]) == 2
    *notes, problem = capsys.readouterr().err.splitlines()
    assert message in problem
    assert all("Whitening" in note for note in notes)


def test_options_without_a_metric_that_takes_them(recipe, capsys):
    path = recipe({"val_evaluator": [{"type": "toy.Nearest"}]})
    assert main([path, "--metric", "dims=[4]"]) == 2
    err = capsys.readouterr().err
    assert "No metric here has dims: there is toy.Nearest." in err
    assert "retrieval.Recall" in err
    assert re.search(r"recipe\.py:\d+ val_evaluator:", err)


def test_every_metric_that_takes_them_gets_the_options(recipe, capsys):
    path = recipe({"val_evaluator": RECALL})  # a single one, not a list
    assert "dim4/recall@1" in numbers_of(capsys, path, "--metric", "dims=[4]")
    both = [RECALL, {"type": "toy.Nearest"}]
    path = recipe({"val_evaluator": both})
    assert {"dim4/recall@1", "nearest"} <= numbers_of(capsys, path, "--metric", "dims=[4]").keys()
    several = recipe({"val_evaluator": [RECALL, {"type": "classification.KNN"}]})
    assert main([several, "--metric", "ks=[1,3]", "dims=[4]", "--json"]) == 0
    captured = capsys.readouterr()
    assert "ks is set in val_evaluator.0.ks, val_evaluator.1.ks." in captured.err
    assert "dims is set" not in captured.err
    assert {"recall@3", "knn@3", "dim4/recall@3"} <= json.loads(captured.out).keys()


def test_a_width_that_is_too_large_is_found_at_the_first_batch(trained, monkeypatch):
    seen = []
    original = inference.ready
    monkeypatch.setattr(inference, "ready", lambda *a: (seen.append(1), original(*a))[1])
    with pytest.raises(ToolboxError, match="9 dimensions"):
        api.evaluate(api.load_config(trained[0]), trained[1], metrics={"dims": [9]})
    assert len(seen) == 1


# what a check finds before anything runs


@pytest.mark.parametrize(
    ("overrides", "where", "message"),
    [
        ({"val_evaluator": [{**RECALL, "dims": [4, 9]}]}, "val_evaluator.0.dims", "9 dimensions, and the embeddings"),
        ({"val_evaluator": [{**RECALL, "whiten": 9}]}, "val_evaluator.0.whiten", "9 dimensions"),
        ({"val_evaluator": [{"type": "retrieval.LateInteractionRecall", "ks": [1]}]}, "val_evaluator.0", "'tokens'"),
    ],
)
def test_a_check_finds_what_metrics_will_miss(toy, overrides, where, message):
    (problem,) = api.check_config(toy({"val_evaluator": [RECALL], **overrides}))
    assert where in problem.where
    assert message in problem.message


def test_a_check_lets_pass_what_fits(toy):
    assert api.check_config(toy({"val_evaluator": [{**RECALL, "dims": [4, 8], "whiten": 8}]})) == []
    wide = {"model.head.dim": 32, "val_evaluator": [{**RECALL, "dims": [20]}], "evaluate_before": False}
    assert api.check_config(toy(wide)) == []


@pytest.mark.parametrize(
    ("overrides", "note"),
    [
        (
            {"model.head.dim": 32, "val_evaluator": [{**RECALL, "dims": [20]}]},
            "The backbone as it comes, before training: left out: val_evaluator.0.dims: dims asks for 20",
        ),
        (
            {
                "val_evaluator": [{"type": "retrieval.LateInteractionRecall", "ks": [1]}],
                "evaluate_pixels": True,
                "model.pool": "tokens",
                "model.loss": {"type": "losses.MaxSim"},
                "model.head": None,
            },
            "Raw pixels: left out: val_evaluator.0: ",
        ),
    ],
)
def test_a_check_says_what_cannot_be_judged_before_training(toy, overrides, note):
    plan = check_recipe(complete(api.to_dict(toy(overrides))))
    assert plan.problems == []
    assert [said for said in plan.notes if said.startswith(note)]


def test_token_sets_are_judged_beside_embeddings(toy):
    late = {"type": "retrieval.LateInteractionRecall", "ks": [1, 10]}
    tokens = {"model.pool": "tokens", "model.loss": {"type": "losses.MaxSim"}, "val_evaluator": [RECALL, late]}
    numbers = api.evaluate(toy(tokens))
    assert list(numbers) == [*PLAIN, *(f"late_interaction/{name}" for name in PLAIN)]
    assert numbers["late_interaction/map@r"] != numbers["map@r"]


# whitening


class Spy(Metric):
    def __init__(self):
        self.reset()

    def reset(self):
        self.learned, self.judged = [], []

    def wants_training(self):
        return True

    def fit(self, outputs, batch):
        self.learned += batch.indices

    def update(self, outputs, batch):
        self.judged += batch.indices

    def compute(self):
        return {"learned": len(self.learned)}


def embedder(size=16):
    from toolbox_retrieval.embedder import Embedder
    from toy_plugin import Patches

    torch.manual_seed(0)
    model = Embedder(backbone=Patches(size=size), pool="mean")
    model.connect(None)
    return model


def judge(target, **arguments):
    from toolbox.engine.data.batch_builder import input_specs
    from toolbox.engine.device import choose_device
    from toolbox.engine.precision import Precision

    model, device = embedder(), choose_device("cpu")
    return target.evaluate(model, input_specs(model), device, Precision("fp32", device), **arguments)


def test_the_training_set_is_learned_from_first_and_only_for_who_asks(toy):
    recipe = api.to_dict(toy())
    training = recipe["train_dataloader"] | {"dataset": {"type": "toy.Noise", "count": 24, "seed": 7}}
    target = Evaluator(recipe["val_dataloader"], [Spy(), RECALL], name="val", training=training)
    numbers = judge(target)
    spy = target.metrics[0]
    assert spy.learned == list(range(24))
    assert spy.judged == list(range(64))
    assert numbers["queries"] == 64
    assert judge(Evaluator(recipe["val_dataloader"], [RECALL], name="val")) == {
        name: value for name, value in numbers.items() if name != "learned"
    }
    with pytest.raises(ToolboxError, match="learns from the training set, and there is none"):
        judge(Evaluator(recipe["val_dataloader"], [Spy()], name="val"))
    assert judge(target, stop=lambda: True) is None


def test_unreadable_training_items_follow_the_policy_of_the_training_loader(toy):
    recipe = api.to_dict(toy())
    bad = {"type": "toy.Noise", "count": 24, "bad": [3]}
    strict = {"dataset": bad, "on_bad_item": "raise"}
    with pytest.raises(ToolboxError, match="Item 3 of Noise"):
        judge(Evaluator(recipe["val_dataloader"], [Spy()], name="val", training=strict))
    some = {"dataset": bad, "on_bad_item": "skip", "max_bad_share": 0.1}
    numbers = judge(Evaluator(recipe["val_dataloader"], [Spy()], name="val", training=some))
    assert numbers == {"learned": 23}  # these are not among the judged
    few = {"dataset": bad, "on_bad_item": "skip", "max_bad_share": 0.01}
    with pytest.raises(ToolboxError, match="1 of 24 items") as error:
        judge(Evaluator(recipe["val_dataloader"], [Spy()], name="val", training=few))
    assert error.value.problems[0].where == "train_dataloader"


def test_what_a_metric_refuses_is_no_traceback(toy):
    class Refuses(Spy):
        def update(self, outputs, batch):
            raise ValueError("not these")

    recipe = api.to_dict(toy())
    target = Evaluator(recipe["val_dataloader"], [Refuses()], name="val", training=recipe["train_dataloader"])
    with pytest.raises(ToolboxError, match="val_evaluator: not these"):
        judge(target)


def test_whitening_says_what_it_learned_from(trained, capsys):
    assert main([*trained, "--metric", "whiten=3", "--json"]) == 0
    captured = capsys.readouterr()
    assert "learned from the training set, 64 items, without augmentation" in captured.err
    from_train = json.loads(captured.out)
    assert main([*trained, "--metric", "whiten=3", "whiten_from=gallery", "--json"]) == 0
    captured = capsys.readouterr()
    assert "learned from the gallery itself" in captured.err
    from_gallery = json.loads(captured.out)
    assert from_train["recall@1"] == from_gallery["recall@1"]
    assert from_train["whiten/map@r"] != from_gallery["whiten/map@r"]
    assert main([*trained, "--json"]) == 0
    assert capsys.readouterr().err == "16 classes (class 0, class 1, ...), 64 val images\n"


def test_training_with_a_whitening_evaluator(recipe):
    path = recipe({"val_evaluator": [{**RECALL, "whiten": 3}], "train_cfg": {"max_steps": 4}})
    results = api.train(api.load_config(path), out="run")
    assert {"recall@1", "whiten/recall@1"} <= results["after"].keys() == results["before"].keys()


# the folder


def test_out_holds_numbers_findings_and_a_page(trained, tmp_path, capsys):
    numbers = numbers_of(capsys, *trained, "--out", "judged", "--metric", "dims=[4]")
    folder = tmp_path / "judged"
    assert {path.name for path in folder.iterdir()} == {
        "config.py",
        "environment.json",
        "report_items.json",
        "report.html",
        "test_results.json",
    }
    results = json.loads((folder / "test_results.json").read_text())
    assert results["metrics"] == numbers
    assert (results["split"], results["step"], results["better"]["recall@1"]) == ("val", 4, "greater")
    assert results["checkpoint"].endswith("checkpoint-4")
    outcomes = next(finding for finding in load_report_items(folder) if isinstance(finding, Outcomes))
    assert len(outcomes.ids) == 64
    assert "<title>" in (folder / "report.html").read_text()
    again = api.load_config(folder / "config.py")
    assert again["val_evaluator"][0]["dims"] == [4]
    # an earlier evaluation is replaced
    assert main([*trained, "--out", "judged"]) == 0
    assert "Report:" in capsys.readouterr().out
    assert "dim4/recall@1" not in json.loads((folder / "test_results.json").read_text())["metrics"]


def test_out_refuses_a_folder_of_something_else(trained, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(
        "toolbox.inference.checkpoint_evaluation.evaluate",
        lambda *a: pytest.fail("evaluated before it was refused"),
    )
    for name, files in (("run", []), ("mine", ["letter.txt"]), ("half", ["report.html"])):
        for file in files:
            (tmp_path / name).mkdir()
            (tmp_path / name / file).write_text("x")
        before = sorted((tmp_path / name).iterdir())
        assert main([*trained, "--out", name]) == 2
        assert f"{name} holds something else" in capsys.readouterr().err
        assert sorted((tmp_path / name).iterdir()) == before
    (tmp_path / "file").write_text("x")
    assert main([*trained, "--out", "file"]) == 2
    assert "Nothing can be written to file" in capsys.readouterr().err


def test_an_evaluation_that_fails_leaves_no_folder_behind(trained, tmp_path, monkeypatch):
    def fail(*_, **__):
        raise ToolboxError("no")

    monkeypatch.setattr("toolbox.inference.checkpoint_evaluation.evaluate", fail)
    (tmp_path / "own").mkdir()
    for name in ("new", "own"):
        assert main([*trained, "--out", name]) == 2
    assert not (tmp_path / "new").exists()
    assert (tmp_path / "own").is_dir(), "it was there before"


def test_zero_shot_is_the_backbone_as_it_comes(recipe, tmp_path, capsys):
    numbers = numbers_of(capsys, recipe(), "--out", "zero")
    results = json.loads((tmp_path / "zero" / "test_results.json").read_text())
    assert results["metrics"] == numbers
    assert results["checkpoint"] is results["step"] is None


# resolution


def test_a_checkpoint_is_judged_at_another_resolution(recipe, capsys):
    path = recipe({"model.backbone": VIT, "model.pool": "cls", "train_cfg": {"max_steps": 2}, "evaluate_before": False})
    api.train(api.load_config(path), out="run")
    capsys.readouterr()
    numbers = {}
    for size in (32, 48, 24):
        found = numbers_of(capsys, path, "run", "--cfg-options", f"model.backbone.size={size}")
        assert found["queries"] == 64
        numbers[size] = found["map@r"]
    assert len(set(numbers.values())) == 3
    assert numbers[32] == numbers_of(capsys, path, "run")["map@r"]
    assert main([path, "run", "--cfg-options", "model.backbone.size=30"]) == 2
    assert "multiple of" in capsys.readouterr().err


def test_a_resolution_makes_other_tokens(toy):
    from toolbox.registry import build

    backbone = build(VIT, "backbone").eval()
    with torch.no_grad():
        small, large = (backbone(torch.ones(1, 3, size, size)) for size in (32, 48))
    assert (small.grid, large.grid) == ((4, 4), (6, 6))


# the table


def test_the_table_has_a_column_for_each_prefix(capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "150")
    numbers = {
        "recall@1": 0.5,
        "map@r": 0.25,
        "queries": 64,
        "recall@1_low": 0.4,
        "recall@1_high": 0.6,
        "map@r_low": 0.2,
        "map@r_high": 0.3,
        "dim4/recall@1": 0.45,
        "dim4/map@r": 0.125,
        "whiten/recall@1": 0.55,
    }
    print_metrics(numbers, "title")
    out = capsys.readouterr().out
    rows = {cells[0]: cells[1:] for cells in map(cells_of, out.splitlines()) if cells}
    assert rows[""] == ["plain", "95 %", "dim4", "whiten"]
    assert rows["recall@1"] == ["0.5000", "0.4000 to 0.6000", "0.4500", "0.5500"]
    assert rows["map@r"] == ["0.2500", "0.2000 to 0.3000", "0.1250", ""]
    assert rows["queries"] == ["64", "", "", ""]
    assert list(rows) == ["", "recall@1", "map@r", "queries"]
    print_metrics({"recall@1": 0.5, "queries": 64}, "title")
    out = capsys.readouterr().out
    assert "plain" not in out
    assert {cells[0]: cells[1:] for cells in map(cells_of, out.splitlines()) if cells}["recall@1"] == ["0.5000"]
    print_metrics({"late_interaction/recall@1": 0.5, "low": 3, "x_low": 1}, "title")
    out = capsys.readouterr().out
    assert "late_interaction" in out
    assert "x_low" in out


def cells_of(line):
    parts = re.split("[│┃|]", line)
    return [part.strip() for part in parts[1:-1]] if len(parts) > 2 else []


def test_numbers_equal_those_of_the_function(toy):
    recipe = api.to_dict(toy())
    metric = Evaluator(recipe["val_dataloader"], [RECALL], name="val")
    numbers = judge(metric)
    items = metric.metrics[0]._items
    expected = leave_one_out(items.values, items.labels, ks=[1, 10])
    assert numbers == pytest.approx(expected)


def test_raw_pixels_are_found_in_an_input_that_is_a_dict():
    images = torch.rand(4, 3, 8, 8)
    plain = RawPixels()(Batch.example({"image": images}), "baseline")["embeddings"]
    kinds = (
        {"pixel_values": images, "grid": torch.ones(4, 2)},
        {"positions": torch.rand(4, 9, 2), "pixel_values": images, "mask": torch.ones(4, 9, dtype=torch.bool)},
        {"x": torch.zeros(4, 5, 5, dtype=torch.long), "y": images},
    )
    for value in kinds:
        assert torch.equal(
            RawPixels()(Batch.example({"image": value}, ids=[0, 1, 2, 3]), "baseline")["embeddings"], plain
        )
    both = {"text": torch.ones(4, 7, dtype=torch.long), "image": images}
    assert torch.equal(RawPixels()(Batch.example(both), "")["embeddings"], plain)


@pytest.mark.parametrize(
    "value", [{"pixel_values": torch.rand(36, 12)}, {"input_ids": torch.ones(4, 7, dtype=torch.long)}, {}]
)
def test_raw_pixels_without_a_row_for_each_image_are_refused(value):
    batch = Batch(inputs={"image": value}, ids=[0, 1, 2, 3], views={"image": 1})
    with pytest.raises(ToolboxError, match=r"inputs \(image\) hold no pixels") as caught:
        RawPixels()(batch, "baseline")
    assert "evaluate_pixels=False" in str(caught.value)


class Errors(Metric):
    """The example in Metric's own docstring."""

    def reset(self):
        self.errors = []

    def update(self, outputs, batch):
        self.errors.append((outputs["value"] - batch.labels).abs())

    def compute(self):
        return {"error": torch.cat(self.errors).numel()}


@pytest.mark.filterwarnings("ignore:'pin_memory' argument is set")
def test_metrics_see_the_batch_on_the_device_of_the_outputs(toy):
    seen = []

    class Model(torch.nn.Module):
        def forward(self, batch, mode):
            seen.append(batch.labels.device.type)
            return {"value": batch.labels * 0.5}

    target = Evaluator.of(complete(dict(toy())), "val")
    target.metrics = [Errors()]
    inputs = input_specs(api.build(toy()))
    found = target.evaluate(Model(), inputs, Device("meta", "gloo"), Precision("fp32", Device("cpu", "gloo")))
    assert seen == ["meta"] * 4
    assert found == {"error": 64}
