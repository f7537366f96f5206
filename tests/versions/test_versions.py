"""Older transformers lead to the plans of the newest, and to Hugging Face's answers.

``make test-versions`` installs them beside each other and names their folders in
``GLMC_TRANSFORMERS``; each runs in a process of its own.
"""

from __future__ import annotations

import json
import math
import os
import subprocess
import sys
from copy import deepcopy
from pathlib import Path
from typing import Any

import pytest

from tests.versions.probe import PLACES, POINTS, probe

REPOSITORY = Path(__file__).parents[2]
OLDER = [Path(folder).resolve() for folder in os.environ.get("GLMC_TRANSFORMERS", "").split()]
# Before, scores in groups that were not chosen became 0 (5.5.4 still does), now they become -inf.
MINUS_INFINITY = (5, 8)

pytestmark = pytest.mark.versions


@pytest.fixture(scope="module")
def running(tmp_path_factory: pytest.TempPathFactory) -> dict[Path, tuple[Any, Path]]:
    """All older versions at work side by side: a process each, and the file that it writes."""
    started = {}
    for folder in OLDER:
        file = tmp_path_factory.mktemp("probe") / "found.json"
        paths = [str(folder), str(REPOSITORY), str(REPOSITORY / "runtime")]
        process = subprocess.Popen(
            [sys.executable, "-m", "tests.versions.probe", str(file)],
            env={**os.environ, "PYTHONPATH": os.pathsep.join(paths), "OMP_NUM_THREADS": "1"},
        )
        started[folder] = process, file
    return started


@pytest.fixture(scope="module")
def newest() -> dict[str, Any]:
    return json.loads(json.dumps(probe()))  # type: ignore[no-any-return]


@pytest.fixture(scope="module", params=OLDER, ids=lambda folder: folder.name)
def older(
    request: pytest.FixtureRequest, running: dict[Path, tuple[Any, Path]], newest: dict[str, Any]
) -> Any:
    """What the folder's transformers leads to; the folder is named after its version."""
    process, file = running[request.param]
    assert process.wait() == 0
    found = json.loads(file.read_text(encoding="utf-8"))
    assert found["transformers"] == request.param.name
    return found


def test_older_versions_are_named() -> None:
    assert OLDER, "GLMC_TRANSFORMERS names no folder: run make test-versions"


@pytest.mark.parametrize("point", POINTS, ids=lambda point: point.name)
@pytest.mark.parametrize("place", PLACES, ids=lambda place: place.name)
class TestEachModel:
    def test_matches_and_tokens(self, older: Any, point: Any, place: Any) -> None:
        model = older["models"][point.name]
        target = model["targets"][place.name]
        assert {name: target["matches"][name] for name in target["expected"]} == target["expected"]
        assert target["expected"]["rope"] > 0
        assert target["tokens"] == model["tokens"]
        assert len({token for text in model["tokens"] for token in text}) > 20

    def test_plan(self, older: Any, newest: Any, point: Any, place: Any) -> None:
        plans, wanted = (
            side["models"][point.name]["targets"][place.name]["plans"] for side in (older, newest)
        )
        version = tuple(int(part) for part in older["transformers"].split(".")[:2])
        fill = -math.inf if version >= MINUS_INFINITY else 0.0
        for name, plan in deepcopy(wanted).items():
            for call in plan["calls"]:
                for argument in {"group_fill", "fill"} & call["arguments"].keys():
                    if point.groups > 1:
                        assert call["arguments"][argument]["value"] == -math.inf
                        call["arguments"][argument]["value"] = fill
            assert plans[name] == plan, name
