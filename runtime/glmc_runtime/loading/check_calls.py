"""Check every call of a plan against the schema of its kernel, and what it reads against what was
written.

A kernel believes its arguments: an index that points outside of its table, or a buffer that nobody
has filled, would have it read and write other memory. So this follows what each buffer holds from
call to call, without computing anything.
"""

from __future__ import annotations

from dataclasses import dataclass

from glmc_runtime.errors import PlanError
from glmc_runtime.format.extent import Extent
from glmc_runtime.format.manifest import Manifest
from glmc_runtime.format.phases import VOCABULARY
from glmc_runtime.format.plan import (
    Argument,
    Call,
    ListArgument,
    PhasePlan,
    ValueArgument,
    ViewArgument,
    place_of,
)
from glmc_runtime.format.step_inputs import CONTEXT, step_input
from glmc_runtime.kernels.allowed import allowed_kernels
from glmc_runtime.kernels.expressions import Value
from glmc_runtime.kernels.schema import INDICES, ArgumentSchema, KernelSchema
from glmc_runtime.loading.call_arguments import ArgumentFacts, Facts, Storage, TensorFacts, shown
from glmc_runtime.loading.call_fit import Fit, Misfit, fit

GREEDY = "greedy"
"""What a kernel that chooses the likeliest token of each row leaves."""


@dataclass(frozen=True)
class _Content:
    """What memory holds: how many elements of it are written, and of integers what they are.
    ``writer`` is the number of the call that wrote it, ``of`` the writer of what it was made of;
    ``negative``: -1 may be among the integers."""

    size: Extent
    holds: str = ""
    below: Extent | None = None
    writer: int = -1
    of: int | None = None
    negative: bool = False


class CallCheck:
    """Checks the calls of one plan, in order. All that they name is known to be there."""

    def __init__(self, plan: PhasePlan, manifest: Manifest) -> None:
        self._plan = plan
        self._facts = ArgumentFacts(plan, manifest)
        self._order = plan.phase.order
        self._at_most = self._order.at_most
        self._schema_of = allowed_kernels(manifest)
        self._fits: dict[tuple[object, ...], Fit] = {}  # layers repeat each other
        self._contents = _inputs(plan, manifest, self._facts)
        self._number = 0
        self._steps: dict[str, Value] = {
            "step.tokens": self._facts.normal(Extent.of(tokens=1)),
            "step.real_tokens": self._facts.normal(Extent.of(tokens=1), real=True),
        }

    def check(self) -> None:
        """Raise :class:`PlanError` for the first call that its kernel's schema refuses, or that
        reads what is not there, and for an output that is not written."""
        for number, call in enumerate(self._plan.calls):
            self._number = number
            place = f"{self._plan.name}, {place_of(call)}"
            try:
                self._check(call, place)
            except Misfit as error:
                raise PlanError(
                    f"{call.function}: {error.problem}",
                    place=place,
                    expected=error.expected,
                    found=error.found,
                ) from error
        self._check_outputs()

    def _check(self, call: Call, place: str) -> None:
        schema = self._schema_of(call.function, place)
        arguments: dict[str, Facts] = {}
        storages: dict[str, Storage] = {}
        key: list[object] = [call.function]
        for name, passed in call.arguments.items():
            facts, storage = self._describe(name, passed)
            arguments[name] = facts
            if storage is None:
                key += (name, facts)
            else:
                storages[name] = storage
                key += (name, id(facts))
        known = tuple(key)
        fitted = self._fits.get(known)
        if fitted is None:
            fitted = self._fits[known] = fit(schema, arguments, self._steps, self._order)
        _check_writes(schema, call, fitted, storages)
        _check_aliases(schema, fitted, storages)
        for argument, name, facts in fitted.tensors:
            if argument.reads:
                self._check_read(argument, name, facts, storages, fitted)
        after = [
            (storages[name], self._written(argument, name, facts, fitted, arguments, storages))
            for argument, name, facts in fitted.tensors
            if argument.writes
        ]
        for storage, content in after:
            self._write(storage, content)

    def _describe(self, name: str, argument: Argument) -> tuple[Facts, Storage | None]:
        if isinstance(argument, (ViewArgument, ListArgument)):
            raise Misfit(f"'{name}': a {type(argument).__name__} is in no artifact")
        try:
            if isinstance(argument, ValueArgument):
                return self._facts.value(argument), None
            return self._facts.of(argument)
        except PlanError as error:
            raise Misfit(f"'{name}': {error.message}", error.expected, error.found) from error

    def _check_read(
        self,
        argument: ArgumentSchema,
        name: str,
        facts: TensorFacts,
        storages: dict[str, Storage],
        fitted: Fit,
    ) -> None:
        content = self._contents.get(storages[name])
        if facts.kind == "buffer" and content is None:
            raise Misfit(f"'{name}' is read before anything was written to it")
        if facts.dtype not in INDICES:  # rows of padding may be left as they are
            return
        if content is not None and not any(
            self._at_most(size, content.size) for size in (facts.size, facts.room)
        ):
            raise Misfit(
                f"'{name}' is read in part before anything was written to it",
                f"at most {content.size} elements",
                str(facts.size),
            )
        holds = "" if content is None else content.holds
        if argument.holds and holds not in argument.holds:
            raise Misfit(
                f"'{name}' does not hold what the kernel reads there",
                " or ".join(argument.holds),
                holds or "other integers",
            )
        if argument.holds and facts.kind == "input" and not facts.whole:
            raise Misfit(
                f"'{name}' is a part of a step input, or its rows in another order",
                "the shape that the plan declares",
                shown(facts.shape),
            )
        if argument.of is not None and not argument.writes:
            made_of = self._contents.get(storages.get(argument.of, ("", "")))
            if content is None or made_of is None or content.of != made_of.writer:
                raise Misfit(f"'{name}' was not made of what '{argument.of}' holds now")
        if name in fitted.below and not argument.writes:
            below = None if content is None else content.below
            if below is None or not self._at_most(below, fitted.below[name]):
                raise Misfit(
                    f"'{name}' may point outside of what the kernel reads with it",
                    f"integers below {fitted.below[name]}",
                    "any integers" if below is None else f"integers below {below}",
                )
            takes = argument.negative is True or fitted.sizes.get(str(argument.negative)) is True
            if content is not None and content.negative and not takes:
                raise Misfit(
                    f"'{name}' may hold -1, which the kernel takes for a place",
                    f"{argument.negative} true" if argument.negative else "no negative integers",
                    "-1 among the integers",
                )

    def _written(
        self,
        argument: ArgumentSchema,
        name: str,
        facts: TensorFacts,
        fitted: Fit,
        arguments: dict[str, Facts],
        storages: dict[str, Storage],
    ) -> _Content:
        """What the memory of a written argument holds after the call."""
        source = argument.source
        if source is not None and source in storages:
            there, read = self._contents.get(storages[source]), arguments[source]
            if there is not None and isinstance(read, TensorFacts) and read.dtype in INDICES:
                return _Content(
                    facts.size, there.holds, there.below, self._number, negative=there.negative
                )
        made_of = None
        if argument.of is not None and argument.of in storages:
            there = self._contents.get(storages[argument.of])
            is_new = argument.of in fitted.written
            made_of = self._number if is_new or there is None else there.writer
        below = fitted.below.get(name)
        return _Content(
            facts.size, argument.leaves, below, self._number, made_of, argument.negative is True
        )

    def _write(self, storage: Storage, content: _Content) -> None:
        """Where only a part is written, the whole holds what both have in common."""
        if storage[0] != "buffer":
            return
        before = self._contents.get(storage)
        if before is not None and not self._at_most(before.size, content.size):
            same = before.holds == content.holds
            bounds = [size for size in (before.below, content.below) if size is not None]
            below = None
            if len(bounds) == 2:
                below = next(
                    (size for size in bounds if all(self._at_most(x, size) for x in bounds)),
                    None,
                )
            holds = content.holds if same else ""
            negative = before.negative or content.negative
            content = _Content(before.size, holds, below, self._number, negative=negative)
        self._contents[storage] = content

    def _check_outputs(self) -> None:
        plan = self._plan
        for identifier, name in ((plan.output, "logits"), (plan.greedy, "greedy tokens")):
            if identifier is None:
                continue
            content = self._contents.get(("buffer", identifier))
            if content is None or not self._at_most(self._facts.elements(identifier), content.size):
                raise PlanError(f"no call of {plan.name} writes all of its {name}")
            if identifier == plan.greedy and content.holds != GREEDY:
                raise PlanError(
                    f"the greedy tokens of {plan.name} come from no kernel that chooses tokens",
                    found=content.holds or "other integers",
                )


