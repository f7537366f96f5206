"""``glmc inspect ARTIFACT``: what is in it, what it needs, what fits, what was not fused."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer
from rich.console import RenderableType
from rich.table import Table

from glmc.artifact.reader import ArtifactContents, read_artifact
from glmc.cli.options import Json, all_passes, complete, models, option
from glmc.cli.ranks_tables import ranks_line, ranks_parts
from glmc.cli.say import console
from glmc.cli.tables import NOT_RECORDED, calls_table, passes_table, phases_table
from glmc.errors import UsageError
from glmc_runtime.command.ending import stopped_at_once
from glmc_runtime.command.nearest import did_you_mean
from glmc_runtime.command.units import bytes_text, count_text
from glmc_runtime.format.artifact_files import require_directory
from glmc_runtime.format.engine_weights import comes_from_an_engine
from glmc_runtime.format.manifest import manifest_to_json
from glmc_runtime.format.phases import DECODE, PREFILL
from glmc_runtime.format.plan import Call, PhasePlan
from glmc_runtime.format.recipes import RECIPES

if TYPE_CHECKING:
    from glmc_runtime.loading.fit import Card

# Device memory of one P800 card: 96 GiB, as its driver reports it (docs/kunlun.md).
_DEVICE_MEMORY = "96GiB"
LOOK_GROUP, ASK_GROUP = "What is shown", "One question in its place"
_all_phases = complete(lambda: (PREFILL.name, DECODE.name))


def inspect_command(
    artifact: Annotated[
        str,
        typer.Argument(
            help="Directory written by glmc compile; for --why-not also a model.",
            metavar="ARTIFACT",
            autocompletion=models,
        ),
    ],
    layer: Annotated[
        int | None,
        option("Show the calls of this layer; with --why-not only it.", LOOK_GROUP, metavar="N"),
    ] = None,
    phase: Annotated[
        str, option("Phase whose calls are shown.", LOOK_GROUP, metavar="NAME", names=_all_phases)
    ] = DECODE.name,
    device_memory: Annotated[
        str, option("Memory of one device, for what fits.", LOOK_GROUP, metavar="SIZE")
    ] = _DEVICE_MEMORY,
    verify: Annotated[bool, option("Compare all file hashes.", LOOK_GROUP, "--verify")] = False,
    node: Annotated[
        str | None,
        option("Follow this id from the model to its kernel calls.", ASK_GROUP, metavar="ID"),
    ] = None,
    why_not: Annotated[
        str | None,
        option(
            "Say why this pass did not match, nearest miss first.",
            ASK_GROUP,
            metavar="PASS",
            names=all_passes,
        ),
    ] = None,
    page: Annotated[
        Path | None, option("Write the compile as an HTML page.", ASK_GROUP, metavar="FILE")
    ] = None,
    align: Annotated[
        Path | None,
        option(
            "With --page: also the error of each node, from the page of glmc align or its JSON.",
            ASK_GROUP,
            metavar="FILE",
        ),
    ] = None,
    timeline: Annotated[
        Path | None,
        option(
            "With --page: also the time of each call, from the page of glmc timeline or from what "
            "glmc run --timeline wrote.",
            ASK_GROUP,
            metavar="FILE",
        ),
    ] = None,
    as_json: Json = False,
) -> None:
    """Show passes, kernels per layer, memory, limits, guards and what was not fused."""
    if layer is not None and why_not is None and (node is not None or page is not None or as_json):
        raise UsageError(
            "--layer chooses rows of the tables, and goes with --why-not",
            found="--layer with --node, --page or --json",
            remedy="leave it out; an id names its layer: --node layers.17.mlp.gate",
        )
    if page is None and (align is not None or timeline is not None):
        raise UsageError(
            "--align and --timeline are shown on the page", remedy="add --page FILE, or leave out"
        )
    if node is not None or why_not is not None or page is not None:
        if why_not is None:
            require_directory(artifact)
        with stopped_at_once():
            from glmc.cli.inspect_history import HistoryQuestion, inspect_history

        question = HistoryQuestion(artifact, layer, node, why_not, page, align, timeline)
        inspect_history(question, as_json=as_json)
        return
    contents = read_artifact(Path(artifact), verify_hashes=verify)
    card = _card(contents, device_memory)
    plans = {str(key): plan for key, plan in contents.plans.items()}
    if phase not in plans:
        raise UsageError(
            f"the artifact has no phase '{phase}'",
            expected=", ".join(plans),
            remedy=did_you_mean(phase, plans),
        )
    if as_json:
        typer.echo(json.dumps(_as_json(contents, card)))
        return
    out = console()
    for part in _parts(contents, plans[phase], layer, card):
        if isinstance(part, str):
            out.print(part, highlight=False, soft_wrap=True)
        else:
            out.print(part)


def _as_json(contents: ArtifactContents, card: Card) -> dict[str, Any]:
    from glmc_runtime.format.memory import weight_bytes

    manifest = manifest_to_json(contents.manifest)
    return {
        "manifest": {key: value for key, value in manifest.items() if key != "weights"},
        "report": contents.report,
        "weight_bytes": weight_bytes(contents.manifest),
        "device_memory": card.memory,
        "missing_bytes": card.missing,
        "fits": [asdict(fit) for fit in card.fits],
    }


def _parts(
    contents: ArtifactContents, plan: PhasePlan, layer: int | None, card: Card
) -> Iterator[RenderableType]:
    if layer is not None:
        calls = [call for call in plan.calls if call.layer == layer]
        if not calls:
            raise UsageError(
                f"there is no layer {layer}", expected=f"0 to {contents.manifest.model.layers - 1}"
            )
        yield _layer_table(plan, calls, f"Layer {layer}, {plan.name}")
        return
    yield from _header(contents, card)
    if contents.report:
        yield passes_table(contents.report)
        yield calls_table(contents.report)
        yield phases_table(contents.report)
    yield from ranks_parts(contents)
    yield _kernels_table(contents)
    yield _memory_table(plan)
    yield from _fits(card)
    yield from _not_fused(contents)


def _header(contents: ArtifactContents, card: Card) -> Iterator[str]:
    from glmc_runtime.format.memory import block_bytes, weight_bytes

    manifest = contents.manifest
    model, limits, cache = manifest.model, manifest.limits, manifest.cache
    profile = f", ABI profile {manifest.abi_profile}" if manifest.abi_profile else ""
    if manifest.deterministic:
        profile += f", deterministic ({manifest.deterministic})"
    weights = "included" if manifest.weights_included else "not included (compiled without)"
    if RECIPES in manifest.files:
        weights = "made of the checkpoint when it is loaded"
    elif comes_from_an_engine(manifest):
        weights = "made of tensors that an engine hands over when it is loaded"
    versions = ", ".join(f"{name} {version}" for name, version in manifest.versions.items())
    yield f"{contents.path}"
    yield (
        f"  model    {model.name}: {model.architecture}, {model.layers} layers, "
        f"{count_text(model.parameters)} parameters"
    )
    yield f"  target   {manifest.target}, {manifest.dtype}{profile}"
    several = manifest.ranks.count > 1
    if several:
        yield f"  ranks    {ranks_line(contents)}"
    each = " on each rank" if several else ""
    yield f"  weights  {bytes_text(weight_bytes(manifest))}{each}, {weights}"
    yield (
        f"  limits   context {limits.max_context}, batch {manifest.phase(DECODE.key).buckets[-1]}, "
        f"prefill steps of {manifest.phase(PREFILL.key).buckets[-1]} tokens"
    )
    yield (
        f"  cache    blocks of {cache.block_size} tokens, "
        + "; ".join(f"{row.name} {' x '.join(map(str, row.shape))}" for row in cache.tensors)
        + f", {cache.layout}"
    )
    size, token = bytes_text(card.memory), block_bytes(cache) // cache.block_size
    fits = (
        f"does not fit into {size}: {bytes_text(card.missing)} are missing"
        if card.missing
        else f"fits into {size} with one sequence of {card.fits[0].context:,} tokens"
    )
    yield (f"  memory   {bytes_text(token)} of cache a token; {fits} ('glmc fit {contents.path}')")
    yield f"  made by  {versions}"
    yield f"  written  {contents.times.written if contents.times else NOT_RECORDED}"
    guards = manifest.guards
    yield (
        f"  guards   glmc-runtime >= {guards.minimum_runtime}, torch >= {guards.minimum_torch}, "
        f"{len(guards.vendor_functions)} vendor functions"
    )
    for name, keywords in guards.vendor_functions.items():
        yield f"           {name}({', '.join(keywords)})"


def _layer_table(plan: PhasePlan, calls: list[Call], title: str) -> Table:
    table = Table(title=title)
    for column in ("call", "kernel", "writes", "captured", "op", "node"):
        justify: Literal["right", "left"] = "right" if column == "call" else "left"
        table.add_column(column, justify=justify, overflow="fold")
    positions = {id(call): index for index, call in enumerate(plan.calls)}
    for call in calls:
        table.add_row(
            str(positions[id(call)]),
            call.function,
            ", ".join(call.writes),
            "no" if call.host else "yes",
            call.origin,
            call.node.partition(f"layers.{call.layer}.")[2] or call.node,
        )
    return table


def _kernels_table(contents: ArtifactContents) -> Table:
    table = Table(title="Kernels")
    table.add_column("kernel")
    for name in contents.plans:
        table.add_column(str(name), justify="right")
    counts = {
        name: {
            function: sum(call.function == function for call in plan.calls)
            for function in {call.function for call in plan.calls}
        }
        for name, plan in contents.plans.items()
    }
    for function in sorted(
        {function for by_function in counts.values() for function in by_function}
    ):
        table.add_row(
            function, *(str(by_function.get(function, 0)) for by_function in counts.values())
        )
    return table


def _memory_table(plan: PhasePlan, rows: int = 8) -> Table:
    """The largest buffers: where they are and when they live."""
    table = Table(title=f"Memory map of {plan.name}: arena {plan.arena} bytes, largest buffers")
    for column in ("buffer", "dtype", "shape", "offset", "calls"):
        table.add_column(column)
    sizes = {buffer.id: _size(buffer.shape) for buffer in plan.buffers}
    for buffer in sorted(plan.buffers, key=lambda item: -sizes[item.id])[:rows]:
        table.add_row(
            buffer.name,
            buffer.dtype,
            " x ".join(map(str, buffer.shape)),
            str(buffer.offset),
            f"{buffer.first}-{buffer.last}",
        )
    return table


def _size(shape: tuple[Any, ...]) -> int:
    size = 1
    for extent in shape:
        size *= extent.evaluate(dict.fromkeys(extent.symbols, 1))
    return size


def _card(contents: ArtifactContents, device_memory: str) -> Card:
    """What ``glmc fit`` says of one card and one token."""
    from glmc_runtime.loading.fit import Wanted, fit_report

    wanted = Wanted((device_memory,), batch=1, context=1)
    (card,) = fit_report(contents.manifest, contents.plans, wanted).cards
    return card


def _fits(card: Card) -> Iterator[RenderableType]:
    if card.missing:
        return
    table = Table(title=f"What fits into {bytes_text(card.memory)} of device memory")
    table.add_column("batch", justify="right")
    table.add_column("longest context", justify="right")
    for fit in card.fits:
        table.add_row(str(fit.batch), f"{fit.context:,}" if fit.context else "does not fit")
    yield table


def _not_fused(contents: ArtifactContents) -> Iterator[RenderableType]:
    misses = [miss for row in contents.report.get("passes", ()) for miss in row["near_misses"]]
    for remark in contents.report.get("remarks", ()):
        yield f"note: {remark}"
    if not misses:
        yield "Not fused: nothing nearly matched and was left out."
        return
    table = Table(title="Not fused")
    for column in ("pass", "layer", "node", "condition that failed", "source"):
        table.add_column(column)
    for miss in misses:
        layer = "-" if miss["layer"] is None else str(miss["layer"])
        table.add_row(miss["pass_name"], layer, miss["node"], miss["condition"], miss["source"])
    yield table
