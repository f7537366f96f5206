"""A stand-in for an interpreter that has glmc: what it was asked for, and a toy artifact."""

from __future__ import annotations

import json
import shlex
import sys
from dataclasses import dataclass
from pathlib import Path

from tests.runtime.toy import write_toy

_PROGRAM = """
import json, os, shutil, sys, time
here = os.path.dirname(os.path.abspath(__file__))
words = sys.argv[1:]
model, output = words[3], words[words.index("--output") + 1]
with open(os.path.join(here, "calls"), "a") as file:
    file.write(json.dumps({
        "words": words,
        "files": sorted(os.listdir(model)),
        "path": os.environ.get("PYTHONPATH"),
        "devices": os.environ.get("CUDA_VISIBLE_DEVICES"),
        "rank": os.environ.get("RANK"),
    }) + "\\n")
if os.path.exists(os.path.join(here, "says")):
    sys.stderr.write(open(os.path.join(here, "says")).read())
    sys.exit(2)
there = os.path.exists(output)
if not there:
    time.sleep(0.2)
    shutil.copytree(os.path.join(here, "toy"), output)
print(json.dumps({"artifact": output, **({"up_to_date": True} if there else {})}))
"""


@dataclass(frozen=True)
class StandIn:
    """``command`` is what GLMC_COMPILER would be."""

    folder: Path

    @property
    def command(self) -> str:
        return shlex.join([sys.executable, str(self.folder / "compiler.py")])

    @property
    def calls(self) -> list[dict[str, object]]:
        file = self.folder / "calls"
        return [json.loads(line) for line in file.read_text().splitlines()] if file.exists() else []

    def fail(self, text: str) -> None:
        """Every compile fails from now on, with this text."""
        (self.folder / "says").write_text(text)


def stand_in(folder: Path) -> StandIn:
    folder.mkdir()
    (folder / "compiler.py").write_text(_PROGRAM)
    write_toy(folder / "toy")
    return StandIn(folder)
