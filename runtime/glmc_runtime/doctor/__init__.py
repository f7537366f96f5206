"""Check every vendor call of an artifact on this machine against plain torch.

Each call is bound as a step would bind it, in the plan's own arena, with random and hostile
inputs and poisoned outputs. The expert kernels are checked as one chain, because the order of the
rows between them is nobody's business. Neither weights nor tokenizer of the artifact are needed.
"""

from __future__ import annotations

from os import PathLike

import torch

from glmc_runtime import arguments as kinds
from glmc_runtime.doctor.attention import ATTENTION_PROBES
from glmc_runtime.doctor.bench import Bench, steps_of
from glmc_runtime.doctor.experts import CHAIN_FIRST, CHAIN_LAST, fill_chain, judge_chain
from glmc_runtime.doctor.hostile import KINDS
from glmc_runtime.doctor.references import PROBES, Outcome
from glmc_runtime.doctor.report import Report
from glmc_runtime.engine.loaded import vendor_of
from glmc_runtime.errors import GlmcError
from glmc_runtime.format.plan import Call
from glmc_runtime.kernels import is_vendor
from glmc_runtime.loading.guards import (
    check_vendor_calls,
    check_vendor_functions,
    check_versions,
    device_for,
)
from glmc_runtime.loading.loader import Progress, load_artifact
from glmc_runtime.replay.phase import KERNEL_ERRORS

_PROBES = {**PROBES, **ATTENTION_PROBES}
CHAIN_NAME = "experts (moe_pre_sorted .. moe_post)"


def examine(
    path: str | PathLike[str],
    *,
    verify_hashes: bool = True,
    emulate: bool | None = None,
    device: str | torch.device | None = None,
    seed: int = 0,
    progress: Progress | None = None,
) -> Report:
    """Run all checks; raises what loading raises, but a failing call only fails its check.

    The options are those of :func:`glmc_runtime.load`; ``seed`` is of the random inputs.
    """
    seed = kinds.integer("seed", seed, least=-(2**63), most=2**63 - 1)
    emulate = kinds.optional(kinds.flag, "emulate", emulate)
    device = kinds.optional(kinds.device_name, "device", device)
    artifact = load_artifact(
        kinds.path("path", path),
        verify_hashes=kinds.flag("verify_hashes", verify_hashes),
        progress=kinds.optional(kinds.function, "progress", progress),
    )
    check_versions(artifact.manifest.guards)
    check_vendor_calls(artifact.manifest.guards, artifact.plans.values())
    vendor = vendor_of(artifact, emulate)
    check_vendor_functions(artifact.manifest.guards, vendor)
    place = device_for(artifact.manifest.guards, vendor, device)
    report = Report(artifact.path.name, vendor, str(place))
    if vendor is None:
        return report
    generator = torch.Generator().manual_seed(seed)
    with torch.inference_mode():
        for phase in artifact.plans:
            for step in steps_of(artifact, phase, generator):
                bench = Bench(artifact, phase, step, vendor, place, generator)
                _examine_step(bench, report)
    return report


def _examine_step(bench: Bench, report: Report) -> None:
    chains = _chains(bench)
    chained = {position for members in chains.values() for position in members}
    seen: set[tuple[str, ...]] = set()
    for position, call in enumerate(bench.plan.calls):
        members = chains.get(position, [position])
        if not is_vendor(call.function) or (position in chained and position not in chains):
            continue
        signature = tuple(bench.signature(member) for member in members)
        if signature in seen:
            continue
        seen.add(signature)
        if position in chains:
            _examine_chain(bench, members, report)
        elif _name(call) in _PROBES:
            _examine_call(bench, position, call, report)
        else:
            report.unchecked.add(call.function)


def _name(call: Call) -> str:
    """A vendor function without its family."""
    return call.function.partition(".")[2]


def _chains(bench: Bench) -> dict[int, list[int]]:
    """The expert chains by their first call: the vendor calls of one node, up to the last kernel.

    Calls of other nodes that stand between are no part of it and are checked by themselves.
    """
    chains: dict[int, list[int]] = {}
    open_chains: dict[str, list[int]] = {}
    for position, call in enumerate(bench.plan.calls):
        if not is_vendor(call.function):
            continue
        if _name(call) == CHAIN_FIRST and call.node not in open_chains:
            open_chains[call.node] = chains[position] = []
        if call.node in open_chains:
            open_chains[call.node].append(position)
            if _name(call) == CHAIN_LAST:
                del open_chains[call.node]
    return chains


def _examine_call(bench: Bench, position: int, call: Call, report: Report) -> None:
    probe = _PROBES[_name(call)]
    for kind in KINDS:
        try:
            arguments = bench.arguments(position)
            bench.poison(arguments[name] for name in call.writes)
            probe.fill(bench, arguments, kind)
            expected = probe.expected(bench, arguments)
            bench.run(position)
            outcome = probe.judge(arguments, expected)
        except (GlmcError, *KERNEL_ERRORS) as error:
            outcome = Outcome(problem=str(error).splitlines()[0])
        report.add(call.function, bench.place(call, kind), outcome)


def _examine_chain(bench: Bench, members: list[int], report: Report) -> None:
    first = bench.plan.calls[members[0]]
    for kind in KINDS:
        try:
            chain = fill_chain(bench, members, kind)
            for position in members:
                bench.run(position)
            outcome = judge_chain(chain)
        except (GlmcError, *KERNEL_ERRORS) as error:
            outcome = Outcome(problem=str(error).splitlines()[0])
        report.add(CHAIN_NAME, bench.place(first, kind), outcome)
