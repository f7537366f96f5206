"""An estimate as lines and tables of a terminal, and as JSON."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import asdict
from typing import Any

from glmc.estimates.estimate import Estimate, Placed
from glmc.estimates.step_estimate import EstimatedLine, EstimatedStep
from glmc.ir.ops.collectives import ALL_REDUCES
from glmc_runtime.command.units import bytes_text, count_text, share_text
from glmc_runtime.format.cache import shown
from glmc_runtime.format.phases import DECODE

COLUMNS = ("kernels", "module", "calls", "launches", "MB", "GFLOP", "floor us", "us", "ms in all")
NOT_COUNTED = (
    "Device graphs, the driver, torch's own context and workspaces of kernels come on top of the "
    "memory and are not counted."
)


OPTIONS = (
    *("cards as", "GiB a card", "fits", "batch", "decode ms", "tokens/s", "communication"),
    *("prefill ms", "best all-reduce"),
)


def header(estimate: Estimate) -> Iterator[str]:
    """What it takes of a card, a line for each purpose."""
    placed, device = estimate.placed, estimate.device
    needs, memory = placed.needs, device.memory.value
    third = ", from third-party numbers" if device.third_party else ""
    cards = placed.placement.ranks * placed.placement.replicas
    where = device.title if cards == 1 else f"{cards} {device.title}, {placed.placement}"
    yield (
        f"{estimate.model}: {count_text(estimate.parameters)} parameters, {estimate.dtype}, on "
        f"{where}: predicted{third}"
    )
    yield f"  weights      {bytes_text(needs.weights)} a card, of {bytes_text(memory)}"
    yield f"  KV cache     {bytes_text(needs.token)} a token"
    yield f"  arena        {bytes_text(needs.arena)}; step inputs {bytes_text(needs.inputs)}"
    verdict = "fits" if placed.fits else f"{bytes_text(placed.total - memory)} short"
    yield (
        f"  {placed.batch} x {placed.context:,} tokens take {bytes_text(placed.total)} of a card: "
        f"{verdict}"
    )
    if placed.fits:
        yield (
            f"  room for {placed.largest_batch:,} sequences of {placed.context:,} tokens, or "
            f"{placed.batch:,} of {placed.longest_context:,}"
        )


def option_rows(estimate: Estimate) -> Iterator[tuple[str, ...]]:
    """A row for each way to deal the model to the cards, under :data:`OPTIONS`."""
    mark = " (best)" if estimate.placed.fits else " (shown)"
    for each in estimate.options:
        yield (
            f"{each.placement}{mark if each is estimate.placed else ''}",
            f"{each.total / 2**30:,.1f}",
            "yes" if each.fits else "no",
            str(each.batch),
            _ms(each.decode.seconds),
            f"{each.tokens_per_second:,.0f}",
            share_text(each.decode.communication) if each.group else "-",
            _ms(each.prefill.seconds),
            _fastest(each, estimate.dtype),
        )


def _fastest(placed: Placed, dtype: str) -> str:
    """The all-reduce of a decode step by the table, and the fastest where that is another."""
    reduced = [each for each in placed.decode.collectives if each.line.op in ALL_REDUCES]
    if placed.group is None or not reduced:
        return "-"
    name, seconds = placed.group.best(reduced[0].line.cost.message, dtype)
    taken = f"{reduced[0].algorithm} {reduced[0].seconds * 1e6:,.1f} us"
    if name == reduced[0].algorithm:
        return taken
    return f"{name} {seconds * 1e6:,.1f} us, table: {taken}"


def title(step: EstimatedStep) -> str:
    """What a step computes, and how long it takes."""
    it = step.step
    if it.phase == DECODE.name:
        what = f"decode, batch {it.sequences}, context {it.context:,}"
    else:
        what = f"{it.phase}, {it.new:,} tokens"
    bucket = "" if it.rows == it.sequences * it.new else f", in the bucket of {it.rows}"
    rate = it.sequences * it.new / step.seconds
    return (
        f"{what}{bucket}: predicted {_ms(step.seconds)} ms ({rate:,.0f} tokens/s), floor "
        f"{_ms(step.floor)} ms, {share_text(step.floor / step.seconds)} of it"
    )


def detail(step: EstimatedStep) -> str:
    """What a step moves, computes and launches."""
    host = ""
    if step.host > step.device:
        host = f"; the host's launches take longer than the device's {_ms(step.device)} ms"
    told = ""
    if step.collectives:
        count = sum(each.line.count for each in step.collectives)
        told = (
            f", {step.messages / 1e6:,.2f} MB in {count} messages "
            f"({share_text(step.communication)} of the time)"
        )
    if step.between:
        host += f", {_ms(step.between)} ms between two steps"
    return (
        f"{step.bytes / 1e9:,.2f} GB, {step.flops / 1e12:,.3f} TFLOP{told}, {step.kernels} "
        f"launches, {step.launches.eager} of them by the host beside {step.launches.graphs} device "
        f"graphs{host}"
    )


def rows(step: EstimatedStep) -> Iterator[tuple[str, ...]]:
    """A row for each line of a step, under :data:`COLUMNS`."""
    for each in step.lines:
        line = each.line
        yield (
            " + ".join(line.kernels) + (f" ({each.algorithm})" if each.algorithm else ""),
            line.module,
            str(line.count),
            str(line.launches),
            f"{line.cost.bytes / 1e6:,.2f}",
            f"{line.cost.flops / 1e9:,.2f}",
            f"{each.floor * 1e6:,.1f}",
            f"{each.seconds * 1e6:,.1f}",
            f"{each.total * 1e3:,.3f}",
        )


def notes(estimate: Estimate) -> Iterator[str]:
    """What the numbers are and are not."""
    for placement, reason in estimate.refused:
        yield f"{placement}: {reason}."
    if estimate.placed.group is not None:
        entry = estimate.placed.group.entry(estimate.dtype)
        yield f"The table of collectives is {entry.origin}."
    yield (
        "MB, GFLOP, floor and us are of one node, a prediction of the model in docs/estimate.md; "
        "experts are drawn evenly."
    )
    yield NOT_COUNTED
    kinds: dict[str, int] = {}
    for number in estimate.device.numbers().values():
        kinds[number.kind] = kinds.get(number.kind, 0) + 1
    counted = ", ".join(f"{count} {kind}" for kind, count in sorted(kinds.items()))
    yield f"Of the numbers of {estimate.device.name}, {counted}: --json has the source of each."


def to_json(estimate: Estimate) -> dict[str, Any]:
    """All of it, with the sources of the device's numbers."""
    device = estimate.device
    return {
        "model": estimate.model,
        "dtype": estimate.dtype,
        "predicted": True,
        "device": {
            "name": device.name,
            "title": device.title,
            "third_party": device.third_party,
            "numbers": {name: asdict(number) for name, number in device.numbers().items()},
        },
        **_placed_json(estimate.placed),
        "steps": [_step_json(step) for step in estimate.placed.steps],
        "options": [
            {
                **_placed_json(each),
                "best": each is estimate.placed,
                "decode_seconds": each.decode.seconds,
                "tokens_per_second": each.tokens_per_second,
                "communication": each.decode.communication,
                "prefill_seconds": each.prefill.seconds,
            }
            for each in estimate.options
        ],
        "refused": [
            {"placement": asdict(placement), "reason": reason}
            for placement, reason in estimate.refused
        ],
    }


