"""Plans for a cache of another block size, and with the head in segments of its own."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import replace

from glmc_runtime.errors import RequestError
from glmc_runtime.format.cache import CacheSpec
from glmc_runtime.format.extent import Extent
from glmc_runtime.format.manifest import Manifest
from glmc_runtime.format.plan import (
    Argument,
    CacheArgument,
    Call,
    InputArgument,
    PhasePlan,
    Segment,
    ValueArgument,
    place_of,
)
from glmc_runtime.format.step_inputs import step_input
from glmc_runtime.kernels.allowed import allowed_kernels
from glmc_runtime.kernels.schema import KernelSchema


def with_block_size(manifest: Manifest, size: int) -> Manifest:
    """The manifest with blocks of ``size`` tokens, and block tables of as many tokens as before;
    raises :class:`RequestError` where those are no whole blocks."""
    spec = manifest.cache
    tokens = spec.blocks_per_sequence * spec.block_size
    if tokens % size:
        raise RequestError(
            "the block tables of the artifact hold no whole number of the engine's blocks",
            expected=f"a block size that divides {tokens} tokens",
            found=f"blocks of {size} tokens",
            remedy=f"compile with --block-size {size}, or with a --max-context that is a multiple "
            "of it",
        )
    return replace(
        manifest, cache=replace(spec, block_size=size, blocks_per_sequence=tokens // size)
    )


def retargeted(plan: PhasePlan, old: CacheSpec, manifest: Manifest) -> PhasePlan:
    """The plan for the cache of ``manifest`` in place of ``old``: its block tables have another
    width, and integers that a kernel's schema ties to the sizes of caches and tables follow them.
    Whether all of it fits is for :func:`glmc_runtime.loading.check.check_plan` to say."""
    spec = manifest.cache
    if spec == old:
        return plan
    schema_of = allowed_kernels(manifest)
    inputs = tuple(
        replace(item, shape=step_input(item.name).shape_of(spec.blocks_per_sequence))
        for item in plan.inputs
    )
    widths = Extent(constant=old.blocks_per_sequence), Extent(constant=spec.blocks_per_sequence)
    calls = tuple(
        _followed(call, schema_of(call.function, place_of(call)), spec, widths)
        for call in plan.calls
    )
    return replace(plan, inputs=inputs, calls=calls)


def _followed(
    call: Call, schema: KernelSchema, spec: CacheSpec, widths: tuple[Extent, Extent]
) -> Call:
    arguments = {name: _with_width(argument, widths) for name, argument in call.arguments.items()}
    sizes = dict(_sizes(schema, arguments, spec))
    for name, argument in arguments.items():
        expected = schema.argument(name)
        if expected is None or expected.equals is None or not isinstance(argument, ValueArgument):
            continue
        size = sizes.get(expected.equals.text)
        if size is not None:
            arguments[name] = ValueArgument(size)
    return replace(call, arguments=arguments)


def _with_width(argument: Argument, widths: tuple[Extent, Extent]) -> Argument:
    """A table by its new width, also where the call has it in a shape of its own."""
    if not isinstance(argument, InputArgument) or argument.shape is None:
        return argument
    if step_input(argument.input).rows is None:
        return argument
    old, new = widths
    return replace(argument, shape=tuple(new if size == old else size for size in argument.shape))


def _sizes(
    schema: KernelSchema, arguments: Mapping[str, Argument], spec: CacheSpec
) -> Iterator[tuple[str, int]]:
    """Sizes that the schema names, of caches and block tables among the arguments."""
    for name, argument in arguments.items():
        expected = schema.argument(name)
        if expected is None or expected.shape is None:
            continue
        known: tuple[int, ...] = ()
        if isinstance(argument, CacheArgument):
            row = spec.tensor(argument.cache, argument.layer)
            known = () if row is None else spec.block_shape(row)
        elif isinstance(argument, InputArgument) and step_input(argument.input).rows is not None:
            known = (spec.blocks_per_sequence,)
        # The first dimension counts blocks or sequences.
        for label, size in zip(expected.shape.names[1:], known, strict=False):  # () if unknown
            if label is not None:
                yield label, size


def with_head_apart(plan: PhasePlan) -> PhasePlan:
    """The plan with a segment that begins at the first call of the head, so that what is before it
    is captured and replayed by itself."""
    if plan.head is None:
        return plan
    first = plan.head.first
    segments: list[Segment] = []
    for segment in plan.segments:
        if segment.first < first <= segment.last:
            segments.append(replace(segment, last=first - 1))
            segment = replace(segment, first=first)
        segments.append(segment)
    return replace(plan, segments=tuple(segments))
