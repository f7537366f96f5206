"""SGLang's options made to fit an artifact: chunks are whole pages, blocks are pages."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from glmc_engines.core.errors import UnsupportedError
from glmc_engines.core.options import Options
from glmc_engines.sglang import artifact, compat


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
    artifact._found(512, Options())
    assert [wanted.block_size for wanted in asked] == [block]
