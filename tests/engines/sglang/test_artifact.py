"""SGLang's options made to fit an artifact: chunks are whole pages, blocks are pages. The first of
several ranks compiles."""

from __future__ import annotations

import pickle
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from glmc_engines.core.errors import CompileError, UnsupportedError
from glmc_engines.core.options import Options
from glmc_engines.sglang import artifact, compat
from glmc_runtime.errors import GlmcError


@pytest.fixture
def options(monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """The server arguments of this process, as they are set."""
    values: dict[str, Any] = {
        "chunked_prefill_size": 4096,
        "device": "cpu",
        "max_running_requests": 8,
        "model_path": "/models/tiny",
        "page_size": 1,
        "tp_size": 1,
    }
    monkeypatch.setattr(compat, "option", lambda name, default=None: values.get(name, default))
    monkeypatch.setattr(compat, "set_option", lambda **changed: values.update(changed))
    return values


def header(tokens: int, sequences: int = 32) -> Any:
    return SimpleNamespace(tokens=tokens, sequences=sequences)


@pytest.mark.parametrize(("page", "tokens", "chunk"), [(1, 100, 100), (16, 100, 96), (64, 64, 64)])
def test_chunks_are_lowered_to_whole_pages(
    options: dict[str, Any], page: int, tokens: int, chunk: int
) -> None:
    options["page_size"] = page
    (said,) = artifact._limits(header(tokens))
    assert options["chunked_prefill_size"] == chunk
    assert f"--chunked-prefill-size is {chunk}, not 4096" in said


def test_a_page_that_no_step_holds_is_refused(options: dict[str, Any]) -> None:
    """SGLang would split prompts into chunks of nothing, and requests would wait for ever."""
    options["page_size"] = 128
    with pytest.raises(UnsupportedError, match="--page-size of SGLang"):
        artifact._limits(header(64))
    assert options["chunked_prefill_size"] == 4096


@pytest.mark.parametrize(("page", "block"), [(None, None), (1, None), (16, 16), (128, 128)])
def test_blocks_are_pages(
    options: dict[str, Any], monkeypatch: pytest.MonkeyPatch, page: int | None, block: int | None
) -> None:
    options["page_size"] = page
    asked = []

    def found(checkpoint: Path, wanted: Any, options: Options) -> Any:
        asked.append(wanted)
        return SimpleNamespace(header=header(64), origin="named")

    monkeypatch.setattr(artifact.plan, "artifact_for", found)
    artifact._found(512, Options(artifact=Path("/named")))
    assert [wanted.block_size for wanted in asked] == [block]


def test_a_model_is_looked_up_where_the_server_was_told_to_keep_it(
    options: dict[str, Any], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    commit = "0123456789012345678901234567890123456789"
    kept = tmp_path / "models--zai-org--GLM-4.6"
    folder = kept / "snapshots" / commit
    folder.mkdir(parents=True)
    (folder / "config.json").write_text("{}")
    (kept / "refs").mkdir()
    (kept / "refs" / "main").write_text(commit)
    options.update(model_path="zai-org/GLM-4.6", download_dir=str(tmp_path))
    looked_at = []

    def found(checkpoint: Path, wanted: Any, options: Options) -> Any:
        looked_at.append(checkpoint)
        return SimpleNamespace(header=header(64), origin="named")

    monkeypatch.setattr(artifact.plan, "artifact_for", found)
    artifact._found(512, Options(artifact=tmp_path))
    assert looked_at == [folder]


class TwoRanks:
    """Ranks that look for an artifact, the first of them first; ``asked`` is what each asks for."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, make: Callable[[Options], Any]) -> None:
        self.asked: list[list[Options]] = [[], []]
        self._rank = 0
        self._told: list[bytes] = []

        def found(checkpoint: Path, wanted: Any, options: Options) -> Any:
            self.asked[self._rank].append(options)
            return make(options)

        monkeypatch.setattr(artifact.plan, "artifact_for", found)
        monkeypatch.setattr(compat, "tensor_parallel", lambda: compat.Ranks(self._rank, 2, None))
        monkeypatch.setattr(compat, "of_first_rank", self._tell)

    def _tell(self, value: Any) -> Any:
        if self._rank == 0:
            self._told.append(pickle.dumps(value))
        return pickle.loads(self._told[0])

    def find(self, options: Options) -> list[Any]:
        """What each rank finds, or the error that it raises."""
        outcomes: list[Any] = []
        for self._rank in (0, 1):
            try:
                outcomes.append(artifact._found(512, options))
            except (GlmcError, OSError, MemoryError, KeyError) as error:
                outcomes.append(error)
        return outcomes


def made(path: Path, origin: str) -> Any:
    return SimpleNamespace(header=header(64), path=path, origin=origin)


@pytest.mark.usefixtures("options")
def test_the_first_rank_compiles_and_the_other_reads(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    ranks = TwoRanks(
        monkeypatch,
        lambda options: made(tmp_path, "named" if options.artifact else "compiled"),
    )
    options = Options(compiler="python", require=True)
    assert [origin for _, origin in ranks.find(options)] == ["compiled", "compiled"]
    read = Options(artifact=tmp_path, compiler="python", require=True)
    assert ranks.asked == [[options], [read]]


@pytest.mark.usefixtures("options")
def test_an_error_of_the_first_rank_is_every_rank_s(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(options: Options) -> Any:
        raise UnsupportedError("glmc does not compile this", found="a layer", remedy="another")

    ranks = TwoRanks(monkeypatch, fail)
    first, second = ranks.find(Options())
    assert type(first) is type(second) is UnsupportedError
    assert str(first) == str(second) and "a layer" in str(second)
    assert ranks.asked[1] == []


class NotPickledError(OSError):
    def __reduce__(self) -> Any:
        raise TypeError("not to be pickled")


@pytest.mark.usefixtures("options")
@pytest.mark.parametrize(
    "error", [NotPickledError("disk is full"), MemoryError("none"), KeyError("x")]
)
def test_no_rank_waits_for_a_first_one_that_fails(
    monkeypatch: pytest.MonkeyPatch, error: Exception
) -> None:
    def fail(options: Options) -> Any:
        raise error

    ranks = TwoRanks(monkeypatch, fail)
    first, second = ranks.find(Options())
    assert first is error
    assert type(second) is CompileError and f"{type(error).__name__}: {error}" in str(second)
    assert ranks.asked[1] == []


@pytest.mark.usefixtures("options")
def test_a_rank_that_does_not_see_the_folder_compiles(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    ranks = TwoRanks(monkeypatch, lambda options: made(tmp_path / "other-host", "compiled"))
    ranks.find(Options())
    assert ranks.asked == [[Options()], [Options()]]


@pytest.mark.usefixtures("options")
def test_nobody_waits_for_an_artifact_that_is_named(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    ranks = TwoRanks(monkeypatch, lambda options: made(tmp_path, "named"))
    monkeypatch.setattr(compat, "of_first_rank", lambda value: pytest.fail("told"))
    named = Options(artifact=tmp_path)
    ranks.find(named)
    assert ranks.asked == [[named], [named]]


def test_errors_go_from_rank_to_rank() -> None:
    error = CompileError("failed", place="glmc compile", found="nothing", remedy="this")
    assert str(pickle.loads(pickle.dumps(error))) == str(error)
