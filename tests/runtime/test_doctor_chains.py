"""The doctor's expert chains: only calls of one node, and each chain that differs anywhere."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from glmc_runtime.doctor import CHAIN_NAME, examine
from glmc_runtime.format.plan import Call, PhasePlan, Segment, ValueArgument
from tests.runtime import toy_vendor
from tests.runtime.broken_vendor import break_function
from tests.runtime.toy_vendor import write_vendor_toy

pytest.importorskip("glmc_kunlun_emulator")

CHANGED_EPS = 0.25
Rewrite = Callable[[list[Call]], list[Call]]


def _write(root: Path, monkeypatch: pytest.MonkeyPatch, rewrite: Rewrite) -> Path:
    """The toy with other calls; everything after the attention stays one segment."""
    original = toy_vendor.plan

    def plan(name: str) -> PhasePlan:
        made = original(name)
        calls = tuple(rewrite(list(made.calls)))
        last = replace(made.segments[-1], last=len(calls) - 1)
        segments: tuple[Segment, ...] = (*made.segments[:-1], last)
        return replace(made, calls=calls, segments=segments)

    monkeypatch.setattr(toy_vendor, "plan", plan)
    return write_vendor_toy(root / "toy")


def _write_plain(root: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The toy as it is."""
    monkeypatch.undo()
    return write_vendor_toy(root / "plain")


def _place(calls: list[Call], function: str) -> int:
    return next(
        number for number, call in enumerate(calls) if call.function == f"kunlun_ops.{function}"
    )


def _other_norm_inside(calls: list[Call]) -> list[Call]:
    """The first norm again, as another node's call between the kernels of the experts."""
    norm = calls[_place(calls, "rmsnorm")]
    arguments = {**norm.arguments, "eps": ValueArgument(CHANGED_EPS)}
    inside = _place(calls, "moe_post")
    return [*calls[:inside], replace(norm, node="other", arguments=arguments), *calls[inside:]]


def _zeros(calls: list[Call]) -> list[Call]:
    """The calls that zero what the kernels of the experts count up in."""
    sorts = calls[_place(calls, "moe_pre_sorted")].arguments
    counted = [sorts[name] for name in ("expert_m", "sorted_tokens_num_lod")]
    zeros = [call for call in calls if call.function == "aten.zero"]
    return [call for call in zeros if call.arguments["out"] in counted]


def _second_chain(calls: list[Call]) -> list[Call]:
    """The experts again as a second node, with a word more in its grouped products."""
    first, last = _place(calls, "moe_pre_sorted"), _place(calls, "moe_post")
    again = _zeros(calls)
    for call in calls[first : last + 1]:
        arguments = dict(call.arguments)
        if call.function == "kunlun_ops.moe_fc":
            arguments["sort_mode"] = ValueArgument(True)
        again.append(replace(call, node="experts_again", arguments=arguments))
    return [*calls[: last + 1], *again, *calls[last + 1 :]]


def _interleaved(calls: list[Call]) -> list[Call]:
    """Two chains whose second begins before the first one ends."""
    calls = _second_chain(calls)
    second = next(n for n, call in enumerate(calls) if call.node == "experts_again")
    post = _place(calls, "moe_post")
    start = second - len(_zeros(calls)) // 2
    begin = calls[start : second + 1]
    return [*calls[:post], *begin, *calls[post:start], *calls[second + 1 :]]


def test_a_call_of_another_node_inside_a_chain_is_checked_by_itself(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = _write(tmp_path, monkeypatch, _other_norm_inside)
    report = examine(path, emulate=True)
    assert report.passed, report.text()

    def wrong_for_one_eps(function: Callable[..., Any], arguments: dict[str, Any]) -> None:
        function(**arguments)
        if arguments["eps"] == CHANGED_EPS:
            arguments["output"].mul_(1.1)

    break_function(monkeypatch, "rmsnorm", wrong_for_one_eps)
    report = examine(path, emulate=True)
    failed = {name for name, finding in report.findings.items() if not finding.passed}
    assert failed == {"kunlun_ops.rmsnorm"}
    places = [where for where, _ in report.findings["kunlun_ops.rmsnorm"].failures]
    assert places
    assert all("node 'other'" in where for where in places)


def test_a_call_without_reference_inside_a_chain_is_reported(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def stray_product(calls: list[Call]) -> list[Call]:
        place = _place(calls, "moe_fc")
        return [*calls[: place + 1], replace(calls[place], node="stray"), *calls[place + 1 :]]

    report = examine(_write(tmp_path, monkeypatch, stray_product), emulate=True)
    assert report.unchecked == {"kunlun_ops.moe_fc"}
    assert report.verdict == "incomplete"


@pytest.mark.parametrize("rewrite", [_second_chain, _interleaved])
def test_chains_that_begin_equal_and_differ_later_are_both_checked(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, rewrite: Rewrite
) -> None:
    path = _write(tmp_path, monkeypatch, rewrite)
    report = examine(path, emulate=True)
    assert report.passed, report.text()
    one_chain = examine(_write_plain(tmp_path, monkeypatch), emulate=True)
    checks = report.findings[CHAIN_NAME].checks
    assert checks == 2 * one_chain.findings[CHAIN_NAME].checks

    def wrong_with_the_word(function: Callable[..., Any], arguments: dict[str, Any]) -> None:
        function(**arguments)
        if "sort_mode" in arguments:
            arguments["y"].mul_(1.1)

    break_function(monkeypatch, "moe_fc", wrong_with_the_word)
    report = examine(path, emulate=True)
    finding = report.findings[CHAIN_NAME]
    assert all("node 'experts_again'" in where for where, _ in finding.failures)
    assert 0 < len(finding.failures) <= checks // 2


def test_equal_chains_are_checked_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def twice(calls: list[Call]) -> list[Call]:
        first, last = _place(calls, "moe_pre_sorted"), _place(calls, "moe_post")
        again = [replace(call, node="experts_again") for call in calls[first : last + 1]]
        return [*calls[: last + 1], *_zeros(calls), *again, *calls[last + 1 :]]

    report = examine(_write(tmp_path, monkeypatch, twice), emulate=True)
    one_chain = examine(_write_plain(tmp_path, monkeypatch), emulate=True)
    assert report.findings[CHAIN_NAME].checks == one_chain.findings[CHAIN_NAME].checks
