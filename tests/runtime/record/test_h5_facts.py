"""What a record says of its run."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest

from glmc_runtime.errors import RecordError
from glmc_runtime.record.h5_facts import RecordedRun, facts_of_file, plain_attributes, recorded_run


def written(path: Path, **attributes: Any) -> Path:
    with h5py.File(path, "w") as file:
        file.attrs.update(attributes)
    return path


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "run.h5"


def test_prompts_and_tokens_are_read(path: Path) -> None:
    written(path, tool="glmc", prompts="[[1, 2], [3]]", tokens="[[4], [5]]", emulated=True)
    assert facts_of_file(path)["emulated"] is True
    assert recorded_run(path) == RecordedRun(((1, 2), (3,)), ((4,), (5,)))


def test_another_tools_attributes_are_plain_values(path: Path) -> None:
    written(path, tool="other", prompts="as it likes", raw=np.bytes_(b"x"), sizes=np.arange(2))
    assert facts_of_file(path) == {
        **{"tool": "other", "prompts": "as it likes", "raw": "x"},
        **{"sizes": [0, 1]},
    }
    with pytest.raises(RecordError, match="does not say which tokens"):
        recorded_run(written(path, tool="other"))


def test_an_attribute_that_no_one_can_read_is_left_out(path: Path) -> None:
    with h5py.File(path, "w") as file:
        file.attrs["empty"] = h5py.Empty("f4")
        file.attrs["reference"] = file.ref
        file.attrs["good"] = 1
        assert plain_attributes(file.attrs) == {"good": 1}


@pytest.mark.parametrize(
    ("prompts", "tokens"),
    [
        ("[[1]", "[[2]]"),
        ("[" * 100_000, "[[2]]"),
        (7, "[[2]]"),
        ("[1]", "[[2]]"),
        ('[["a"]]', "[[2]]"),
        ("[[true]]", "[[2]]"),
        ("{}", "[[2]]"),
        ("[[1]]", "[[2], [3]]"),
        ("[[1], [2]]", "[[2], []]"),
        ("[]", "[]"),
        ("[[]]", "[[1]]"),
    ],
)
def test_what_is_no_run_is_refused(path: Path, prompts: Any, tokens: Any) -> None:
    limited = prompts[:60_000] if isinstance(prompts, str) else prompts
    with pytest.raises(RecordError):
        recorded_run(written(path, tool="glmc", prompts=limited, tokens=tokens))


def test_what_is_no_file_of_hdf5_is_refused(tmp_path: Path, path: Path) -> None:
    written(path, tool="glmc", prompts=json.dumps([[1]]), tokens=json.dumps([[2]]))
    whole = path.read_bytes()
    cut = tmp_path / "cut.h5"
    for content in (b"", b"text", whole[:100], whole[:-100]):
        cut.write_bytes(content)
        with pytest.raises(RecordError, match="can't be read"):
            facts_of_file(cut)
    with pytest.raises(RecordError, match="can't be read"):
        facts_of_file(tmp_path / "nowhere.h5")


def test_a_pipe_is_not_waited_for(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe.h5")
    for place in (tmp_path / "pipe.h5", tmp_path):
        with pytest.raises(RecordError, match="plain file"):
            facts_of_file(place)
