"""Vendor calls on the emulator: said to be emulated everywhere, guarded, and wrapped in errors."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

import glmc_runtime
from glmc_runtime.cli import main
from glmc_runtime.engine.assemble import assemble
from glmc_runtime.engine.options import LoadOptions
from glmc_runtime.errors import ArtifactError, GuardError, PlanError, VendorError
from glmc_runtime.format.manifest import Guards
from glmc_runtime.format.phases import DECODE, PREFILL
from glmc_runtime.format.plan import ValueArgument
from glmc_runtime.generate.session import Session
from glmc_runtime.kernels.vendor import EMULATED_NOTICE, Vendor, find_vendor, say_emulated
from glmc_runtime.loading.guards import check_vendor_functions, device_for
from glmc_runtime.loading.loader import load_artifact
from tests.runtime.broken_vendor import break_function
from tests.runtime.toy_vendor import write_vendor_toy

glmc_kunlun_emulator = pytest.importorskip("glmc_kunlun_emulator")
PROMPTS = [[3, 14, 15], list(range(30)), [7], [9] * 11, [20, 21]]


@pytest.fixture(scope="module")
def path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_vendor_toy(tmp_path_factory.mktemp("vendor") / "toy")


@pytest.fixture
def session(path: Path) -> Session:
    return glmc_runtime.load(path, emulate=True)


def test_emulated_is_said_at_load_and_in_the_statistics(
    path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    say_emulated.cache_clear()
    session = glmc_runtime.load(path, emulate=True)
    glmc_runtime.load(path, emulate=True)
    assert capsys.readouterr().err.count(EMULATED_NOTICE) == 1  # once in a process
    assert session.emulated
    session.generate([[1, 2]], max_new_tokens=2, ignore_eos=True)
    data = session.statistics.to_json()
    assert data["emulated"] is True
    assert data["vendor_calls"]["moe_post"] == 2
    assert "emulated" in session.statistics.summary()


def test_emulated_is_said_in_every_command(path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run = ["run", str(path), "--emulate", "--token-ids", "1,2", "--max-new-tokens", "2"]
    assert main(run) == 0
    done = capsys.readouterr()
    assert "emulated" in done.err and "emulated" not in done.out  # the text alone
    assert main([*run, "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["emulated"] is True
    assert main(["doctor", str(path), "--emulate"]) == 0
    assert "emulated" in capsys.readouterr().out


def test_batches_chunks_and_padding_do_not_change_the_tokens(session: Session) -> None:
    alone = [session.generate([p], max_new_tokens=6, ignore_eos=True)[0].tokens for p in PROMPTS]
    together = session.generate(PROMPTS, max_new_tokens=6, ignore_eos=True)
    assert [completion.tokens for completion in together] == alone
    assert len({tuple(tokens) for tokens in alone}) > 2


def test_decode_equals_prefill_of_the_same_tokens(session: Session) -> None:
    sequence = session.sequence(PROMPTS[0])
    session.prefill([sequence])
    for token in (5, 6, 7, 8):
        logits = session.decode([sequence], [token]).clone()
    fresh = session.sequence([*PROMPTS[0], 5, 6, 7, 8])
    torch.testing.assert_close(session.prefill([fresh]), logits, rtol=1e-4, atol=1e-4)


def test_without_a_card_emulation_may_be_refused(path: Path) -> None:
    with pytest.raises(GuardError, match="not installed"):
        glmc_runtime.load(path, emulate=False)


def test_a_failing_vendor_call_names_call_node_and_layer(session: Session) -> None:
    session._replays[PREFILL.key]._binder._memory.weights["down"] = torch.zeros(8, 64, 31)
    with pytest.raises(VendorError) as caught:
        session.prefill([session.sequence([1])])
    text = str(caught.value)
    assert "kunlun_ops.moe_fc" in text
    assert "node 'experts', layer 0" in text


@pytest.mark.parametrize("kind", [AttributeError, KeyError, MemoryError, OverflowError, OSError])
def test_whatever_a_vendor_call_raises_has_a_code(
    path: Path, monkeypatch: pytest.MonkeyPatch, kind: type[Exception]
) -> None:
    def fail(function: object, arguments: object) -> None:
        raise kind("of the library's own")

    break_function(monkeypatch, "moe_fc", fail)
    session = glmc_runtime.load(path, emulate=True)
    with pytest.raises(VendorError, match="of the library's own") as caught:
        session.prefill([session.sequence([1])])
    assert "layer 0" in caught.value.place


def _vendor(**functions: object) -> Vendor:
    return Vendor({"kunlun_ops": SimpleNamespace(**functions)}, False, None, "a test's library")


def test_a_missing_function_or_keyword_is_found_at_load() -> None:
    def swiglu(x: object, y: object) -> None: ...

    def anything(**keywords: object) -> None: ...

    guards = Guards("0.1.0", "2.5", "xpu", {"kunlun_ops.swiglu": ("x", "y")})
    check_vendor_functions(guards, _vendor(swiglu=swiglu))
    check_vendor_functions(guards, _vendor(swiglu=anything))
    with pytest.raises(VendorError, match="no function"):
        check_vendor_functions(guards, _vendor())
    with pytest.raises(GuardError, match="does not take keyword 'turn'"):
        check_vendor_functions(
            replace(guards, vendor_functions={"kunlun_ops.swiglu": ("x", "y", "turn")}),
            _vendor(swiglu=swiglu),
        )
    with pytest.raises(VendorError, match="no function"):
        _vendor().function("xspeedgate_ops.fused_moe")


@pytest.mark.parametrize(
    ("function", "keywords", "text"),
    [
        ("kunlun_ops.swiglu", ("x",), "found:    x, y"),
        ("kunlun_ops.swiglu", ("x", "y", "turn"), "expected: turn, x, y"),
        ("kunlun_ops.swiglu", None, "the guards do not name it"),
        ("kunlun_ops.matmul", ("x",), "no plan calls it"),
    ],
)
def test_the_guards_must_name_the_keywords_of_the_calls(
    path: Path, function: str, keywords: tuple[str, ...] | None, text: str
) -> None:
    artifact = load_artifact(path)
    guards = artifact.manifest.guards
    functions = {**guards.vendor_functions, function: keywords or ()}
    if keywords is None:
        del functions[function]
    manifest = replace(artifact.manifest, guards=replace(guards, vendor_functions=functions))
    with pytest.raises(PlanError, match="as the manifest's guards say") as caught:
        assemble(replace(artifact, manifest=manifest), LoadOptions(emulate=True))
    assert text in str(caught.value)
    assert function in str(caught.value)


def test_the_keywords_of_all_calls_of_a_function_count(path: Path) -> None:
    artifact = load_artifact(path)
    plan = artifact.plans[DECODE.key]
    place = [call.function for call in plan.calls].index("kunlun_ops.swiglu")
    call = plan.calls[place]
    extra = replace(call, arguments={**call.arguments, "turn": ValueArgument(True)})
    calls = (*plan.calls[:place], extra, *plan.calls[place + 1 :])
    artifact.plans[DECODE.key] = replace(plan, calls=calls)
    with pytest.raises(PlanError, match=r"kunlun_ops\.swiglu"):
        assemble(artifact, LoadOptions(emulate=True))


def test_targets_and_their_devices(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.delenv("TRITON_INTERPRET", raising=False)
    guards = Guards("0.1.0", "2.5", "xpu")
    assert device_for(guards, replace(_vendor(), emulated=True)).type == "cpu"
    for target in ("xpu", "cuda"):
        with pytest.raises(GuardError, match="no such device"):
            device_for(replace(guards, target=target), _vendor())
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    assert device_for(guards, _vendor()).type == "cuda"


def test_the_emulator_under_the_vendors_name_is_still_emulated(
    path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    say_emulated.cache_clear()
    with glmc_kunlun_emulator.install("P-A"):
        session = glmc_runtime.load(path)
    assert session.emulated
    assert "emulated" in capsys.readouterr().err


def test_a_profile_that_nobody_knows() -> None:
    for profile in ("P-Z", None):
        with pytest.raises(ArtifactError, match="no ABI profile"):
            find_vendor(profile, True)


def test_a_broken_installation_is_an_error_and_never_emulated(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "kunlun_ops.py").write_text("raise ImportError('undefined symbol')\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    with pytest.raises(VendorError, match="undefined symbol"):
        find_vendor("P-A", None)
