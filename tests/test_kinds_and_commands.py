"""Kinds and commands of plugins, on distributions that are nothing but files."""

from __future__ import annotations

import importlib.util
import inspect
import json
import subprocess
import sys
import typing
from pathlib import Path
from typing import Any, Literal, TypedDict

import pytest

from toolbox.cli.list_components import main
from toolbox.errors import ToolboxError
from toolbox.registry import Parameter, build, discover, get_catalog, read_parameters, swap_catalog
from toolbox.registry.signature import check_plain
from toolbox.testing import check_plugin

_spec = importlib.util.spec_from_file_location("fake_plugins", Path(__file__).with_name("fake_plugins.py"))
fake = importlib.util.module_from_spec(_spec)
_spec.loader.exec_module(fake)

CLASSES = """
    from __future__ import annotations
    from abc import ABC, abstractmethod
    from typing import TYPE_CHECKING, Any
    from torch import nn
    from toolbox.base import Head, Loss
    if TYPE_CHECKING:
        from somewhere import Merger as Elsewhere
        from fake_{0}_classes import Merger as Hidden

    class Merger(ABC):
        '''Tokens of several images -> those that a language model reads.'''
        @abstractmethod
        def merge(self, tokens): ...

    class Codebook(nn.Module, ABC):
        '''Features -> codes.'''
        @abstractmethod
        def forward(self, x): ...

    class Mean(Merger):
        '''The mean of all.

        - `weight`: of each.
        '''
        def __init__(self, weight: float = 1.0):
            if weight < 0:
                raise ValueError(f"weight={{weight}} must be positive")
            self.weight = weight
        def merge(self, tokens):
            return self.weight * sum(tokens)

    class Lazy(Merger):
        '''Does not say how.'''

    class Codes(Codebook):
        '''All codes.'''
        def forward(self, x):
            return x

    class Whole(Head):
        '''A head with slots.'''
        def __init__(
            self, merger: Merger, more: list[Merger] | None = None, named: dict[str, Mean] | None = None,
            codes: Codebook | None = None, options: dict[str, Any] | None = None, loss: Loss | None = None,
        ):
            super().__init__()
            self.got = dict(locals())
        def connect(self, in_dim, classes=None): ...
        def forward(self, x): return x
"""

KINDS = """
    from toolbox.plugin import Kind
    @hookimpl
    def toolbox_kinds():
        return [Kind("merger", "fake_{0}_classes:Merger", "merges tokens"),
                Kind("codebook", "fake_{0}_classes:Codebook", "gives codes")]
"""


def components(name: str) -> str:
    rows = {"Mean": "merger", "Lazy": "merger", "Codes": "codebook", "Whole": "head"}
    return "\n".join(f"'{kind}', '{row}', 'fake_{name}_classes:{row}', 's'" for row, kind in rows.items())


@pytest.fixture
def site(tmp_path, monkeypatch):
    """`site(namespace, source, files)` installs a distribution that only this test sees."""
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.delenv("TOOLBOX_PLUGINS", raising=False)
    before = set(sys.modules)
    old = swap_catalog(None)

    def install(namespace, source, files=None):
        fake.install(tmp_path, f"{namespace}-dist", namespace, source, files=files)
        swap_catalog(None)

    yield install
    swap_catalog(old)
    for name in set(sys.modules) - before:
        if name.startswith("fake_"):
            del sys.modules[name]


def install_kinds(site, name="house", declared=KINDS, rows=None):
    files = {f"fake_{name}_classes.py": CLASSES.format(name)}
    site(name, fake.module(components(name) if rows is None else rows, declared.format(name)), files)


def plugin_of(namespace: str):
    return next(plugin for plugin in discover()[0] if plugin.namespace == namespace)


def message(function, *arguments, **options) -> str:
    with pytest.raises(ToolboxError) as info:
        function(*arguments, **options)
    return str(info.value)


def listed(capsys, *arguments):
    code = main(list(arguments))
    return code, capsys.readouterr().out


