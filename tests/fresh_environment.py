"""A virtual environment that holds the toolbox as its users get it: from wheels, offline, outside any checkout."""

from __future__ import annotations

import os
import subprocess
import sys
import sysconfig
from collections.abc import Sequence
from pathlib import Path

ROOT = Path(__file__).parents[1]


class FreshEnvironment:
    """An environment into which wheels of this checkout are installed by name, from a folder.

    Third-party packages are those of the environment that the tests run in; its editable installs are not seen.

    - `folder`: new or empty; the wheels go to its `dist`, and commands run in it.
    - `requirements`: what to install, such as "vision-encoder-toolbox[all]".
    - `others`: folders of further projects to build wheels of.
    """

    def __init__(self, folder: Path, requirements: Sequence[str], others: Sequence[Path] = ()) -> None:
        self.folder, self.wheels, self.bin = folder, folder / "dist", folder / "env" / "bin"
        here = Path(sys.executable).parent
        make = [
            "make",
            "--directory",
            ROOT,
            "--old-file",
            ".venv/.installed",
            "wheels",
            f"BIN={here}",
            f"WHEELS={self.wheels}",
        ]
        self._check(make)
        if others:
            build = [
                "pip",
                "wheel",
                "--quiet",
                "--no-deps",
                "--no-index",
                "--no-build-isolation",
                "--wheel-dir",
                self.wheels,
            ]
            self._check([sys.executable, "-m", *build, *others])
        self._check([sys.executable, "-m", "venv", "--without-pip", folder / "env"])
        self.site = Path(self.python("-c", "import sysconfig; print(sysconfig.get_path('purelib'))").strip())
        self._link_dependencies(folder / "dependencies")
        install = ["pip", "install", "--quiet", "--no-index", "--find-links", self.wheels, *requirements]
        self.python("-m", *install)

    def python(self, *arguments, **environment: str) -> str:
        """Standard output of the environment's Python; a failure fails the test with all that was printed."""
        return self.run(self.bin / "python", *arguments, **environment)

    def run(self, *command, **environment: str) -> str:
        """Standard output of a command, run in the folder with nothing of the tests' own environment for Python."""
        names = ("PYTHONPATH", "TOOLBOX_PLUGINS")
        inherited = {name: value for name, value in os.environ.items() if name not in names}
        settings = {"HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1", "PIP_DISABLE_PIP_VERSION_CHECK": "1"}
        return self._check(command, cwd=self.folder, env=inherited | settings | environment)

    def _link_dependencies(self, folder: Path) -> None:
        folder.mkdir()
        for path in Path(sysconfig.get_path("purelib")).iterdir():
            if not path.name.lower().startswith(("vision_encoder_toolbox", "_editable_impl", "toolbox")):
                (folder / path.name).symlink_to(path)
        (self.site / "dependencies.pth").write_text(f"{folder}\n")

    @staticmethod
    def _check(command, **options) -> str:
        done = subprocess.run([*map(str, command)], capture_output=True, text=True, **options)
        assert done.returncode == 0, f"{command}\n{done.stdout}\n{done.stderr}"
        return done.stdout
