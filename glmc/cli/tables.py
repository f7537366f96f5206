"""Tables of a compile report, for ``glmc compile`` and ``glmc inspect``."""

from __future__ import annotations

import resource
from collections.abc import Container, Iterator, Mapping
from pathlib import Path
from typing import Any

from rich.table import Table

from glmc.cli.clock import elapsed, parts_text
from glmc_runtime.command.units import bytes_text, count_text, seconds_text
from glmc_runtime.format.phases import DECODE

Report = Mapping[str, Any]
NOT_RECORDED = "not recorded"


def passes_table(report: Report) -> Table:
    """One row per pass: nodes, matches found and expected, near misses, time, kinds of regions that
    were evaluated; the first of its verdicts where there are any."""
    table = Table(title="Passes")
    verified = any("verdict" in row for row in report["passes"])
    for column in ("pass", "numerics"):
        table.add_column(column, no_wrap=True)
    for column in (
        "nodes before",
        "after",
        "matches",
        "expected",
        "near misses",
        "time",
        "evaluated",
    ):
        table.add_column(column, justify="right")
    if verified:
        table.add_column("verdict")
    expected = report["expected_matches"]
    for row in report["passes"]:
        table.add_row(
            row["name"],
            row["numerics"],
            str(row["nodes_before"]),
            str(row["nodes_after"]),
            str(row["matches"]),
            str(expected.get(row["name"], "-")),
            str(len(row["near_misses"])),
            _duration(row["seconds"]),
            _evaluated(row.get("evaluated")),
            *([row.get("verdict", "").partition(";")[0]] if verified else []),
        )
    return table


def _evaluated(instances: Mapping[str, Any] | None) -> str:
    """Kinds of regions, those of them that were run as a small instance, and the time."""
    if not instances or not instances["kinds"]:
        return "-"
    small = f", {instances['small']} small" if instances["small"] else ""
    seconds = instances["seconds"]
    return f"{instances['kinds']}{small}" + (
        "" if seconds is None else f", {seconds_text(seconds)}"
    )


def _duration(seconds: float | None) -> str:
    return NOT_RECORDED if seconds is None else seconds_text(seconds)


def calls_table(report: Report) -> Table:
    """Per layer: ATen operations of the eager model against calls of one decode step."""
    decode = report["phases"][DECODE.name]
    vendor, helpers = decode["vendor_calls_by_layer"], decode["helper_calls_by_layer"]
    eager = report["eager"].get("by_layer", {})
    target = report["options"]["target"]
    table = Table(title="Calls of a decode step against the eager model, by layer")
    table.add_column("layers")
    kernel = "vendor calls" if target == "xpu" else "kernel calls"
    for column in ("eager ATen operations", kernel, "helper calls"):
        table.add_column(column, justify="right")
    for layers, name in _runs(report):
        table.add_row(
            layers,
            str(eager.get(name, 0)),
            str(vendor.get(name, 0) + (0 if target == "xpu" else helpers.get(name, 0))),
            str(helpers.get(name, 0) if target == "xpu" else 0),
        )
    table.add_row(
        "step",
        str(report["eager"].get("total", 0)),
        str(sum(vendor.values()) + (0 if target == "xpu" else sum(helpers.values()))),
        str(sum(helpers.values()) if target == "xpu" else 0),
        style="bold",
    )
    return table


def _runs(report: Report) -> Iterator[tuple[str, str]]:
    """Runs of layers with the same counts as (text, name of one of them)."""
    decode = report["phases"][DECODE.name]

    def counts(name: str) -> tuple[int, ...]:
        sources = (
            decode["vendor_calls_by_layer"],
            decode["helper_calls_by_layer"],
            report["eager"].get("by_layer", {}),
        )
        return tuple(source.get(name, 0) for source in sources)

    names = [str(layer) for layer in range(report["model"]["layers"])]
    start = 0
    for index in range(1, len(names) + 1):
        if index == len(names) or counts(names[index]) != counts(names[start]):
            text = names[start] if index - start == 1 else f"{names[start]}-{names[index - 1]}"
            yield text, names[start]
            start = index
    yield "outside", "outside"


def phases_table(report: Report) -> Table:
    """One row per phase: calls, segments and the arena at the largest bucket."""
    table = Table(title="Plan")
    for column in ("phase", "calls", "segments", "captured", "buffers", "arena, largest bucket"):
        table.add_column(column, justify="left" if column == "phase" else "right")
    for name, phase in report["phases"].items():
        bucket, size = list(phase["arena_bytes"].items())[-1]
        table.add_row(
            name,
            str(phase["calls"]),
            str(phase["segments"]),
            str(phase["captured_segments"]),
            str(phase["buffers"]),
            f"{bytes_text(size)} at {bucket}",
        )
    return table


def summary_lines(report: Report, path: Path, told: Container[str] = ()) -> Iterator[str]:
    """What was compiled, and the remarks but those that the user was ``told`` before."""
    model, options = report["model"], report["options"]
    profile = f", ABI profile {options['abi_profile']}" if options["abi_profile"] else ""
    yield (
        f"{model['name']}: {model['architecture']}, {count_text(model['parameters'])} parameters, "
        f"{options['dtype']} for {options['target']}{profile}"
    )
    decode = report["phases"][DECODE.name]
    vendor = sum(decode["vendor_calls_by_layer"].values())
    helpers = sum(decode["helper_calls_by_layer"].values())
    calls = (
        f"{vendor} vendor calls and {helpers} helper calls"
        if options["target"] == "xpu"
        else f"{vendor + helpers} kernel calls"
    )
    eager = report["eager"]["total"]
    yield f"decode step: {calls}, against {eager} ATen operations of the eager model"
    for remark in report["remarks"]:
        if remark not in told:
            yield f"note: {remark}"
    missing = sum(len(row["near_misses"]) for row in report["passes"])
    if missing:
        yield f"{missing} near misses; see 'glmc inspect {path}'"


def time_line(path: Path, took: dict[str, float]) -> str:
    """What the compile took until now, part by part."""
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    times = parts_text(elapsed(), took, rest="compile")
    return f"{path} written in {times}; peak memory {bytes_text(peak)}"