def test_a_slot_of_a_plugins_kind_is_known_checked_and_built(site, capsys):
    install_kinds(site)
    whole = {
        p.name: (p.kind_of_component, p.container)
        for p in read_parameters(get_catalog().resolve("house.Whole", "head"))
    }
    assert whole == {
        "merger": ("merger", ""),
        "more": ("merger", "list"),
        "named": ("merger", "dict"),
        "codes": ("codebook", ""),
        "options": (None, ""),
        "loss": ("loss", ""),
    }
    mean = dict(type="house.Mean", weight=2.0)
    recipe = dict(
        type="house.Whole",
        merger=mean,
        more=[mean, mean],
        named=dict(a=mean),
        codes=dict(type="house.Codes"),
        options=dict(type="house.Mean"),
    )
    got = build(recipe, "head").got
    assert (got["merger"].weight, len(got["more"]), got["named"]["a"].weight) == (2.0, 2, 2.0)
    assert type(got["codes"]).__name__ == "Codes"
    assert got["options"] == dict(type="house.Mean"), "a dict is wanted there"

    def fails(**changed):
        return message(build, recipe | changed, "head", where="model.head")

    assert fails(merger=dict(mean, weight=-1)) == "model.head.merger: weight=-1 must be positive"
    assert "Did you mean 'weight'?" in fails(merger=dict(type="house.Mean", wieght=1))
    text = fails(merger=dict(type="core.AdamW"))
    assert "'core.AdamW' is an optimizer, and model.head.merger expects a merger." in text
    assert "house.Mean" in text
    assert "does not implement merge" in fails(merger=dict(type="house.Lazy"))
    assert "is a merger, and a head is expected here" in message(get_catalog().get, "house.Mean", "head")

    code, out = listed(capsys, "--kind", "merger")
    assert (code, [line.split()[:2] for line in out.splitlines()]) == (
        0,
        [["merger", "house.Lazy"], ["merger", "house.Mean"]],
    )
    assert "merger=dict(type='house.Mean')" in listed(capsys, "house.Mean")[1]
    assert "weight: float = 1.0" in listed(capsys, "mean")[1]
    assert "Did you mean 'merger'?" in message(get_catalog().find, "mergr")
    record = json.loads(listed(capsys, "--json")[1])
    assert next(kind for kind in record["kinds"] if kind["namespace"] != "core") == {
        "name": "merger",
        "target": "fake_house_classes:Merger",
        "summary": "merges tokens",
        "namespace": "house",
    }


def test_validation_knows_the_kinds_of_plugins(site):
    from toolbox.config import validate

    install_kinds(site)
    recipe = dict(model=dict(type="retrieval.Embedder", head=dict(type="house.Whole", merger=dict(type="house.Means"))))
    texts = [str(problem) for problem in validate(recipe) if "merger" in problem.where]
    assert len(texts) == 1
    assert texts[0].startswith("model.head.merger.type: ")
    assert "Did you mean 'house.Mean'?" in texts[0]
    recipe["model"]["head"]["merger"] = None
    assert "model.head.merger: It must not be None. Mergers: house.Lazy, house.Mean." in map(str, validate(recipe))


def test_a_kind_is_known_under_another_name_too(site):
    """A class that `api` passes on, and an annotation that exists for type checkers alone."""
    package = Path(sys.path[0]) / "fake_package"
    package.mkdir()
    for file, text in {
        "__init__": "",
        "api": "from fake_package.deep import Merger",
        "deep": "class Merger: ...\nclass Whole:\n    def __init__(self, merger: Merger): ...",
    }.items():
        (package / f"{file}.py").write_text(text)
    declared = "from toolbox.plugin import Kind\n@hookimpl\n"
    declared += "def toolbox_kinds(): return [Kind('merger', 'fake_package.api:Merger', 's')]"
    site("house", fake.module("", declared))
    from fake_package.deep import Whole

    assert "fake_package.api" not in sys.modules
    assert read_parameters(Whole)[0].kind_of_component == "merger"
    (Path(sys.path[0]) / "fake_late.py").write_text(
        "from __future__ import annotations\nclass Late:\n  def __init__(self, merger: Merger | None = None): ..."
    )
    from fake_late import Late

    assert read_parameters(Late)[0].kind_of_component == "merger"


class Settings(TypedDict):
    type: str