def _inputs(plan: PhasePlan, manifest: Manifest, facts: ArgumentFacts) -> dict[Storage, _Content]:
    """What the runtime fills in: an input holds what its name says, wherever it is."""
    cache = manifest.cache
    context = min(manifest.limits.max_context, cache.blocks_per_sequence * cache.block_size)
    limits = {
        VOCABULARY: Extent(constant=manifest.model.vocabulary),
        CONTEXT: Extent(constant=context),
    }
    contents: dict[Storage, _Content] = {}
    for spec in plan.inputs:
        row = step_input(spec.name)
        below = None if row.below is None else limits.get(row.below) or Extent.parse(row.below)
        size = facts.size(tuple(facts.normal(extent) for extent in spec.shape))
        contents["input", spec.name] = _Content(size, row.name, below)
    return contents


def _check_writes(
    schema: KernelSchema, call: Call, fitted: Fit, storages: dict[str, Storage]
) -> None:
    written = fitted.written
    if set(call.writes) != written or len(call.writes) != len(written):
        raise Misfit(
            "the call does not write what its kernel writes",
            ", ".join(sorted(written)),
            ", ".join(call.writes),
        )
    for name in call.writes:
        if storages[name][0] not in ("buffer", "cache"):
            raise Misfit(
                f"'{name}' is written and is neither a buffer nor a cache", found=storages[name][0]
            )
    if call.host != schema.host:
        raise Misfit(
            "the call is marked wrongly as to whether it reads host memory",
            f"host {schema.host}",
            f"host {call.host}",
        )


def _check_aliases(schema: KernelSchema, fitted: Fit, storages: dict[str, Storage]) -> None:
    """Memory that is written is no other argument's, unless the kernel allows it."""
    if len(set(storages.values())) == len(storages):
        return
    for argument, name, _ in fitted.tensors:
        for other, storage in storages.items():
            if not argument.writes or other == name or storage != storages[name]:
                continue
            if not {(name, other), (other, name)} & schema.aliases:
                raise Misfit(
                    f"'{name}' and '{other}' are in the same memory, and one is written",
                    "memory of its own for each",
                    " ".join(map(str, storage)),
                )
