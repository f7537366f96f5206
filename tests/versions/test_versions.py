"""Other versions of transformers and torch lead to the same plans, and to Hugging Face's answers.

``make test-versions`` installs them beside each other and names their folders in
``GLMC_VERSIONS``, each after a package and its version; each runs in a process of its own.
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
OTHERS = [Path(folder).resolve() for folder in os.environ.get("GLMC_VERSIONS", "").split()]
# Before, scores in groups that were not chosen became 0 (5.5.4 still does), now they become -inf.
MINUS_INFINITY = (5, 8)

pytestmark = pytest.mark.versions


@pytest.fixture(scope="module")
def running(tmp_path_factory: pytest.TempPathFactory) -> dict[Path, tuple[Any, Path]]:
    """All other versions at work side by side: a process each, and the file that it writes."""
    started = {}
    for folder in OTHERS:
        file = tmp_path_factory.mktemp("probe") / "found.json"
        paths = [str(folder), str(REPOSITORY), str(REPOSITORY / "runtime")]
        process = subprocess.Popen(
            [sys.executable, "-m", "tests.versions.probe", str(file)],
            env={**os.environ, "PYTHONPATH": os.pathsep.join(paths), "OMP_NUM_THREADS": "1"},
        )
        started[folder] = process, file
    return started


@pytest.fixture(scope="module")
def installed() -> dict[str, Any]:
    return json.loads(json.dumps(probe()))  # type: ignore[no-any-return]


@pytest.fixture(scope="module", params=OTHERS, ids=lambda folder: folder.name)
def other(
    request: pytest.FixtureRequest,
    running: dict[Path, tuple[Any, Path]],
    installed: dict[str, Any],
) -> Any:
    """What the folder's packages lead to; the folder is named after one of them."""
    process, file = running[request.param]
    assert process.wait() == 0
    found = json.loads(file.read_text(encoding="utf-8"))
    package, _, version = request.param.name.partition("-")
    assert found[package] == version
    return found


def test_other_versions_are_named() -> None:
    assert OTHERS, "GLMC_VERSIONS names no folder: run make test-versions"


def test_torch_compile(other: Any) -> None:
    assert (other["traced"] is None) is (int(other["transformers"].split(".")[0]) < 5)
    if other["traced"] is None:
        pytest.skip("Dynamo does not trace the models of transformers before 5 as one graph")
    assert other["traced"]["kunlun"] == other["traced"]["eager"]
    assert len(set(other["traced"]["eager"])) > 5


@pytest.mark.parametrize("point", POINTS, ids=lambda point: point.name)
@pytest.mark.parametrize("place", PLACES, ids=lambda place: place.name)
class TestEachModel:
    def test_matches_and_tokens(self, other: Any, point: Any, place: Any) -> None:
        model = other["models"][point.name]
        target = model["targets"][place.name]
        assert {name: target["matches"][name] for name in target["expected"]} == target["expected"]
        assert target["expected"]["rope"] > 0
        assert target["tokens"] == model["tokens"]
        assert len({token for text in model["tokens"] for token in text}) > 20

    def test_plan(self, other: Any, installed: Any, point: Any, place: Any) -> None:
        plans, wanted = (
            side["models"][point.name]["targets"][place.name]["plans"]
            for side in (other, installed)
        )
        assert plans == as_of(other["transformers"], wanted, point.groups)


@pytest.mark.parametrize("point", POINTS, ids=lambda point: point.name)
def test_plan_in_bfloat16(other: Any, installed: Any, point: Any) -> None:
    """Weights keep their dtype too: that of a router's is ours to decide, not a version's."""
    plans, wanted = (side["models"][point.name]["bfloat16"] for side in (other, installed))
    assert plans == as_of(other["transformers"], wanted, point.groups)


def as_of(transformers: str, plans: Any, groups: int) -> Any:
    """The plans of the installed version as those of another one must be."""
    version = tuple(int(part) for part in transformers.split(".")[:2])
    fill = -math.inf if version >= MINUS_INFINITY else 0.0
    wanted = deepcopy(plans)
    calls = [call for phase in ("prefill", "decode") for call in wanted[phase]["calls"]]
    for arguments in (call["arguments"] for call in calls):
        for name in {"group_fill", "fill"} & arguments.keys():
            if groups > 1:
                assert arguments[name]["value"] == -math.inf
                arguments[name]["value"] = fill
    return wanted