@pytest.mark.parametrize(
    ("annotation", "refused"),
    [
        (Path, True),
        (Path | None, True),
        (list[Path], True),
        (dict[str, Path], True),
        ("Elsewhere | None", True),
        (dict, False),
        (dict[str, Any], False),
        (Settings, False),
        (Any, False),
        ("dict[str, Elsewhere]", False),
        (int | None, False),
        (str, False),
        (Literal["a"], False),
        (inspect.Parameter.empty, False),
    ],
)
def test_a_component_for_an_argument_that_takes_none(annotation, refused):
    parameter = Parameter("slot", annotation, None, False)
    component = {"type": "house.Mean"}
    values = [component, [component], {"a": component}] if typing.get_origin(annotation) else [component]
    for value in values:
        assert bool(check_plain(value, parameter, "model.slot")) == refused
    for value in ({"type": "plain"}, {"a": 1}, "house.Mean", None, [1]):
        assert check_plain(value, parameter, "model.slot") == []


def test_a_dict_without_type_means_the_default_of_its_kind(site):
    from toolbox.config import validate

    rows = components("house").replace("'fake_house_classes:Mean', 's'", "'fake_house_classes:Mean', 's', default=True")
    install_kinds(site, rows=rows)
    recipe = dict(type="house.Whole", merger=dict(weight=3.0))
    assert build(recipe, "head").got["merger"].weight == 3.0
    wrong = recipe | dict(merger=dict(weigth=3.0), codes=dict(size=1))
    texts = [str(problem) for problem in validate(dict(model=dict(type="retrieval.Embedder", head=wrong)))]
    assert any(text.startswith("model.head.merger.weigth: house.Mean has no argument 'weigth'.") for text in texts)
    assert any(text.startswith("model.head.codes: The 'type' of this codebook is missing.") for text in texts)


@pytest.mark.parametrize(
    ("rows", "expected"),
    [
        ("'merger', 'A', 'm:A', 's', default=True\n'merger', 'B', 'm:B', 's', default=True", "'A' and 'B' are both"),
        ("'loss', 'L', 'm:L', 's', default=True", "the default of the kind 'loss', which belongs to another plugin"),
    ],
)
def test_a_default_that_is_none(site, rows, expected):
    install_kinds(site, rows=rows)
    assert plugin_of("house").state == "broken"
    assert expected in plugin_of("house").reason


@pytest.mark.parametrize("name", ["loss", "backbone"])
def test_a_kind_of_the_core_belongs_to_it(site, name):
    install_kinds(site, declared=KINDS.replace('"merger"', f'"{name}"'), rows="'loss', 'L', 'm:L', 's'")
    site("other", fake.module("'loss', 'L', 'm:L', 's'"))
    bad = plugin_of("house")
    assert (bad.state, bad.components, bad.kinds) == ("broken", (), ())
    assert f"kind '{name}' is one of the toolbox's own" in bad.reason
    assert get_catalog().get("other.L", "loss")
    assert get_catalog().resolve("core.AdamW", "optimizer")


def test_two_owners_of_a_kind_are_both_named(site, capsys, monkeypatch):
    install_kinds(site)
    install_kinds(site, "rival", KINDS.partition(",\n")[0] + "]")
    for name in ("house", "rival"):
        text = message(build, dict(type=f"{name}.Mean"), "merger", where="model.merger")
        assert text.startswith("model.merger: the kind 'merger' is declared by house-dist 1.0 ")
        assert " and by rival-dist 1.0 " in text
        assert "TOOLBOX_PLUGINS=-rival" in text
        slot = dict(type=f"{name}.Whole", merger=dict(type=f"{name}.Mean"))
        assert "model.head.merger: the kind 'merger' is declared by" in message(build, slot, where="model.head")
    assert "is declared by" in message(get_catalog().find, "merger")
    assert build(dict(type="house.Codes"), "codebook"), "its other kind is usable"
    code, out = listed(capsys)
    [line] = [line for line in out.splitlines() if line.startswith("conflict")]
    assert code == 0
    assert "kind merger  the kind 'merger' is declared by house-dist" in line
    assert listed(capsys, "--strict")[0] == 1
    monkeypatch.setenv("TOOLBOX_PLUGINS", "-rival")
    get_catalog(refresh=True)
    assert build(dict(type="house.Mean"), "merger").weight == 1.0


