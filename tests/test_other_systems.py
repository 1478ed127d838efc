"""Systems and disks that lack something: file locks, symbolic links, modules that only Unix has."""

from __future__ import annotations

import errno
import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import toolbox
from toolbox.base import locks
from toolbox.base.files import resolve_run_link
from toolbox.engine.checkpoint import checkpoint as checkpoints
from toolbox.engine.checkpoint import files, run_folder
from toolbox.errors import ToolboxError
from toolbox.feature_cache.writer import Writer, is_being_written

HERE = Path(__file__).parent
QUICK = [
    "train_cfg.max_steps=4",
    "train_cfg.val_interval=2",
    "default_hooks.checkpoint.interval=2",
    "evaluate_before=False",
]


# ---- locks


@pytest.mark.parametrize("code", ["ENOSYS", "EOPNOTSUPP", "ENOTSUP", "ENOLCK", "EINVAL", "EBADF"])
def test_a_disk_without_locks_is_warned_of_and_used(tmp_path, monkeypatch, code):
    def refuse(*_):
        raise OSError(getattr(errno, code), os.strerror(getattr(errno, code)))

    monkeypatch.setattr("fcntl.flock", refuse)
    said = []
    with run_folder.lock(tmp_path / "run", said.append):
        pass
    with Writer(tmp_path / "store", {}, None).alone(lambda: 1 / 0, said.append):
        assert not is_being_written(tmp_path / "store")
    assert [text.split(" cannot be locked")[0] for text in said] == [str(tmp_path / "run"), str(tmp_path / "store")]


@pytest.mark.parametrize("code", ["EAGAIN", "EWOULDBLOCK", "EACCES"])
def test_a_lock_that_another_process_holds_is_respected(tmp_path, monkeypatch, code):
    def held(file, how):
        if how & 4:  # LOCK_NB
            raise OSError(getattr(errno, code), os.strerror(getattr(errno, code)))

    monkeypatch.setattr("fcntl.flock", held)
    with pytest.raises(ToolboxError, match="A run is going on in"):
        run_folder.lock(tmp_path / "run", lambda text: 1 / 0)
    waited = []
    with Writer(tmp_path / "store", {}, None).alone(lambda: waited.append(1), lambda text: 1 / 0):
        assert waited == [1]
        assert is_being_written(tmp_path / "store")


def test_two_runs_in_one_folder_are_kept_apart(tmp_path):
    with run_folder.lock(tmp_path, lambda text: 1 / 0), pytest.raises(ToolboxError, match=f"process {os.getpid()}"):
        run_folder.lock(tmp_path)


def test_a_system_without_locks_gives_none(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "fcntl", None)
    with (tmp_path / "file").open("w") as file:
        assert locks.try_lock(file) is None


# ---- links

NO_LINKS = {
    "not permitted": OSError(errno.EPERM, "Operation not permitted"),
    "not supported": OSError(errno.EOPNOTSUPP, "Operation not supported"),
    "not implemented": OSError(errno.ENOSYS, "Function not implemented"),
    "privilege": OSError(22, "A required privilege is not held by the client"),
    "no such function": NotImplementedError("os.symlink() not available on this system"),
}


@pytest.fixture
def no_links(monkeypatch):
    def install(error=NO_LINKS["not permitted"]):
        def refuse(*_, **__):
            raise error

        monkeypatch.setattr(os, "symlink", refuse)

    return install


@pytest.mark.parametrize("error", NO_LINKS.values(), ids=NO_LINKS)
def test_a_file_with_the_name_stands_for_a_link(tmp_path, no_links, error):
    for name in ("checkpoint-1", "checkpoint-2"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "manifest.json").write_text("{}")
    no_links(error)
    for name in ("checkpoint-1", "checkpoint-2"):
        files.point(tmp_path / "last", tmp_path / name)
        assert (tmp_path / "last").read_text() == f"{name}\n"
        assert resolve_run_link(tmp_path / "last") == tmp_path / name
    assert sorted(path.name for path in tmp_path.iterdir()) == ["checkpoint-1", "checkpoint-2", "last"]


