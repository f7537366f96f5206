"""Virtual environments in which the commands of a page are run, word for word.

An environment is made without the network and in a blink: it sees the packages of the tests' own
one through a ``.pth`` file, so what a page installs finds its dependencies there. ``pip`` is the
real one, told by its own variables to ask no index and to build with the setuptools that is there;
both only leave out downloads. From nothing, with an index, ``make demo`` sets one up.

``glmc``, ``glmc-runtime`` and ``pytest`` run in a fork of the test's process, without the seconds
of their imports and with what was captured before; everything else is a process of its own.
"""

from __future__ import annotations

import os
import shlex
import site
import subprocess
import sys
import sysconfig
import venv
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.metadata import entry_points
from pathlib import Path

import pytest

from tests.docs.markdown import ROOT
from tests.support.command import Outcome
from tests.support.forked import in_a_fork

_IN_A_FORK = ("glmc", "glmc-runtime", "pytest")
# pip reads an option that begins with "no" the other way round: 0 is --no-build-isolation.
_OFFLINE = {
    "PIP_NO_INDEX": "1",
    "PIP_NO_BUILD_ISOLATION": "0",
    "PIP_DISABLE_PIP_VERSION_CHECK": "1",
}


@dataclass(frozen=True)
class Environment:
    """``folder`` is a virtual environment, activated in ``directory``, where commands are run."""

    folder: Path
    directory: Path

    @property
    def packages(self) -> Path:
        """Where pip installs to."""
        paths = {"base": str(self.folder), "platbase": str(self.folder)}
        return Path(sysconfig.get_path("purelib", "venv", paths))

    def run(self, command: str) -> Outcome:
        """Run ``command`` as a shell in which the environment is activated would."""
        program, *arguments = shlex.split(command)
        if program in _IN_A_FORK:
            return self._fork(program, arguments)
        executables = self.folder / "bin"
        done = subprocess.run(
            [str(executables / program), *arguments],
            cwd=self.directory,
            env={**os.environ, **_OFFLINE, "PYTHONPATH": f"{ROOT}{os.pathsep}{ROOT / 'runtime'}"},
            capture_output=True,
            text=True,
            timeout=300,
        )
        return Outcome(done.returncode, done.stdout, done.stderr)

    def _fork(self, program: str, arguments: list[str]) -> Outcome:
        def main() -> int:
            os.chdir(self.directory)
            site.addsitedir(str(self.packages))
            sys.argv = [program, *arguments]
            status = _main_of(program)()
            sys.stdout.flush()
            return status

        output = self.folder / "output"
        with output.open("w") as stream:
            status, err = in_a_fork(main, stream.fileno())
        return Outcome(status, output.read_text(encoding="utf-8"), err)

    @contextmanager
    def activated(self) -> Iterator[None]:
        """This process sees what the environment has, until the end of the block."""
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(sys, "path", sys.path.copy())
            patch.setattr(sys, "meta_path", sys.meta_path.copy())
            patch.setattr(sys, "path_hooks", sys.path_hooks.copy())
            site.addsitedir(str(self.packages))
            yield


def _main_of(program: str) -> Callable[[], int]:
    """The function behind a console script of the tests' own environment."""
    point, *_ = entry_points(group="console_scripts", name=program)
    main: Callable[[], int] = point.load()
    return main


def make_environment(folder: Path, directory: Path) -> Environment:
    """A new environment in ``folder`` that sees the packages of the tests' own."""
    environment = Environment(folder, directory)
    venv.create(folder, symlinks=True)
    ours = sysconfig.get_path("purelib")
    (environment.packages / "tests.pth").write_text(f"import site; site.addsitedir({ours!r})\n")
    pip = folder / "bin" / "pip"
    pip.write_text(
        f"#!{folder / 'bin' / 'python'}\nimport sys\nfrom pip._internal.cli.main import main\n"
        "sys.exit(main())\n"
    )
    pip.chmod(0o755)
    return environment