def test_a_component_of_a_kind_that_a_later_local_plugin_declares(site, tmp_path):
    from toolbox.registry import add_local

    (tmp_path / "fake_user.py").write_text(fake.module(components("house")))
    (tmp_path / "fake_house_classes.py").write_text(CLASSES.format("house").replace("\n    ", "\n"))
    (tmp_path / "fake_owner.py").write_text(fake.module("", KINDS.format("house")))
    [alone] = add_local([str(tmp_path / "fake_user.py")])
    assert "unknown kind 'merger'" in alone.reason
    assert add_local([str(tmp_path / "fake_owner.py")])[0].error is None
    assert build(dict(type="fake_user.Mean"), "merger").weight == 1.0


def test_a_slot_of_a_kind_whose_plugin_is_switched_off_or_says_nothing(site, monkeypatch):
    files = {"fake_user_classes.py": "from fake_house_classes import *\nfrom fake_house_classes import Whole as Own"}
    install_kinds(site, rows="'merger', 'Mean', 'fake_house_classes:Mean', 's'")
    site("user", fake.module("'head', 'Own', 'fake_user_classes:Own', 's'"), files)
    recipe = dict(type="user.Own", merger=dict(type="house.Mean"))
    assert build(recipe, "head")
    plugin = plugin_of("house")
    monkeypatch.setenv("TOOLBOX_PLUGINS", "-house")
    # The plugin's module and its classes are files beside each other here; in a package they share its name.
    off = next(p for p in discover()[0] if p.namespace == "house")
    assert off.module_name == plugin.module_name
    get_catalog(refresh=True)
    text = message(build, recipe, "head", where="model.head")
    assert text.startswith("model.head.merger: a component is given, and no usable plugin declares Merger as a kind")
    monkeypatch.setattr(sys.modules["fake_house_classes"].Merger, "__module__", plugin.module_name)
    text = message(build, recipe, "head", where="model.head")
    assert "The plugin 'house' of house-dist 1.0 " in text
    assert "switched off by TOOLBOX_PLUGINS=-house" in text


@pytest.mark.parametrize(
    ("declared", "expected"),
    [
        ("Kind('Merger', 'm:M', 's')", "its name is lower case: 'merger'"),
        ("Kind('merger', 'm.M', 's')", "target must be 'module:Class'"),
        ("Kind('mer-ger', 'm:M', 's')", "one plain word"),
        ("Kind('merger', 'm:M', 's'), Kind('merger', 'm:N', 's')", "declared twice"),
        ("'merger'", "no toolbox.plugin.Kind"),
    ],
)
def test_a_kind_that_is_no_kind(site, declared, expected):
    hook = f"from toolbox.plugin import Kind\n@hookimpl\ndef toolbox_kinds(): return [{declared}]"
    site("bad", fake.module("", hook))
    assert plugin_of("bad").state == "broken"
    assert expected in plugin_of("bad").reason


@pytest.mark.parametrize(
    ("target", "expected"), [("no_such_x:M", "No module named 'no_such_x'"), ("json:dumps", "json:dumps is no class")]
)
def test_a_kind_that_cannot_be_imported(site, target, expected):
    hook = f"from toolbox.plugin import Kind\n@hookimpl\ndef toolbox_kinds(): return [Kind('merger', '{target}', 's')]"
    site("bad", fake.module("'merger', 'M', 'json:JSONDecoder', 's'\n'loss', 'L', 'm:L', 's'", hook))
    text = message(get_catalog().resolve, "bad.M", where="model.merger")
    assert text.startswith("model.merger: the kind 'merger' of bad-dist 1.0 ")
    assert expected in text
    assert get_catalog().get("bad.L")
    with pytest.raises(AssertionError, match="merger"):
        check_plugin("bad")


COMMANDS = """
    from toolbox.plugin import Command
    @hookimpl
    def toolbox_commands():
        return [Command({0!r}, {1!r}, 'counts'), Command('fine', 'fake_fine:run', 'works')]
"""
FINE = "def run(argv):\n    print('ran', *argv)\n    return len(argv)"


def format_install_command(site, namespace, name="count", target="fake_fine:run", files=None):
    source = fake.module("'loss', 'L', 'm:L', 's'", COMMANDS.format(name, target).replace("'fine'", f"'{namespace}'"))
    site(namespace, source, {"fake_fine.py": FINE} | (files or {}))


