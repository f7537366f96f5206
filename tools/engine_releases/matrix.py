"""The tests of an adapter inside another release than the installed one."""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
import xml.etree.ElementTree as ElementTree
from pathlib import Path

from glmc.errors import UsageError
from glmc_engines.surface.engines import Spec
from tools.engine_releases.records import Ran, Record

ROOT = Path(__file__).resolve().parents[2]


def run_tests(spec: Spec, engines: Path, wheels: Path) -> Record:
    """Run them in the engine's environment, over which the release is laid by ``PYTHONPATH``."""
    python = engines / spec.name / "bin" / "python"
    if not python.is_file():
        raise UsageError(
            f"there is no environment for {spec.name}",
            place=str(python.parent.parent),
            remedy=f"make engines-{spec.name}",
        )
    with tempfile.TemporaryDirectory(dir=engines) as folder:
        over, report = Path(folder) / "release", Path(folder) / "report.xml"
        _install(python, spec, wheels, over)
        environment = {
            **os.environ,
            "PYTHONPATH": os.pathsep.join([str(over), os.environ.get("PYTHONPATH", "")]),
            "GLMC_COMPILER": sys.executable,
        }
        command = [str(python), "-m", "pytest", "-n", "0", "-m", "engines"]
        command += ["--confcutdir=tests/engines", f"--junitxml={report}"]
        subprocess.run(
            [*command, f"tests/engines/{spec.name}"], cwd=ROOT, env=environment, check=False
        )
        if not report.is_file():
            raise UsageError(
                f"the tests inside {spec.name} {spec.version} did not end",
                remedy="look at what pytest printed",
            )
        return Record(spec.name, spec.version, ran=read_report(report))


def read_report(file: Path) -> Ran:
    """The counts of a report that pytest wrote in the format of JUnit."""
    passed, skipped, failed = 0, 0, []
    for case in ElementTree.parse(file).iter("testcase"):
        if case.find("failure") is not None or case.find("error") is not None:
            failed.append(f"{case.get('classname', '')}.{case.get('name', '')}".lstrip("."))
        elif case.find("skipped") is not None:
            skipped += 1
        else:
            passed += 1
    return Ran(passed, skipped, tuple(failed))


def _install(python: Path, spec: Spec, wheels: Path, folder: Path) -> None:
    built = sorted(wheels.glob(f"{spec.name}-{spec.version}-*.whl"))
    what = str(built[0]) if built else f"{spec.name}=={spec.version}"
    command = [str(python), "-m", "pip", "install", "--quiet", "--no-deps", "--target", str(folder)]
    subprocess.run([*command, what], check=True)