def test_a_link_may_take_the_place_of_the_file_and_the_reverse(tmp_path, monkeypatch, no_links):
    for name in ("checkpoint-1", "checkpoint-2"):
        (tmp_path / name).mkdir()
    files.point(tmp_path / "best", tmp_path / "checkpoint-1")
    with monkeypatch.context():
        no_links()
        files.point(tmp_path / "best", tmp_path / "checkpoint-2")
    assert resolve_run_link(tmp_path / "best").name == "checkpoint-2"
    monkeypatch.undo()
    files.point(tmp_path / "best", tmp_path / "checkpoint-1")
    assert os.readlink(tmp_path / "best") == "checkpoint-1"


def test_a_full_disk_is_still_said(tmp_path, no_links):
    no_links(OSError(errno.ENOSPC, "No space left on device"))
    with pytest.raises(ToolboxError, match="No space left on device"):
        files.point(tmp_path / "last", tmp_path / "checkpoint-1")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("text", ["", "../elsewhere", "/etc", "nothing", "\0", "a" * 300, "checkpoint-1/inner"])
def test_only_the_name_of_a_folder_beside_it_is_followed(tmp_path, text):
    (tmp_path / "run" / "checkpoint-1" / "inner").mkdir(parents=True)
    (tmp_path / "elsewhere").mkdir()
    path = tmp_path / "run" / "best"
    path.write_text(text)
    assert resolve_run_link(path) == path


def test_a_whole_run_needs_no_links(toy, no_links):
    no_links()
    keep = ["default_hooks.checkpoint.max_keep_ckpts=1"]
    results = toolbox.train(toy(QUICK + keep), out="run")
    assert Path("run/last").read_text() == "checkpoint-4\n"
    best = results["best"]["step"]
    assert Path("run/best").read_text() == f"checkpoint-{best}\n"
    image = Image.fromarray(np.zeros((20, 20, 3), dtype=np.uint8))
    found = [toolbox.load(path, device="cpu").encode_image([image]) for path in ("run", "run/best", "run/last")]
    assert found[0].equal(found[1])
    assert checkpoints.read("run/last").step == 4
    assert toolbox.train(toy([*QUICK, *keep, "train_cfg.max_steps=6"]), out="run", resume=True)["steps"] == 6
    assert Path("run/last").read_text() == "checkpoint-6\n"
    assert toolbox.train(toy([*QUICK, "load_from=run/best"]), out="next")["steps"] == 4
    assert toolbox.train(toy(QUICK), out="run", overwrite=True)["steps"] == 4  # old ones are cleared
    assert {path.name for path in Path("run").glob("checkpoint-*")} == {"checkpoint-2", "checkpoint-4"}
    shutil.rmtree("run/checkpoint-4")
    with pytest.raises(ToolboxError, match="run/last"):
        checkpoints.read("run/last")


# ---- modules and functions that Unix alone has

UNIX_ONLY = """
import os, random, signal, sys
import torch, transformers  # their own use of the system is their business
for name in ("fcntl", "resource", "pwd", "grp", "termios"):
    sys.modules[name] = None  # an import of it fails
for module, names in ((os, ("register_at_fork", "statvfs", "sched_getaffinity")), (signal, ("SIGCHLD", "SIGHUP"))):
    for name in names:
        delattr(module, name)
def refuse(*_, **__):
    raise NotImplementedError("no links")
os.symlink = refuse
"""
WORK = """
import pathlib
import numpy as np
from PIL import Image
import toolbox, toolbox.cli.embed, toolbox.cli.train, toolbox.cli.test, toolbox.cli.compare
import toolbox_classification.commands.predict
from toolbox.config import load_config
from toolbox.registry import add_local
add_local([sys.argv[1] + "/toy_plugin.py"])
Image.fromarray(np.zeros((20, 20, 3), dtype=np.uint8)).save("black.png")
recipe = load_config(sys.argv[1] + "/toy_recipe.py", ["train_cfg.max_steps=2", "evaluate_before=False"])
toolbox.train(recipe, out="run", device="cpu")
print(tuple(toolbox.load("run", device="cpu").encode_image(["black.png"]).shape))
sys.exit(toolbox.cli.embed.main(["run", ".", "e.npz", "--device", "cpu", "--num-workers", "0"]))
"""


def test_nothing_needs_what_only_unix_has(tmp_path):
    done = subprocess.run(
        [sys.executable, "-c", UNIX_ONLY + WORK, str(HERE)],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=300,
        env={**os.environ, "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"},
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert "(1, 8)" in done.stdout
    assert "cannot be locked" in done.stdout + done.stderr
    assert (tmp_path / "e.npz").is_file()