def test_a_command_runs_and_costs_nothing_before(site, capsys):
    format_install_command(site, "acme")
    names = [(command.name, command.state) for command in get_catalog().commands()]
    assert names[0][0] == "train"
    assert {("acme", "ready"), ("count", "ready")} <= set(names)
    assert "fake_fine" not in sys.modules
    command = get_catalog().command("count")
    assert (command.summary, command.plugin.namespace) == ("counts", "acme")
    assert command.load()(["a", "b"]) == 2
    assert capsys.readouterr().out == "ran a b\n"
    assert "Did you mean 'count'?" in message(get_catalog().command, "cuont")
    record = json.loads(listed(capsys, "--json")[1])
    assert {
        "name": "count",
        "target": "fake_fine:run",
        "summary": "counts",
        "namespace": "acme",
        "state": "ready",
        "error": "",
    } in record["commands"]


def test_two_owners_of_a_command_are_both_named_and_neither_runs(site, capsys):
    format_install_command(site, "acme")
    format_install_command(site, "rival")
    text = message(get_catalog().command, "count")
    assert text.startswith("the command 'count' is declared by acme-dist 1.0 ")
    assert " and by rival-dist 1.0 " in text
    for command in get_catalog().commands():
        if command.name == "count":
            assert command.state == "conflict"
            assert message(command.load) == text
    assert get_catalog().command("acme").load()([]) == 0, "their other commands run"
    assert get_catalog().get("rival.L", "loss")
    lines = [line for line in listed(capsys)[1].splitlines() if line.startswith("conflict")]
    assert len(lines) == 2
    assert all("command count" in line for line in lines)
    assert listed(capsys, "--strict")[0] == 1


def test_a_command_of_the_core_stays_its_own(site, capsys):
    format_install_command(site, "acme", "train")
    assert get_catalog().command("train").target == "toolbox.cli.train:main"
    [taken] = [command for command in get_catalog().commands() if command.name == "train" and command.error]
    assert "belongs to the toolbox; it is declared by acme-dist 1.0 " in message(taken.load)
    assert get_catalog().command("acme").load()([]) == 0
    assert "conflict  command train" in listed(capsys)[1]


BROKEN = {
    "absent": ("fake_absent:run", "", "its module 'fake_absent' does not exist"),
    "syntax": ("fake_bad:run", "x = = 1", "SyntaxError"),
    "library": ("fake_bad:run", "import no_such_library", "imports 'no_such_library', which is not installed"),
    "from": ("fake_bad:run", "from no_such_library.deep import x", "imports 'no_such_library', which is not installed"),
}


@pytest.mark.parametrize("case", BROKEN)
def test_a_command_that_cannot_be_imported_is_listed_and_does_no_harm(site, capsys, case):
    target, source, expected = BROKEN[case]
    format_install_command(site, "acme", target=target, files={"fake_bad.py": source})
    code, out = listed(capsys)
    assert code == 0
    [line] = [line for line in out.splitlines() if line.startswith("broken")]
    assert "command count" in line
    assert expected in line
    assert "acme-dist 1.0" in line
    assert "the command 'count' of acme-dist 1.0 " in message(get_catalog().command, "count")
    assert expected in message(get_catalog().command, "count")
    assert get_catalog().command("acme").load()([]) == 0
    assert get_catalog().get("acme.L", "loss")
    assert listed(capsys, "--strict")[0] == 1


def test_what_only_an_import_shows_is_said_when_it_is_imported(site, capsys):
    format_install_command(site, "acme", files={"fake_fine.py": "def run(argv): return 0\n1 / 0"})
    assert listed(capsys)[0] == 0
    text = message(get_catalog().command("count").load)
    assert "of acme-dist 1.0 " in text
    assert "is broken: ZeroDivisionError" in text
    assert "fake_fine.py:2" in text
    with pytest.raises(AssertionError, match="ZeroDivisionError"):
        check_plugin("acme")
    code, out = listed(capsys, "--strict")
    assert code == 1
    assert "broken" in out
    assert "ZeroDivisionError" in out


def test_listing_commands_imports_none_of_them(tmp_path):
    code = (
        "import sys\nfrom toolbox.registry import get_catalog\n"
        "assert len(get_catalog().commands()) > 10\n"
        "print(*(m for m in sys.modules if m in ('torch', 'numpy') or m.startswith('toolbox.cli')))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == ""
