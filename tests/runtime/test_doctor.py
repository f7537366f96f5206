"""The doctor passes a right library and finds each wrong one."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from glmc_runtime.cli import main
from glmc_runtime.doctor import CHAIN_NAME, examine
from glmc_runtime.doctor.references import Outcome
from glmc_runtime.doctor.report import Report
from glmc_runtime.errors import RequestError
from glmc_runtime.kernels.vendor import find_vendor
from tests.runtime.broken_vendor import Change, break_function
from tests.runtime.toy_vendor import write_vendor_toy

emulator = pytest.importorskip("glmc_kunlun_emulator")


@pytest.fixture(scope="module")
def path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_vendor_toy(tmp_path_factory.mktemp("vendor") / "toy")


def test_the_emulator_passes_every_check(path: Path) -> None:
    report = examine(path, emulate=True)
    assert report.passed, report.text()
    assert not report.unchecked
    assert set(report.findings) == {
        "kunlun_ops.rmsnorm",
        "kunlun_ops.add_rmsnorm",
        "kunlun_ops.rotary_embedding",
        "kunlun_ops.reshape_and_cache_flash",
        "kunlun_ops.prefill_attention",
        "kunlun_ops.speculative_attention",
        "kunlun_ops.moe_sigmoid_group_topk_norm",
        "kunlun_ops.gen_block_statistic",
        CHAIN_NAME,
    }
    assert all(finding.checks >= 8 for finding in report.findings.values())
    assert report.text().count("emulated") >= len(report.findings)


def _scaled(name: str) -> Change:
    def change(function: Callable[..., Any], arguments: dict[str, Any]) -> None:
        function(**arguments)
        arguments[name].mul_(1.01)

    return change


def _unwritten(function: Callable[..., Any], arguments: dict[str, Any]) -> None:
    """Ignores the return code and leaves what was there."""


def _last_row_missing(name: str) -> Change:
    def change(function: Callable[..., Any], arguments: dict[str, Any]) -> None:
        kept = arguments[name][-1].clone()
        function(**arguments)
        arguments[name][-1].copy_(kept)

    return change


def _other_rotation(function: Callable[..., Any], arguments: dict[str, Any]) -> None:
    function(**{**arguments, "is_neox": not arguments["is_neox"]})


def _one_token_too_many(function: Callable[..., Any], arguments: dict[str, Any]) -> None:
    longer = {name: arguments[name] + 1 for name in ("context_lens_cpu", "context_lens_xpu")}
    function(**{**arguments, **longer})


def _stray_write(function: Callable[..., Any], arguments: dict[str, Any]) -> None:
    function(**arguments)
    arguments["key_cache"][-1, 0, 0].add_(1.0)


def _same_expert_twice(function: Callable[..., Any], arguments: dict[str, Any]) -> None:
    function(**arguments)
    arguments["topk_index"][:, 1].copy_(arguments["topk_index"][:, 0])


@pytest.mark.parametrize(
    ("function", "change", "finding"),
    [
        ("rmsnorm", _scaled("output"), None),
        ("rmsnorm", _last_row_missing("output"), None),
        ("add_rmsnorm", _unwritten, None),
        ("rotary_embedding", _other_rotation, None),
        ("reshape_and_cache_flash", _stray_write, None),
        ("prefill_attention", _last_row_missing("out"), None),
        ("speculative_attention", _one_token_too_many, None),
        ("moe_sigmoid_group_topk_norm", _unwritten, None),
        ("moe_sigmoid_group_topk_norm", _same_expert_twice, None),
        ("moe_sigmoid_group_topk_norm", _scaled("norm_score"), None),
        ("gen_block_statistic", _unwritten, None),
        ("moe_fc", _scaled("y"), CHAIN_NAME),
        ("moe_post", _unwritten, CHAIN_NAME),
        ("swiglu", _scaled("y"), CHAIN_NAME),
    ],
)
def test_a_wrong_kernel_is_found_and_no_other_is_blamed(
    path: Path,
    monkeypatch: pytest.MonkeyPatch,
    function: str,
    change: Change,
    finding: str | None,
) -> None:
    break_function(monkeypatch, function, change)
    report = examine(path, emulate=True)
    failed = {name for name, item in report.findings.items() if not item.passed}
    assert failed == {finding or f"kunlun_ops.{function}"}
    assert "FAIL" in report.text()


def test_a_raising_kernel_fails_its_check_only(
    path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def rmsnorm(function: Callable[..., Any], arguments: dict[str, Any]) -> None:
        raise ValueError("Check 0 == ret failed")

    break_function(monkeypatch, "rmsnorm", rmsnorm)
    assert main(["doctor", str(path), "--emulate", "--json"]) == 1
    report = json.loads(capsys.readouterr().out)
    assert report["passed"] is False
    assert report["functions"]["kunlun_ops.rmsnorm"]["failures"][0]["problem"].startswith("Check 0")
    assert report["functions"]["kunlun_ops.add_rmsnorm"]["passed"] is True


def test_an_artifact_without_vendor_calls_has_nothing_to_check(
    toy_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["doctor", str(toy_path)]) == 0
    assert "verdict: nothing to check" in capsys.readouterr().out
    assert main(["doctor", str(toy_path), "--json"]) == 0
    report = json.loads(capsys.readouterr().out)
    assert (report["verdict"], report["functions"]) == ("nothing to check", {})


def test_a_report_passes_only_when_everything_was_checked() -> None:
    vendor = find_vendor("P-A", emulate=True)
    report = Report("toy", vendor, "cpu")
    assert (report.verdict, report.passed) == ("incomplete", False)
    report.add("kunlun_ops.rmsnorm", "here", Outcome())
    assert (report.verdict, report.passed) == ("pass", True)
    report.unchecked.add("kunlun_ops.matmul")
    assert (report.verdict, report.passed) == ("incomplete", False)
    assert report.to_json()["verdict"] == "incomplete"
    report.add("kunlun_ops.rmsnorm", "there", Outcome(problem="wrong"))
    assert (report.verdict, report.passed) == ("FAIL", False)


@pytest.mark.parametrize(
    "options", [{"seed": 1.5}, {"seed": True}, {"emulate": 1}, {"verify_hashes": "no"}], ids=repr
)
def test_options_of_other_kinds_are_refused_by_name(
    tmp_path: Path, options: dict[str, Any]
) -> None:
    with pytest.raises(RequestError, match=next(iter(options))):
        examine(tmp_path, **options)
