"""Bad artifacts and requests, through ``glmc run`` and ``glmc inspect`` and through a session.

Each is a code and a remedy; the artifact stays as it was and a session goes on.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

import glmc_runtime
from glmc.cli.main import main
from glmc_runtime.errors import CapacityError, GlmcError, RequestError
from tests.support.command import ROOT, SMALL, Command, command_of, in_a_process, require_refusal

pytestmark = pytest.mark.usefixtures("shared_captures")
PROMPT = ("--prompt", "Return", "--max-new-tokens", "4")


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("whole") / "dense"
    model = ROOT / "models" / "tiny-dense"
    assert main(["compile", str(model), "-o", str(path), "--dtype", "float32", *SMALL]) == 0
    return path


@pytest.fixture
def artifact(whole: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(whole, tmp_path / "artifact"))


@pytest.fixture
def run(capsys: pytest.CaptureFixture[str]) -> Command:
    return command_of(capsys)


def change_manifest(artifact: Path, change: Callable[[dict[str, Any]], None]) -> None:
    path = artifact / "manifest.json"
    manifest = json.loads(path.read_text())
    change(manifest)
    path.write_text(json.dumps(manifest))


def flip_a_bit(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(bytes(data))


def weights_of(artifact: Path) -> Path:
    return next((artifact / "weights").iterdir())


def _truncate(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-2])


TAMPERED: dict[str, tuple[Callable[[Path], object], str]] = {
    "one bit of a weight": (lambda path: flip_a_bit(weights_of(path)), "sha256"),
    "one bit of a plan": (lambda path: flip_a_bit(path / "plans/decode.json"), "sha256"),
    "a shorter weight file": (lambda path: _truncate(weights_of(path)), "bytes"),
    "a missing plan": (lambda path: (path / "plans/prefill.json").unlink(), "missing"),
    "a file too many": (lambda path: (path / "more.py").write_text("print()"), "surplus"),
    "no manifest": (lambda path: (path / "manifest.json").unlink(), "manifest.json"),
    "half a manifest": (lambda path: _truncate(path / "manifest.json"), "manifest.json"),
    "a link": (lambda path: (path / "link").symlink_to(path / "report.json"), "link"),
}


@pytest.mark.parametrize("name", TAMPERED)
def test_a_tampered_or_half_written_artifact(name: str, artifact: Path, run: Command) -> None:
    change, word = TAMPERED[name]
    change(artifact)
    require_refusal(run("run", artifact, *PROMPT), "GLMC-2001", word)
    require_refusal(run("inspect", artifact, "--verify"), "GLMC-2001", word)


def test_what_a_crash_leaves_behind_is_no_artifact(artifact: Path, run: Command) -> None:
    partial = artifact.rename(artifact.with_name(".artifact.partial-x1"))
    (partial / "manifest.json").unlink()
    require_refusal(run("run", partial, *PROMPT), "GLMC-2001", "did not finish")
    require_refusal(run("run", artifact, *PROMPT), "GLMC-2001", "no such artifact")


@pytest.mark.parametrize(
    ("change", "code", "word"),
    [
        (lambda data: data["guards"].update(minimum_runtime="99.0"), "GLMC-2002", ">= 99.0"),
        (lambda data: data["guards"].update(minimum_torch="99.0"), "GLMC-2002", "torch"),
        (lambda data: data.update(schema_version=99), "GLMC-2001", "99"),
        (lambda data: data.update(format="other"), "GLMC-2001", "other"),
        (lambda data: data["guards"].update(target="cuda"), "GLMC-200", "cuda"),
    ],
)
def test_an_artifact_for_another_place(
    artifact: Path,
    run: Command,
    monkeypatch: pytest.MonkeyPatch,
    change: Callable[[dict[str, Any]], None],
    code: str,
    word: str,
) -> None:
    if word == "cuda" and torch.cuda.is_available():
        pytest.skip("this machine has the device that the artifact asks for")
    monkeypatch.delenv("TRITON_INTERPRET", raising=False)
    change_manifest(artifact, change)
    refused = run("run", artifact, *PROMPT)
    if code.endswith("-200"):
        code = refused.err[1:10]
        assert code in ("GLMC-2001", "GLMC-2002")
    require_refusal(refused, code, word)


def test_an_artifact_without_weights(tmp_path: Path, run: Command) -> None:
    path = tmp_path / "plan"
    model = ROOT / "models" / "tiny-dense"
    assert run("compile", model, "-o", path, "--no-weights", *SMALL).status == 0
    require_refusal(run("run", path, *PROMPT), "GLMC-2001", "without weights")
    assert run("inspect", path).status == 0


@pytest.mark.parametrize(
    ("flags", "code", "word"),
    [
        (["--prompt", ""], "GLMC-2004", "empty"),
        (["--token-ids", ""], "GLMC-2004", "empty"),
        ([], "GLMC-2004", "--prompt"),
        (["--prompt", "word " * 200], "GLMC-2004", "at most 64"),
        (["--token-ids", "5,99999"], "GLMC-2004", "99999"),
        (["--prompt", "x", "--max-new-tokens", "0"], "GLMC-2004", "at least 1"),
        (["--prompt", "x", "--top-p", "2"], "GLMC-2004", "top_p"),
        (["--prompt", "x", "--kv-blocks", "1"], "GLMC-2005", "1"),
    ],
)
def test_requests_that_can_not_be_served(
    whole: Path, run: Command, flags: list[str], code: str, word: str
) -> None:
    require_refusal(run("run", whole, *flags), code, word)


def test_more_prompts_than_the_largest_bucket_wait_for_their_turn(
    whole: Path, run: Command
) -> None:
    done = run("run", whole, *PROMPT * 5, "--json", "--ignore-eos")
    assert done.status == 0
    texts = [item["tokens"] for item in json.loads(done.out)["completions"]]
    assert len(texts) == 5 and all(text == texts[0] and len(text) == 4 for text in texts)


def refusal(action: Callable[[], object]) -> GlmcError:
    with pytest.raises(GlmcError) as caught:
        action()
    assert caught.value.remedy
    return caught.value


def test_a_session_goes_on_after_a_refusal(whole: Path) -> None:
    """A batch too large, too few blocks, a sequence twice, a full context, a prompt too long:
    nothing is lost."""
    session = glmc_runtime.load(whole, kv_blocks=8)
    expected = session.generate([[5, 6, 7]], max_new_tokens=6, ignore_eos=True)[0].tokens
    free = session.cache.allocator.available
    sequences = [session.sequence([5, 6, 7]) for _ in range(3)]
    logits = session.prefill(sequences)
    tokens = [int(row.argmax()) for row in logits]
    error = refusal(lambda: session.decode(sequences, tokens))
    assert isinstance(error, CapacityError) and "3" in error.found and "2" in error.expected
    error = refusal(lambda: session.prefill([session.sequence([5] * 64) for _ in range(5)]))
    assert isinstance(error, CapacityError) and "4 free of 7" in error.found
    assert isinstance(refusal(lambda: session.sequence([])), RequestError)
    assert isinstance(refusal(lambda: session.sequence([5] * 65)), RequestError)
    assert isinstance(refusal(lambda: session.decode(sequences[:1] * 2, [1, 1])), RequestError)
    found = [tokens[:1]]
    for _ in range(5):
        step = session.decode(sequences[:2], [found[-1][0]] * 2)
        assert torch.equal(step[0].argmax(), step[1].argmax())
        found.append([int(step[0].argmax())])
    assert [token for (token,) in found] == expected
    full = session.sequence([5] * 64)
    session.prefill([full])
    assert "context" in refusal(lambda: session.decode([full], [5])).message
    for sequence in (*sequences, full):
        session.release(sequence)
    assert session.cache.allocator.available == free


def test_a_process_of_its_own_shows_no_traceback(tmp_path: Path) -> None:
    """``inspect``: it has nothing to import that takes long."""
    require_refusal(in_a_process("inspect", tmp_path), "GLMC-2001", "manifest.json")
