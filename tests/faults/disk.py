"""Counts every call that changes a folder on disk, and lets one of them fail half done."""

from __future__ import annotations

import io
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import safetensors.torch

from toolbox.engine.checkpoint import files

_CALLS = ("fsync", "rename", "replace", "mkdir", "symlink", "unlink", "rmdir", "chmod")


class Disk:
    """What this process does to a folder; its data workers are left alone.

    - `folder`: calls on paths elsewhere do not count.
    - `strike`: called with the number (from 1) and the name of each call, before it is done. What it raises is what
      the call raises; of what was to be written then one half is there. None only counts.
    """

    def __init__(self, folder: Path, strike: Callable[[int, str], None] | None = None) -> None:
        self.folder, self.strike = os.path.realpath(folder), strike
        self.calls: list[str] = []
        self._process = os.getpid()

    def patch(self, setattr: Callable[[Any, str, Any], None] = setattr) -> Disk:
        """Take the place of the functions; `setattr` may be that of pytest's monkeypatch."""
        for name in _CALLS:
            setattr(os, name, self._counted(name, getattr(os, name)))
        setattr(files, "exchange", self._counted("exchange", files.exchange))
        setattr(io, "open", self._open(io.open))
        setattr(safetensors.torch, "serialize_file", self._serialize(safetensors.torch.serialize_file))
        return self

    def _counted(self, name: str, original: Callable) -> Callable:
        def call(path, *arguments, **options):
            target = arguments[0] if name == "symlink" else path
            if self._is_inside(target, options.get("dir_fd")):
                self._note(name)
            return original(path, *arguments, **options)

        return call

    def _open(self, original: Callable) -> Callable:
        def open(path, mode="r", *arguments, **options):
            writes = set(mode) & set("wax") and self._is_inside(path)
            if writes:
                self._note("open")
            file = original(path, mode, *arguments, **options)
            if writes:
                write = file.write

                def half(text: Any) -> None:
                    write(text[: len(text) // 2])
                    file.flush()

                def noted(text: Any) -> int:
                    self._note("write", lambda: half(text))
                    return write(text)

                file.write = noted
            return file

        return open

    def _serialize(self, original: Callable) -> Callable:
        def serialize(tensors, path, *arguments, **options):
            def half() -> None:
                original(tensors, path, *arguments, **options)
                os.truncate(path, os.path.getsize(path) // 2)

            if self._is_inside(path):
                self._note("save_file", half)
            return original(tensors, path, *arguments, **options)

        return serialize

    def _note(self, name: str, half: Callable[[], None] = lambda: None) -> None:
        if os.getpid() != self._process:
            return
        self.calls.append(name)
        if self.strike is None:
            return
        try:
            self.strike(len(self.calls), name)
        except BaseException:
            half()
            raise

    def _is_inside(self, path: Any, folder: int | None = None) -> bool:
        if isinstance(path, int):
            path = os.readlink(f"/proc/self/fd/{path}")
        elif folder is not None:
            path = os.path.join(os.readlink(f"/proc/self/fd/{folder}"), path)
        parent, name = os.path.split(os.path.abspath(path))
        return f"{os.path.realpath(parent)}/{name}/".startswith(f"{self.folder}/")
