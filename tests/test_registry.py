"""Discovery, names, signatures and building, on distributions that are nothing but files."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path
from typing import Any, Literal

import pytest
import torch

from toolbox.base import Backbone, Features, Head, Loss, Pool, Preprocess, Tune
from toolbox.errors import Problem, ToolboxError
from toolbox.plugin import Component
from toolbox.registry import (
    Plugin,
    add_local,
    build,
    discover,
    find_uninstalled,
    get_catalog,
    get_provenance,
    load_local,
    read_parameters,
    swap_catalog,
)
from toolbox.registry.signature import describe, find_component_kind
from toolbox.testing import check_plugin

_spec = importlib.util.spec_from_file_location("fake_plugins", Path(__file__).with_name("fake_plugins.py"))
fake = importlib.util.module_from_spec(_spec)
_spec.loader.exec_module(fake)


@pytest.fixture
def site(tmp_path, monkeypatch):
    """`site(distribution, namespace, source)` installs a distribution that only this test sees."""
    monkeypatch.syspath_prepend(str(tmp_path / "site"))
    monkeypatch.delenv("TOOLBOX_PLUGINS", raising=False)
    before = set(sys.modules)
    old = swap_catalog(None)

    def install(*arguments, folder="site", **options):
        if folder != "site":
            monkeypatch.syspath_prepend(str(tmp_path / folder))
        return fake.install(tmp_path / folder, *arguments, **options)

    yield install
    swap_catalog(old)
    for name in set(sys.modules) - before:
        if name.startswith(("fake_", "my_")):
            del sys.modules[name]


def found(namespace: str) -> list[Plugin]:
    return [plugin for plugin in discover()[0] if plugin.namespace == namespace]


def message(function, *arguments, **options) -> str:
    with pytest.raises(ToolboxError) as info:
        function(*arguments, **options)
    return str(info.value)


def test_a_plugin_is_found_with_its_owner(site):
    name = site("acme-dist", "acme", fake.module("'loss', 'L', 'fake_x:L', 'a loss'"), version="2.5")
    [plugin] = found("acme")
    assert (plugin.state, plugin.distribution, plugin.version) == ("ready", "acme-dist", "2.5")
    assert plugin.path.endswith(f"{name}.py")
    assert plugin.components == (Component("loss", "L", "fake_x:L", "a loss"),)
    assert plugin.error is None
    assert plugin.reason == ""
    assert discover()[0][0].namespace == "core"


BROKEN = {
    "import error": (
        "import no_such_module",
        "ModuleNotFoundError: No module named 'no_such_module'",
    ),
    "raises": ("x = 1\ny = 1 / 0", ":2)"),
    "exits": ("import sys; sys.exit(3)", "SystemExit: 3"),
    "syntax": ("x = = 1", "SyntaxError"),
    "wrong hook name": (fake.module().replace("toolbox_components", "toolbox_componets"), "toolbox_componets"),
    "wrong argument": (fake.module().replace("components()", "components(x)"), "PluginValidationError"),
    "forgot hookimpl": (fake.module().replace("@hookimpl", ""), "not marked with @hookimpl"),
    "no hook": ("x = 1", "implements no hook"),
    "unknown kind": (fake.module("'lossy', 'L', 'm:L', 's'"), "unknown kind 'lossy'"),
    "duplicate": (fake.module("'loss', 'L', 'm:L', 's'\n'head', 'L', 'm:H', 's'"), "declared twice"),
    "no component": (fake.module().replace("[]", "['L']"), "no toolbox.plugin.Component"),
    "no list": (fake.module().replace("[]", "5"), "must return a list"),
    "dotted name": (fake.module("'loss', 'a.L', 'm:L', 's'"), "one plain word"),
    "bad target": (fake.module("'loss', 'L', 'm.L', 's'"), "'module:Class'"),
    "requires is text": (fake.module("'loss', 'L', 'm:L', 's', 'peft'"), "a tuple of module names"),
}


@pytest.mark.parametrize("case", BROKEN)
def test_a_broken_plugin_is_a_value_and_harms_nobody(site, case):
    source, expected = BROKEN[case]
    site("bad-dist", "bad", source)
    site("good-dist", "good", fake.module("'loss', 'L', 'm:L', 's'"))
    [bad] = found("bad")
    assert bad.state == "broken"
    assert bad.components == ()
    assert bad.error is not None
    assert expected in bad.reason
    assert "\n" not in bad.reason
    assert found("good")[0].state == "ready"
    with pytest.raises(ToolboxError, match=r"'bad' of bad-dist 1\.0 .* is broken") as info:
        get_catalog().get("bad.L")
    assert type(info.value.__cause__) is type(bad.error)
    assert info.value.__cause__.__traceback__ is not None


def test_two_owners_of_a_namespace_are_both_unusable(site, monkeypatch):
    source = fake.module("'loss', 'L', 'm:L', 's'")
    site("first-dist", "acme", source)
    site("second-dist", "acme", source, version="7.0", folder="other")
    owners = found("acme")
    assert [owner.state for owner in owners] == ["conflict", "conflict"]
    assert all(owner.module is None for owner in owners)
    text = message(get_catalog().get, "acme.L")
    for part in ("first-dist 1.0", "second-dist 7.0", "first_dist-1.0.dist-info", "second_dist-7.0.dist-info"):
        assert part in text
    monkeypatch.setenv("TOOLBOX_PLUGINS", "-second-dist")
    states = {owner.distribution: owner.state for owner in found("acme")}
    assert states == {"first-dist": "ready", "second-dist": "disabled"}


def test_one_distribution_seen_twice_is_no_conflict(site):
    source = fake.module("'loss', 'L', 'm:L', 's'")
    name = site("acme-dist", "acme", source)
    site("acme-dist", "acme", source, folder="other", kind="egg-info", module_name=name)
    assert [plugin.state for plugin in found("acme")] == ["ready"]
    site("Acme.Dist", "acme", source, folder="third", module_name=name)  # another spelling of the same name
    assert [plugin.state for plugin in found("acme")] == ["ready"]


def test_nobody_else_owns_core(site):
    site("thief-dist", "core", fake.module("'loss', 'L', 'm:L', 's'"))
    states = {plugin.distribution: plugin.state for plugin in found("core")}
    assert states == {"thief-dist": "conflict", "vision-encoder-toolbox": "ready"}
    assert get_catalog().get("core.PooledFeatures", "model").target.startswith("toolbox.builtins")


def test_another_interface_is_listed_and_never_imported(site):
    name = site("future-dist", "future", "raise RuntimeError('imported')", group="toolbox.v2")
    [plugin] = found("future")
    assert plugin.state == "interface"
    assert plugin.reason == "targets interface 2, this toolbox has 1"
    assert name not in sys.modules
    assert "targets interface 2" in message(get_catalog().get, "future.L")


@pytest.mark.parametrize(
    ("switch", "ready"),
    [("", {"one", "two"}), ("one", {"one"}), ("one, two", {"one", "two"}), ("-one", {"two"}), ("core", set())],
)
def test_the_switch_allows_and_denies(site, monkeypatch, switch, ready):
    for namespace in ("one", "two"):
        site(f"{namespace}-dist", namespace, fake.module("'loss', 'L', 'm:L', 's'"))
    monkeypatch.setenv("TOOLBOX_PLUGINS", switch)
    plugins, problems = discover()
    states = {plugin.namespace: plugin.state for plugin in plugins}
    assert {name for name in ("one", "two") if states[name] == "ready"} == ready
    assert states["core"] == "ready"
    assert problems == []
    for name in {"one", "two"} - ready:
        assert "switched off by TOOLBOX_PLUGINS" in message(get_catalog(refresh=True).get, f"{name}.L")


def test_the_switch_reports_what_it_does_not_know(monkeypatch):
    monkeypatch.setenv("TOOLBOX_PLUGINS", "-glyfs,-core")
    plugins, problems = discover()
    assert [problem.where for problem in problems] == ["TOOLBOX_PLUGINS"] * 2
    assert "'glyfs'" in str(problems[0])
    assert "core cannot be switched off" in str(problems[1])
    assert plugins[0].namespace == "core"
    assert plugins[0].state == "ready"


def test_unreadable_metadata_is_a_problem(site, tmp_path):
    site("odd-dist", "odd", fake.module())
    (tmp_path / "site" / "odd_dist-1.0.dist-info" / "entry_points.txt").write_bytes(b"[toolbox.v1]\n\xff = x\n")
    plugins, [problem] = discover()
    assert "odd_dist" in problem.where
    assert "UnicodeDecodeError" in problem.message
    assert plugins[0].state == "ready"


def test_local_file(site, tmp_path, monkeypatch):
    path = tmp_path / "my_file.py"
    path.write_text(fake.module("'loss', 'L', 'my_neighbor:L', 's'", "import my_neighbor"))
    (tmp_path / "my_neighbor.py").write_text("class L: pass")
    [plugin] = add_local([str(path)])
    assert (plugin.namespace, plugin.state, plugin.path) == ("my_file", "ready", str(path))
    assert get_catalog().get("my_file.L").plugin is plugin
    assert "is no subclass of toolbox.base.Loss" in message(get_catalog().resolve, "my_file.L")
    add_local([str(path)])
    assert [p.state for p in get_catalog().plugins if p.namespace == "my_file"] == ["ready"]

    (tmp_path / "my_named.py").write_text("namespace = 'house'\n" + fake.module("'loss', 'L', 'm:L', 's'"))
    monkeypatch.chdir(tmp_path)
    assert load_local("my_named").namespace == "house"


def test_local_failures_say_where(site, tmp_path):
    (tmp_path / "my_syntax.py").write_text("x = 1\ny = = 2\n")
    (tmp_path / "my_error.py").write_text("x = 1\n\n1 / 0\n")
    (tmp_path / "json.py").write_text(fake.module())
    cases = {
        "my_syntax.py": "my_syntax.py:2)",
        "my_error.py": "my_error.py:3)",
        "my_absent.py": "there is no file",
        "json.py": "would hide the module 'json'",
        ".": "",
    }
    for name, expected in cases.items():
        plugin = load_local(f"{tmp_path}/{name}")
        assert plugin.state == "broken"
        assert expected in plugin.reason
    assert "there is no module 'my_absent_module'" in load_local("my_absent_module").reason
    assert "my_error" not in sys.modules
    assert sys.modules.get("json") is None or "json.py" not in str(tmp_path / "json")


def test_a_local_plugin_may_not_take_a_namespace(site, tmp_path):
    site("acme-dist", "acme", fake.module("'loss', 'L', 'm:L', 's'"))
    path = tmp_path / "my_rival.py"
    path.write_text("namespace = 'acme'\n" + fake.module("'loss', 'L', 'm:L', 's'"))
    assert get_catalog().get("acme.L")
    add_local([str(path)])
    text = message(get_catalog().get, "acme.L")
    assert "acme-dist 1.0" in text
    assert "my_rival.py" in text


def test_names_that_do_not_exist_get_the_nearest(site):
    get = get_catalog().get
    assert "Did you mean 'dinov3.ViT'?" in message(get, "ViT")
    assert "Did you mean 'dinov3.ViT'?" in message(get, "dinov3.vit", "backbone")
    assert "Did you mean 'losses.SupCon'?" in message(get, "losses.SupConn", "loss")
    assert "Did you mean 'losses'?" in message(get, "lossess.SupCon")
    assert "Did you mean 'retrieval.Embedder'?" in message(get, "retrieval.Embeder")
    assert "there is no plugin 'torch' here. Did you mean 'core.AdamW'?" in message(get, "torch.AdamW")
    assert "pip" not in message(get, "torch.AdamW")
    text = message(get, "losses.SupCon", "backbone", where="model.backbone")
    assert text.startswith("model.backbone: 'losses.SupCon' is a loss, and model.backbone expects a backbone.")
    assert "dinov3.ViT" in text
    assert "is an optimizer, and a loss is expected here" in message(get, "core.AdamW", "loss")
    for nonsense in ("", ".", "a.", ".b", "a.b.c", None, 3):
        assert message(get, nonsense)
    assert "Did you mean 'loss'?" in message(get_catalog().find, "los")
    assert {entry.kind for entry in get_catalog().find("loss")} == {"loss"}


def test_a_component_that_has_moved_is_found_by_its_old_name(site):
    site("new-dist", "newhome", fake.module("'loss', 'Moved', 'm:M', 's'\n'head', 'Part', 'm:P', 's'"))
    get = get_catalog().get
    for name in ("Timm", "HFVision"):
        text = message(get, f"core.{name}", "backbone", where="model.backbone")
        says = f"model.backbone: the plugin 'core' has no component '{name}'."
        assert text == f"{says} Did you mean 'encoders.{name}'?"
    for old in ("core.Moved", "losses.moved", "vanished.Moved"):  # the last one's plugin is gone
        assert "Did you mean 'newhome.Moved'?" in message(get, old)
    assert "Did you mean 'newhome.Part'?" in message(get, "core.NewhomePart", "head")
    assert "newhome" not in message(get, "core.Homeless", "head").partition("Of kind")[0]


def test_an_absent_plugin_of_the_repository_comes_with_its_command(monkeypatch):
    from toolbox.registry.catalog import Catalog

    empty = Catalog([])
    monkeypatch.setattr(sys.modules["toolbox.registry.catalog"], "find_uninstalled", list)
    assert "pip install ./plugins/dinov3" in message(empty.get, "dinov3.ViT")
    assert "pip install" not in message(empty.get, "strangers.ViT")


def test_missing_requirements_are_seen_without_an_import(site):
    site(
        "acme-dist",
        "acme",
        fake.module("'loss', 'L', 'm:L', 's', ('json', 'no_such_library')\n'loss', 'P', 'm:P', 's', ('wave',)"),
    )
    sys.modules.pop("wave", None)
    entry = next(entry for entry in get_catalog().entries if entry.fullname == "acme.L")
    assert entry.missing == ("no_such_library",)
    assert "needs 'no_such_library'" in message(get_catalog().get, "acme.L")
    assert "pip install no_such_library" in message(get_catalog().get, "acme.L")
    assert get_catalog().get("acme.P").missing == ()
    assert "wave" not in sys.modules


TARGETS = {
    "NoModule": ("no_such_module_x:L", "its module 'no_such_module_x' does not exist"),
    "NoImport": ("fake_targets_bad:L", "No module named 'no_such_dependency'"),
    "NoName": ("fake_targets:Plane", "has no 'Plane'. Did you mean 'Plain'?"),
    "NoClass": ("fake_targets:number", "is no subclass of toolbox.base.Loss"),
    "NoLoss": ("fake_targets:Plain", "is no subclass of toolbox.base.Loss"),
    "Abstract": ("fake_targets:Abstract", "does not implement compute"),
}


def test_resolve_imports_and_checks_the_class(site):
    rows = "\n".join(f"'loss', '{name}', '{target}', 's'" for name, (target, _) in TARGETS.items())
    good = """
        from toolbox.base import Loss
        number = 3
        class Plain: pass
        class Abstract(Loss): pass
        class Loss2(Loss):
            def compute(self, embeddings, labels, ref_embeddings, ref_labels): return embeddings.sum()
    """
    files = {"fake_targets.py": good, "fake_targets_bad.py": "import no_such_dependency"}
    site("acme-dist", "acme", fake.module(rows + "\n'loss', 'Good', 'fake_targets:Loss2', 's'"), files=files)
    assert get_catalog().resolve("acme.Good", "loss").__name__ == "Loss2"
    for name, (_, expected) in TARGETS.items():
        text = message(get_catalog().resolve, f"acme.{name}", "loss", where="model.loss")
        assert expected in text
        assert "acme-dist 1.0" in text
        assert text.startswith("model.loss: ")


def test_hooks_of_one_plugin_do_not_spoil_the_others(site, tmp_path):
    hooks = """
        from toolbox.plugin import Device, Problem
        @hookimpl
        def toolbox_device(requested):
            if requested == "fail": raise RuntimeError("no driver")
            if requested == "refuse": raise ValueError("use another")
            return Device("meta", "gloo") if requested == "meta" else None
        @hookimpl
        def toolbox_check_config(config): return [Problem("odd", "model")]
        @hookimpl
        def toolbox_config_dirs(): return ["recipes"]
    """
    site("acme-dist", "acme", fake.module("", hooks))
    site("bad-dist", "bad", fake.module("", "@hookimpl\ndef toolbox_check_config(config): 1 / 0"))
    assert get_catalog().device("meta").type == "meta"
    assert get_catalog().device("cpu").type == "cpu"
    assert get_catalog().device("warp drive") is None
    assert "'acme' of acme-dist" in message(get_catalog().device, "fail")
    assert message(get_catalog().device, "refuse") == "use another"
    problems = get_catalog().check_config({})
    assert Problem("odd", "model") in problems
    assert any("ZeroDivisionError" in problem.message for problem in problems)
    assert get_catalog().config_dirs()["acme"] == [Path("recipes")]


def test_a_plugin_that_cannot_name_its_recipes_is_told_of(site):
    site("good-dist", "good", fake.module("", "@hookimpl\ndef toolbox_config_dirs(): return ['recipes']"))
    site("bad-dist", "bad", fake.module("", "@hookimpl\ndef toolbox_config_dirs(): 1 / 0"))
    with pytest.warns(RuntimeWarning, match=r"'bad' of bad-dist .* failed in toolbox_config_dirs: ZeroDivisionError"):
        folders = get_catalog().config_dirs()
    assert folders["good"] == [Path("recipes")]
    assert "bad" not in folders
    with pytest.raises(AssertionError, match="bad: toolbox_config_dirs must return paths: division by zero"):
        check_plugin("bad")


def test_provenance_follows_the_sources(site, tmp_path):
    name = site("acme-dist", "acme", fake.module("'loss', 'L', 'm:L', 's'"), version="3.1")
    first = get_provenance(["acme", "core"])
    assert first["acme"]["distribution"] == "acme-dist"
    assert first["acme"]["version"] == "3.1"
    assert len(first["acme"]["sources"]) == len(first["core"]["sources"]) == 64
    assert get_provenance(["acme"])["acme"] == first["acme"]
    with open(tmp_path / "site" / f"{name}.py", "a") as file:
        file.write("# a change\n")
    assert get_provenance(["acme"])["acme"]["sources"] != first["acme"]["sources"]
    assert get_provenance(["core"])["core"] == first["core"]
    assert "no plugin" in message(get_provenance, ["nobody"])


def test_provenance_of_a_package_covers_all_its_files(site, tmp_path):
    package = tmp_path / "site" / "fake_package"
    (package / "deep").mkdir(parents=True)
    (package / "__init__.py").write_text("")
    (package / "deep" / "__init__.py").write_text("")
    (package / "deep" / "plugin.py").write_text(fake.module("'loss', 'L', 'm:L', 's'"))
    site("acme-dist", "acme", "", module_name="fake_unused")
    info = tmp_path / "site" / "acme_dist-1.0.dist-info" / "entry_points.txt"
    info.write_text("[toolbox.v1]\nacme = fake_package.deep.plugin\n")
    hashes = {get_provenance(["acme"])["acme"]["sources"]}
    for path in (package / "model.py", package / "deep" / "more.py"):
        path.write_text("x = 1")
        hashes.add(get_provenance(["acme"])["acme"]["sources"])
    (tmp_path / "site" / "stranger.py").write_text("x = 1")
    hashes.add(get_provenance(["acme"])["acme"]["sources"])
    assert len(hashes) == 3


def test_uninstalled_folders_are_named(tmp_path, monkeypatch):
    project = '[project]\nname = "{}"\n[project.entry-points."toolbox.v1"]\n{} = "some.module"\n'
    (tmp_path / "pyproject.toml").write_text('[project]\nname = "house"\n')
    for folder, name, namespace in (
        ("new", "never-installed-dist", "new"),
        ("changed", "vision-encoder-toolbox-losses", "losses"),
        ("torn", "", ""),
    ):
        (tmp_path / "plugins" / folder).mkdir(parents=True)
        text = project.format(name, namespace) if name else "[project"
        (tmp_path / "plugins" / folder / "pyproject.toml").write_text(text)
    monkeypatch.chdir(tmp_path)
    folders = {folder.path.name: folder for folder in find_uninstalled(tmp_path)}
    assert folders["new"].reason == "not installed"
    assert folders["new"].namespaces == ("new",)
    assert folders["new"].command == "pip install ./plugins/new"
    assert folders["changed"].reason == "installed with other entry points (losses)"
    assert "cannot be read" in folders["torn"].reason
    assert find_uninstalled(tmp_path / "plugins") == []


class Part(Loss):
    """One part.

    - `weight`: how much it counts, in units
      of one.
    - `low`, `high`: limits; `mode`: what to do.
    """

    def __init__(self, weight: float, low: int = 0, high: int | None = None, mode: Literal["a", "b"] = "a"):
        super().__init__()
        if weight < 0:
            raise ValueError(f"weight={weight} must be positive")
        self.weight = weight

    def compute(self, embeddings, labels, ref_embeddings, ref_labels):
        return embeddings.sum()


class Tower(Backbone):
    def __init__(self, width: int = 4):
        super().__init__()
        self.dim = width

    def forward(self, inputs: Any, *, layers: int = 1, mask=None) -> Features:
        return Features(inputs)

    def preprocess(self) -> Preprocess:
        raise NotImplementedError

    def layers(self) -> list[torch.nn.Module]:
        return [self]


class Whole(Head):
    def __init__(
        self,
        *,
        tower: Backbone,
        pool: Pool | str = "cls",
        maybe: Part | None = None,
        losses: list[Loss] | None = None,
        towers: dict[str, Backbone] | None = None,
        extra: dict[str, Any] | None = None,
        unknown: NoSuchName = 3,  # noqa: F821
        bare=None,
    ):
        super().__init__()
        self.got = dict(locals())

    def connect(self, in_dim, classes=None): ...

    def forward(self, x):
        return x


class Keywords(Head):
    def __init__(self, **options):
        super().__init__()

    def connect(self, in_dim, classes=None): ...

    def forward(self, x):
        return x


class First(Pool):
    def dim(self, width):
        return width

    def forward(self, features):
        return features.tokens[:, 0]


class Keep(Tune):
    def __init__(self, mode: str = "full"):
        self.mode = mode

    def apply(self, backbone): ...


def test_parameters():
    weight, low, high, mode = read_parameters(Part)
    assert (weight.name, weight.annotation, weight.required, weight.doc) == (
        "weight",
        float,
        True,
        "how much it counts, in units of one.",
    )
    assert (low.default, low.required, low.doc, high.doc, mode.doc) == (0, False, "limits", "limits", "what to do.")
    assert [describe(p.annotation) for p in (weight, low, high, mode)] == ["float", "int", "int | None", "'a' | 'b'"]
    kinds = {p.name: (p.kind_of_component, p.container) for p in read_parameters(Whole)}
    assert kinds == {
        "tower": ("backbone", ""),
        "pool": ("pool", ""),
        "maybe": ("loss", ""),
        "losses": ("loss", "list"),
        "towers": ("backbone", "dict"),
        "extra": (None, ""),
        "unknown": (None, ""),
        "bare": (None, ""),
    }
    by_name = {p.name: p for p in read_parameters(Whole)}
    assert by_name["pool"].accepts_string
    assert not by_name["tower"].accepts_string
    assert by_name["unknown"].annotation == "NoSuchName"
    assert describe(by_name["towers"].annotation) == "dict[str, Backbone] | None"
    assert read_parameters(First) == []
    assert find_component_kind("list[Loss] | None") == ("loss", "list")
    assert find_component_kind("str") == (None, "")
    assert "takes **options" in message(read_parameters, Keywords)


@pytest.fixture
def house(site):
    """A plugin of the classes above, in the namespace `house`."""
    rows = {"Part": "loss", "Tower": "backbone", "Whole": "head", "First": "pool", "Keep": "tune", "Keywords": "head"}
    lines = "\n".join(f"'{kind}', '{name}', 'fake_house_classes:{name}', 's'" for name, kind in rows.items())
    site("house-dist", "house", fake.module(lines))
    sys.modules["fake_house_classes"] = sys.modules[__name__]


def test_build_nests(house):
    part = dict(type="house.Part", weight=2)
    built = build(
        dict(
            type="house.Whole",
            tower=dict(type="house.Tower", width=8, tune=dict(type="house.Keep"), gradient_checkpointing=True),
            pool="mean",
            maybe=part,
            losses=[part, dict(part, weight=3)],
            towers=dict(a=dict(type="house.Tower"), b=dict(type="house.Tower", width=2)),
            extra=dict(type="anything", weight=1),
        ),
        "head",
    ).got
    assert built["tower"].dim == 8
    assert isinstance(built["tower"].tune, Keep)
    assert built["tower"].gradient_checkpointing is True
    assert built["pool"] == "mean"
    assert [loss.weight for loss in [built["maybe"], *built["losses"]]] == [2, 2, 3]
    assert {name: tower.dim for name, tower in built["towers"].items()} == {"a": 4, "b": 2}
    assert built["towers"]["a"].tune is None
    assert built["towers"]["a"].gradient_checkpointing is False
    assert built["extra"] == dict(type="anything", weight=1)
    pooled = build(dict(type="house.Whole", tower=Tower(), pool=dict(type="house.First")), "head").got
    assert isinstance(pooled["pool"], First)
    ready = Tower()
    assert build(ready, "backbone") is ready
    assert [type(item) for item in build([part, part], "loss")] == [Part, Part]
    recipe = dict(type="house.Tower", tune=None)
    build(recipe)
    assert recipe == dict(type="house.Tower", tune=None), "the recipe must stay as it is"


def test_a_tune_without_a_type_is_cores(house):
    tower = build(dict(type="house.Tower", tune=dict(mode="frozen")), "backbone")
    assert type(tower.tune).__module__ == "toolbox.builtins.tune"


def test_build_says_what_is_wrong_and_where(house):
    def fails(config, kind=None):
        return message(build, config, kind, where="model")

    assert fails(dict(type="house.Part", weight=-1)) == "model: weight=-1 must be positive"
    with pytest.raises(ToolboxError) as info:
        build(dict(type="house.Part", weight=-1))
    assert isinstance(info.value.__cause__, ValueError)
    nested = dict(type="house.Whole", tower=dict(type="house.Tower"), losses=[dict(type="house.Part", weight=-1)])
    assert fails(nested).startswith("model.losses.0: ")
    text = fails(dict(type="house.Tower", widht=3))
    assert text == "model.widht: house.Tower has no argument 'widht'. Did you mean 'width'?"
    assert "model: house.Part needs the argument 'weight'." in fails(dict(type="house.Part"))
    assert "model.tower: 'house.Part' is a loss, and model.tower expects a backbone." in fails(
        dict(type="house.Whole", tower=dict(type="house.Part", weight=1))
    )
    assert "needs 'type'" in fails(dict(width=3), "backbone")
    assert "not 'house.Tower'" in fails("house.Tower", "backbone")
    assert "gradient_checkpointing is True or False" in fails(dict(type="house.Tower", gradient_checkpointing=1))
    assert "has no argument 'tune'" in fails(dict(type="house.Part", weight=1, tune=None))
    assert "takes **options" in fails(dict(type="house.Keywords"))
