"""``values.json``: written and read back, and read with care."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from glmc_runtime.errors import ArtifactError
from glmc_runtime.format.artifact_files import ArtifactFiles
from glmc_runtime.format.dealt import Dealt
from glmc_runtime.format.manifest import FileEntry
from glmc_runtime.format.tensor_key import INPUT, OUTPUT, TensorKey
from glmc_runtime.format.values import (
    FORMAT,
    VALUES,
    PlanValue,
    ValuePart,
    Values,
    read_values,
    values_from_json,
    values_to_json,
)
from tests.runtime.toy import toy_plan

KEY = TensorKey("model.norm", "RMSNorm", 0, OUTPUT, "0")
VALUE = PlanValue(
    call=1,
    node="model.norm#rsqrt",
    op="rms_norm",
    module="model.norm",
    layer=None,
    dtype="bfloat16",
    shape=("tokens", "128"),
    buffer=3,
    cache=None,
    captured="model.norm#mul.1",
    keys=(KEY, replace(KEY, kind=INPUT)),
    source="modeling_glm4.py:1 forward",
    passes=("rms_norm",),
    parts=(ValuePart(0, 64, None, (KEY,)),),
    dealt=Dealt(1, 224, (((0, 96), (192, 32)), ((96, 96), (None, 32)))),
)
CACHED = replace(VALUE, layer=0, buffer=None, cache="key", captured=None, parts=(), dealt=None)
SUMMAND = replace(VALUE, dealt=Dealt())
DATA = values_to_json(Values({"prefill": (VALUE, CACHED), "decode": (SUMMAND,)}))


def test_what_is_written_is_read_back() -> None:
    text = json.dumps(DATA)
    found = values_from_json(json.loads(text)).phases
    assert found == {"prefill": (VALUE, CACHED), "decode": (SUMMAND,)}


def changed(change: Callable[[dict[str, Any]], object]) -> Any:
    """The document with its first value changed."""
    data = json.loads(json.dumps(DATA))
    change(data["phases"]["prefill"][0])
    return data


@pytest.mark.parametrize(
    ("data", "said"),
    [
        ([], "another format"),
        ({"format": FORMAT - 1, "phases": {}}, "another format"),
        ({"format": FORMAT}, "phases"),
        ({"format": FORMAT, "phases": []}, "not well formed"),
        ({"format": FORMAT, "phases": {"prefill": 3}}, "not well formed"),
        ({"format": FORMAT, "phases": {"prefill": [3]}}, "not well formed"),
        (changed(lambda row: row.pop("call")), "not well formed"),
        (changed(lambda row: row.update(more=1)), "not well formed"),
        (changed(lambda row: row.update(call="1")), r"\[0\].call is '1'"),
        (changed(lambda row: row.update(call=2)), "call is 1, and not 2 or more"),
        (changed(lambda row: row.update(call=-1)), "call is -1"),
        (changed(lambda row: row.update(shape=None)), "not well formed"),
        (changed(lambda row: row.update(shape=[1])), "shape"),
        (changed(lambda row: row.update(shape=["many"])), "shape has 'many'"),
        (changed(lambda row: row.update(shape=["2*"])), "shape has"),
        (changed(lambda row: row.update(keys=[[]])), "not well formed"),
        (changed(lambda row: row.update(keys=[["a", "b", 0, "sideways", "0"]])), "sideways"),
        (changed(lambda row: row.pop("dealt")), "not well formed"),
        (changed(lambda row: row["dealt"].pop("runs")), "not well formed"),
        (changed(lambda row: row["dealt"].update(axis="1")), "dealt.axis is"),
        (changed(lambda row: row["dealt"].update(axis=None)), "dealt has runs along no axis"),
        (changed(lambda row: row["dealt"].update(axis=2)), "dealt.axis is 2 of 2 dimensions"),
        (changed(lambda row: row["dealt"].update(axis=0)), "another length than 'tokens'"),
        (changed(lambda row: row["dealt"].update(entries=223)), "other entries than there are"),
        (changed(lambda row: row["dealt"].update(entries=400)), "not all of 400 entries"),
        (changed(lambda row: row["dealt"]["runs"].pop()), "not all of 224 entries"),
        (changed(lambda row: row["dealt"]["runs"][0].pop()), "another length than '128'"),
        (changed(lambda row: row["dealt"]["runs"][0][0].append(3)), "dealt.runs"),
        (changed(lambda row: row["dealt"]["runs"][0][0].insert(0, -1)), "dealt.runs"),
        (changed(lambda row: row["dealt"]["runs"][0].append([None, 0])), "other entries than"),
        (changed(lambda row: row.update(cache="key")), "in one of the two"),
        (changed(lambda row: row.update(buffer=None)), "in one of the two"),
        (changed(lambda row: row["parts"][0].update(stop=0)), "without columns"),
        (changed(lambda row: row["parts"][0].pop("keys")), "not well formed"),
        (changed(lambda row: row.update(parts=[7])), "not well formed"),
        (changed(lambda row: row.update(keys=[])), "no key"),
        (changed(lambda row: row.update(buffer=None, cache="key")), "a cache of no layer"),
        ({"format": FORMAT, "phases": {"elsewhere": []}}, "no phase 'elsewhere'"),
    ],
)
def test_what_is_no_table_is_an_error_with_a_remedy(data: Any, said: str) -> None:
    with pytest.raises(ArtifactError, match=said) as caught:
        values_from_json(data)
    assert caught.value.remedy is not None
    assert "compile the model again" in caught.value.remedy


def files(folder: Path, content: bytes | None) -> ArtifactFiles:
    if content is None:
        return ArtifactFiles(folder, {})
    (folder / VALUES).write_bytes(content)
    return ArtifactFiles(
        folder, {VALUES: FileEntry(hashlib.sha256(content).hexdigest(), len(content))}
    )


def test_an_artifact_is_read(tmp_path: Path) -> None:
    kept = files(tmp_path, json.dumps(DATA).encode())
    assert read_values(kept).phases["decode"] == (SUMMAND,)


def test_an_artifact_without_values_has_to_be_compiled_again(tmp_path: Path) -> None:
    with pytest.raises(ArtifactError, match=r"has no values\.json") as caught:
        read_values(files(tmp_path, None))
    assert caught.value.remedy == "compile the model again"


def test_what_was_changed_is_refused(tmp_path: Path) -> None:
    kept = files(tmp_path, json.dumps(DATA).encode())
    text = (tmp_path / VALUES).read_text()
    (tmp_path / VALUES).write_text(text.replace("model.norm", "model.mron"))
    with pytest.raises(ArtifactError, match="was changed after it was written"):
        read_values(kept)


def test_values_are_those_of_the_plans(tmp_path: Path) -> None:
    plan = toy_plan("decode")
    last = {"call": len(plan.calls) - 1, "buffer": plan.buffers[0].id}
    here = replace(VALUE, **last, dealt=None)
    strays = (replace(here, call=len(plan.calls)), replace(here, buffer=len(plan.buffers)))
    for row in (here, *strays):
        data = values_to_json(Values({"decode": (row,)}))
        kept = files(tmp_path, json.dumps(data).encode())
        if row is here:
            assert read_values(kept, [plan]).phases["decode"] == (row,)
            continue
        with pytest.raises(ArtifactError, match=r"decode\[0\] is of another plan"):
            read_values(kept, [plan])
    with pytest.raises(ArtifactError, match="no values of prefill"):
        read_values(kept, [toy_plan("prefill")])


def test_values_are_dealt_to_the_ranks_that_there_are(tmp_path: Path) -> None:
    plan = toy_plan("decode")
    rows = [replace(each, call=0, buffer=plan.buffers[0].id) for each in (VALUE, SUMMAND)]
    data = values_to_json(Values({"decode": tuple(rows)}))
    kept = files(tmp_path, json.dumps(data).encode())
    for ranks in (None, 2):
        assert read_values(kept, [plan], ranks).phases["decode"] == tuple(rows)
    with pytest.raises(ArtifactError, match=r"decode\[0\] is of another plan"):
        read_values(kept, [plan], 3)
