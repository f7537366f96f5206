"""``glmc inspect`` of artifacts whose report or history was damaged, with the hashes put right."""

from __future__ import annotations

import json
import random
import re
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from glmc.cli.main import main
from glmc.observe.history.encode import history_to_json
from glmc_runtime.loading.loader import sha256_of
from tests.artifact.toy import REPORT, write
from tests.observe.sample import history

VALUES: list[Any] = [
    *(None, True, -1, 0, 2**70, 10**300, 1.5, float("nan"), float("inf"), "", "x", "\x1b[2J\u202e"),
    *("\ud800", "decode", "previous:", "0", [], [[]], ["x"], [0], {}, {"x": 1}, {"\udfff\n": "1"}),
]
QUESTIONS: tuple[tuple[str, ...], ...] = (
    (),
    ("--json",),
    ("--layer", "0"),
    ("--phase", "prefill"),
    ("--node", "model.layers.1.mlp.gate#topk"),
    ("--node", "model.layers.1.mlp.gate#topk", "--json"),
    ("--why-not", "moe_gate"),
    ("--why-not", "moe_gate", "--layer", "1"),
    ("--page", "PAGE"),
    ("--page", "PAGE"),
)


@pytest.fixture(scope="module")
def artifact(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("damaged") / "toy"
    write(root, history=history_to_json(history()))
    return root


def places(data: Any, path: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    items = data.items() if isinstance(data, dict) else enumerate(data)
    for key, value in items:
        yield (*path, key)
        if isinstance(value, (dict, list)):
            yield from places(value, (*path, key))


def damage(data: Any, luck: random.Random) -> None:
    """Put another value somewhere, take one away, or add one."""
    *way, last = luck.choice(list(places(data)))
    for key in way:
        data = data[key]
    kind = luck.randrange(4)
    if kind == 0:
        del data[last]
    elif kind == 1 and isinstance(data, dict):
        data[luck.choice(["x", "", "\x1b", "decode", "99"])] = data[last]
    elif kind == 1:
        data.append(luck.choice([data[last], *VALUES]))
    else:
        data[last] = luck.choice(VALUES)


def rehash(root: Path, name: str) -> None:
    path = root / "manifest.json"
    manifest = json.loads(path.read_text())
    size = (root / name).stat().st_size
    manifest["files"][name] = {"sha256": sha256_of(root / name), "size": size}
    path.write_text(json.dumps(manifest))


def inspect(root: Path, name: str, data: Any, question: tuple[str, ...], page: Path) -> int:
    (root / name).write_text(json.dumps(data))
    rehash(root, name)
    return main(["inspect", str(root), *(str(page) if one == "PAGE" else one for one in question)])


def require_codes(
    artifact: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], seeds: range
) -> None:
    """Each damage is shown or refused; a code, no control character, nothing raised."""
    root, page = tmp_path / "toy", tmp_path / "page.html"
    shutil.copytree(artifact, root)
    statuses = []
    for seed in seeds:
        luck = random.Random(seed)
        name = luck.choice(["report.json", "history.json"])
        whole = (artifact / name).read_text()
        data = json.loads(whole)
        for _ in range(luck.choice([1, 1, 3])):
            damage(data, luck)
        question = luck.choice(QUESTIONS[:4] if name == "report.json" else QUESTIONS[4:])
        status = inspect(root, name, data, question, page)
        said = capsys.readouterr()
        assert status == 0 or re.match(r"\[GLMC-\d{4}\] ", said.err), (seed, question, said)
        assert (said.out + said.err).replace("\n", "").isprintable(), (seed, question)
        statuses.append(status)
        (root / name).write_text(whole)
        rehash(root, name)
    assert 0.1 < sum(map(bool, statuses)) / len(statuses) < 0.95


def test_the_whole_artifact_answers(artifact: Path, tmp_path: Path) -> None:
    for question in QUESTIONS:
        page = tmp_path / "page.html"
        assert inspect(artifact, "report.json", REPORT, question, page) == 0


def test_damaged_files_are_shown_or_refused(
    artifact: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    require_codes(artifact, tmp_path, capsys, range(60))


@pytest.mark.slow
def test_many_damaged_files(
    artifact: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    require_codes(artifact, tmp_path, capsys, range(1000, 3000))


@pytest.mark.parametrize(
    ("change", "word"),
    [
        ({"schema_version": 1}, "another schema version"),
        ({"schema_version": "\x1b"}, "another schema version"),
        ({"passes": 1}, "report.passes"),
        ({"passes": [{}]}, "not well formed"),
        ({"surplus": 1}, "surplus"),
        ({"options": {}}, "lacks target"),
        ({"phases": {}}, "lacks decode"),
        ({"model": {**REPORT["model"], "layers": 10**9}}, "layers"),
        ({"eager": {"by_layer": {"0": "1"}}}, "report.eager"),
        ({"remarks": ["\udc00"]}, "not valid JSON"),
    ],
)
def test_a_report_of_another_form_is_an_artifact_error(
    artifact: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    change: dict[str, Any],
    word: str,
) -> None:
    shutil.copytree(artifact, tmp_path / "toy")
    status = inspect(tmp_path / "toy", "report.json", {**REPORT, **change}, (), tmp_path)
    said = capsys.readouterr().err
    assert status == 2 and said.startswith("[GLMC-2001]") and word in said


def test_calls_without_their_indices(
    artifact: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    shutil.copytree(artifact, tmp_path / "toy")
    data = json.loads((artifact / "history.json").read_text())
    data["plans"][0]["blocks"][0]["indices"][0].append(7)
    assert inspect(tmp_path / "toy", "history.json", data, QUESTIONS[4], tmp_path) == 2
    assert "have other indices" in capsys.readouterr().err


@pytest.mark.parametrize("buckets", [[], [0, 1], [4, 1], [2, 2]])
def test_buckets_of_which_none_is_the_largest(
    artifact: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], buckets: list[int]
) -> None:
    shutil.copytree(artifact, tmp_path / "toy")
    path = tmp_path / "toy" / "manifest.json"
    manifest = json.loads(path.read_text())
    manifest["phases"][0]["buckets"] = buckets
    path.write_text(json.dumps(manifest))
    assert main(["inspect", str(tmp_path / "toy")]) == 2
    assert "phases[0].buckets" in capsys.readouterr().err
