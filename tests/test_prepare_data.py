"""tools/prepare_data.py: names, flags from signatures, exit codes."""

from __future__ import annotations

import ast
import importlib
from pathlib import Path
from typing import Literal

import pytest

from toolbox.base import Dataset
from toolbox.cli import prepare_data
from toolbox.cli.prepare_data import find_dataset, main, make_dataset_parser
from toolbox.errors import ToolboxError

TOOL = Path(__file__).parent.parent / "tools" / "prepare_data.py"


class Toy(Dataset):
    """Records what `prepare` was given."""

    def __len__(self):
        return 0

    def __getitem__(self, index):
        raise IndexError(index)

    @classmethod
    def prepare(
        cls,
        out: str,
        *,
        mode: Literal["a", "b"] = "a",
        level: Literal[1, 2] = 1,
        image_size: int = 48,
        share: float | None = None,
        names: list[str] | None = None,
        flip: bool = False,
        fail: Literal["", "os", "value", "interrupt"] = "",
    ) -> str:
        """Make toys.

        - `out`: where 100% of them go,
          on two lines.
        - `mode`: which kind.

        Raises at will.
        """
        if fail:
            raise {"os": OSError, "value": ValueError, "interrupt": KeyboardInterrupt}[fail](f"failed with {fail}")
        return repr((out, mode, level, image_size, share, names, flip))


@pytest.fixture
def toys(monkeypatch):
    class Catalog:
        def resolve(self, fullname, kind):
            assert (fullname, kind) == ("toys.Toy", "dataset")
            return Toy

    monkeypatch.setattr(prepare_data, "find_dataset", lambda name: "toys.Toy")
    monkeypatch.setattr(prepare_data, "get_catalog", Catalog)


@pytest.mark.parametrize(
    ("name", "fullname"),
    [
        ("sop", "datasets.SOP"),
        ("SOP", "datasets.SOP"),
        ("datasets.sop", "datasets.SOP"),
        ("glyphs", "glyphs.Glyphs"),
        ("Glyphs.GLYPHS", "glyphs.Glyphs"),
        ("imagefolder", "datasets.ImageFolder"),
        ("inshop", "datasets.InShop"),
        ("cub", "datasets.CUB"),
        ("cars", "datasets.Cars"),
        ("records", "datasets.Records"),
        ("food101", "datasets.Food101"),
        ("cifar10", "datasets.CIFAR10"),
        ("imagenet", "datasets.ImageNet"),
        ("hf", "datasets.HF"),
    ],
)
def test_names(name, fullname):
    assert find_dataset(name) == fullname


@pytest.mark.parametrize(
    ("name", "expected"),
    [("glyhps", "glyphs.Glyphs"), ("datasets", r"datasets\.Cars,.* datasets\.SOP"), ("datasets.SPO", "datasets.SOP")],
)
def test_an_unknown_name_brings_the_nearest(name, expected):
    with pytest.raises(ToolboxError, match=expected):
        find_dataset(name)


def test_flags_come_from_the_signature(toys, capsys):
    arguments = [
        "toy",
        "--out",
        "x",
        "--mode",
        "b",
        "--level",
        "2",
        "--image-size",
        "8",
        "--share",
        "0.5",
        "--names",
        "p",
        "q",
        "--flip",
    ]
    assert main(arguments) == 0
    assert capsys.readouterr().out.strip() == repr(("x", "b", 2, 8, 0.5, ["p", "q"], True))
    assert main(["toy", "--out", "x"]) == 0
    assert capsys.readouterr().out.strip() == repr(("x", "a", 1, 48, None, None, False))


def test_help_is_the_docstring(capsys):
    text = " ".join(make_dataset_parser("toys.Toy", Toy.prepare).format_help().split())
    assert "Make toys." in text
    assert "where 100% of them go, on two lines." in text
    assert "which kind. (default: a)" in text
    assert "Raises at will" not in text
    assert "on two lines. (default" not in text


@pytest.mark.parametrize(
    ("arguments", "code"),
    [
        (["toy"], 2),
        (["toy", "--out", "x", "--mode", "c"], 2),
        (["toy", "--out", "x", "--mod", "b"], 2),
        (["toy", "--help"], 0),
        (["--out", "x"], 2),
        ([], 0),
        (["-h"], 0),
        (["toy", "--out", "x", "--fail", "os"], 2),
        (["toy", "--out", "x", "--fail", "value"], 2),
        (["toy", "--out", "x", "--fail", "interrupt"], 130),
    ],
)
def test_exit_codes(arguments, code, toys, monkeypatch, capsys):
    if not arguments or arguments == ["-h"]:
        monkeypatch.undo()
    assert main(arguments) == code
    printed = capsys.readouterr()
    assert "Traceback" not in printed.err
    assert bool(printed.err) == (code != 0)
    if "--fail" in arguments and code == 2:
        assert printed.err == f"failed with {arguments[-1]}\n"


def test_without_a_name_all_datasets_are_listed(capsys):
    main([])
    printed = capsys.readouterr().out
    assert all(name in printed for name in ("datasets.SOP", "datasets.ImageFolder", "glyphs.Glyphs"))


def test_a_parameter_that_cannot_be_a_flag_is_an_error_of_the_plugin():
    def prepare(out: str, *, table: dict[str, int] | None = None) -> str: ...

    with pytest.raises(ToolboxError, match=r"toys\.Toy\.prepare takes table"):
        make_dataset_parser("toys.Toy", prepare)


def test_glyphs_are_written_checked_and_refused(tmp_path, monkeypatch, capsys):
    module = importlib.import_module("toolbox_glyphs.glyphs")
    few = module.list_distinct_letters()[::40]
    monkeypatch.setattr(module, "list_distinct_letters", lambda: few)
    out = tmp_path / "glyphs"
    assert main(["glyphs", "--out", str(out), "--size", "8"]) == 0
    assert f"wrote {len(few) * 12} images" in capsys.readouterr().out
    assert main(["glyphs", "--out", str(out), "--size", "16"]) == 2
    assert "other options (size 8)" in capsys.readouterr().err
    assert main(["sop", "--out", str(out)]) == 0
    assert "readable, but not the published dataset" in capsys.readouterr().out


def test_the_script_ends_with_2_and_one_message(tmp_path, command):
    missing = command("prepare_data", "SOP", "--out", tmp_path / "none")
    assert "Traceback" not in missing.stderr
    assert missing.stderr.count("\n") == 1
    assert missing.returncode == 2
    assert "Download" in missing.stderr


def test_the_script_is_a_shim():
    source = TOOL.read_text()
    assert len(source.splitlines()) <= 15
    assert "python tools/prepare_data.py" in ast.get_docstring(ast.parse(source))