def _placed_json(placed: Placed) -> dict[str, Any]:
    needs = placed.needs
    return {
        "placement": asdict(placed.placement),
        "memory": {
            "card_bytes": int(placed.device.memory.value),
            "weight_bytes": needs.weights,
            "cache_bytes_per_token": needs.token,
            "arena_bytes": needs.arena,
            "input_bytes": needs.inputs,
            "batch": placed.batch,
            "context": placed.context,
            "total_bytes": placed.total,
            "fits": placed.fits,
            "largest_batch": placed.largest_batch,
            "longest_context": placed.longest_context,
        },
    }


def _step_json(step: EstimatedStep) -> dict[str, Any]:
    return {
        **asdict(step.step),
        "seconds": step.seconds,
        "device_seconds": step.device,
        "host_seconds": step.host,
        "between_steps_seconds": step.between,
        "floor_seconds": step.floor,
        "bytes": step.bytes,
        "flops": step.flops,
        "message_bytes": step.messages,
        "communication": step.communication,
        "launches": {"kernels": step.kernels, **asdict(step.launches)},
        "lines": [_line_json(each) for each in step.lines],
    }


def _line_json(each: EstimatedLine) -> dict[str, Any]:
    line = each.line
    return {
        "op": line.op,
        "module": line.module,
        "layers": None if line.layers is None else shown(line.layers),
        "count": line.count,
        "kernels": line.kernels,
        **asdict(line.cost),
        "algorithm": each.algorithm,
        "floor_seconds": each.floor,
        "seconds": each.seconds,
    }


def _ms(seconds: float) -> str:
    return f"{seconds * 1e3:,.2f}"
