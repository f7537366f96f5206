"""The tests of an adapter inside another release than the installed one."""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
import xml.etree.ElementTree as ElementTree
from collections.abc import Sequence
from pathlib import Path

from glmc.errors import UsageError
from glmc_engines.surface.engines import Spec
from tools.engine_releases.overlay import beside, lay
from tools.engine_releases.records import Ran, Record

ROOT = Path(__file__).resolve().parents[2]
_LIMIT = 1800.0  # seconds for a file of tests


def run_tests(spec: Spec, engines: Path, wheels: Path, only: Sequence[str] = ()) -> Record:
    """Run the files of tests, or those that are named, a process for each.

    A release that has an environment of its own, ``ENGINE-VERSION``, is run there; any other is
    laid over the engine's environment by ``PYTHONPATH``.
    """
    files = files_of(spec.name, only)
    own = engines / f"{spec.name}-{spec.version}" / "bin" / "python"
    python = own if own.is_file() else engines / spec.name / "bin" / "python"
    if not python.is_file():
        raise UsageError(
            f"there is no environment for {spec.name}",
            place=str(python.parent.parent),
            remedy=f"make engines-{spec.name}",
        )
    with tempfile.TemporaryDirectory(dir=engines) as folder:
        over, report = Path(folder) / "release", Path(folder) / "report.xml"
        over.mkdir()
        if python != own:
            lay(python, spec, wheels, over)
        paths = [str(over), str(ROOT / "runtime"), str(ROOT), os.environ.get("PYTHONPATH", "")]
        environment = {
            **os.environ,
            "PYTHONPATH": os.pathsep.join(filter(None, paths)),
            "GLMC_COMPILER": sys.executable,
        }
        command = [str(python), "-m", "pytest", "-n", "0", "-m", "engines"]
        command += ["--confcutdir=tests/engines", f"--junitxml={report}"]
        parts = []
        for file in files:
            report.unlink(missing_ok=True)
            # What a file of tests leaves running would otherwise hold the next one.
            try:
                subprocess.run(
                    [*command, str(file)], cwd=ROOT, env=environment, check=False, timeout=_LIMIT
                )
            except subprocess.TimeoutExpired:
                report.unlink(missing_ok=True)
            parts.append(read_report(report) if report.is_file() else Ran(0, 0, (_ended(file),)))
        names = tuple(file.stem for file in files) if only else ()
        return Record(spec.name, spec.version, ran=total(parts, names, beside(python, over)))


def files_of(engine: str, only: Sequence[str] = ()) -> list[Path]:
    """The files of tests of an engine's adapter, or those of these names."""
    files = {
        file.stem: file for file in sorted((ROOT / "tests/engines" / engine).glob("test_*.py"))
    }
    unknown = [name for name in only if name not in files]
    if unknown:
        raise UsageError(
            f"the tests of {engine} have no file {unknown[0]}.py",
            expected=", ".join(files),
            remedy="name files of tests/engines without their suffix",
        )
    return [files[name] for name in only or files]


def total(parts: Sequence[Ran], files: tuple[str, ...], around: tuple[str, ...]) -> Ran:
    """The sum of the counts of several files."""
    return Ran(
        sum(each.passed for each in parts),
        sum(each.skipped for each in parts),
        tuple(name for each in parts for name in each.failed),
        files,
        around,
    )


def read_report(file: Path) -> Ran:
    """The counts of a report that pytest wrote in the format of JUnit; of what failed, the name and
    the first line of the cause."""
    passed, skipped, failed = 0, 0, []
    for case in ElementTree.parse(file).iter("testcase"):
        problem = case.find("failure")
        problem = case.find("error") if problem is None else problem
        if problem is not None:
            name = f"{case.get('classname', '')}.{case.get('name', '')}".lstrip(".")
            cause = (problem.get("message") or "").strip().split("\n")[0].strip()
            failed.append(f"{name}: {cause}" if cause else name)
        elif case.find("skipped") is not None:
            skipped += 1
        else:
            passed += 1
    return Ran(passed, skipped, tuple(failed))


def _ended(file: Path) -> str:
    return f"{file.relative_to(ROOT).with_suffix('').as_posix().replace('/', '.')}: did not end"
