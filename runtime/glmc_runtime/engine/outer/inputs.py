"""Step inputs from the tensors of an outer engine, copied to where the plan's calls read them.

The addresses that a device graph has captured are those of :class:`StepInputs`, and what is beyond
the engine's step is padded as in a step of our own. Nothing waits for the device.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Union

import torch

from glmc_runtime.engine.outer.step import Form, OuterStep, host_lengths
from glmc_runtime.errors import PlanError, RequestError
from glmc_runtime.format.plan import HOST_SUFFIX, PhasePlan
from glmc_runtime.format.step_inputs import step_input
from glmc_runtime.kernels import Thunk
from glmc_runtime.replay.inputs import StepInputs
from glmc_runtime.replay.step import Step

if TYPE_CHECKING:
    from glmc_runtime.engine.outer.device_inputs import DeviceInputs

_BY_TOKEN = ("token_ids", "positions", "slot_mapping")
_COMPUTED = {"cu_seqlens_k": "context_lengths", "last_rows": "cu_seqlens_q"}
"""Inputs that follow from another one."""
_KNOWN = (*_BY_TOKEN, "block_tables", "context_lengths", "cu_seqlens_q", *_COMPUTED)


class PaddedStep:
    """An outer engine's step in a bucket: ``sizes`` are those of the bucket by symbol, ``real``
    those of the step. ``form`` is that of the step, and the same object as long as it is equal."""

    def __init__(
        self, step: OuterStep, tokens: int, sequences: int, form: Form | None = None
    ) -> None:
        self.step = step
        self.form = form
        self.sizes: Mapping[str, int] = {"tokens": tokens, "sequences": sequences}
        self.real: Mapping[str, int] = {"tokens": step.tokens, "sequences": step.sequences}


class OuterInputs:
    """The step inputs of one phase, filled from an outer engine's step; ``sizes`` are the largest
    of the phase. With ``by_kernel`` those on the device are filled by a launch that the phase makes
    first (:class:`DeviceInputs`)."""

    def __init__(
        self,
        plan: PhasePlan,
        inputs: StepInputs,
        sizes: Mapping[str, int],
        device: torch.device,
        block_size: int,
        scratch_block: int,
        by_kernel: bool = False,
    ) -> None:
        self.inputs = inputs
        self._on_device: DeviceInputs | None = None
        self._sides: list[_Side] = []
        for on_host in (False, True):
            views = {
                step_input(spec.name).name: inputs.view(spec.name, None, sizes)
                for spec in plan.inputs
                if spec.name.endswith(HOST_SUFFIX) is on_host
            }
            foreign = sorted(set(views) - set(_KNOWN))
            if foreign:
                raise PlanError(
                    f"no step of an outer engine has values for the step input '{foreign[0]}'",
                    place=plan.name,
                    expected=", ".join(_KNOWN),
                )
            place = torch.device("cpu") if on_host else device
            if views and by_kernel and not on_host:
                from glmc_runtime.engine.outer.device_inputs import DeviceInputs  # with Triton

                self._on_device = DeviceInputs(views, device, block_size, scratch_block)
            elif views:
                beside = on_host and device.type != "cpu"
                side = _Side(views, sizes, place, block_size, scratch_block, beside)
                self._sides.append(side)

    @property
    def needs_host_lengths(self) -> bool:
        """Whether lengths are read in host memory beside those on the device."""
        return any(side.beside for side in self._sides)

    def fill(self, step: Union[PaddedStep, Step], tokens: torch.Tensor | None = None) -> None:
        """Copy the values of a step of the engine, or write those of a step of our own, with which
        device graphs are captured; ``tokens`` as for :meth:`StepInputs.fill`."""
        if isinstance(step, Step):
            if self._on_device is not None:
                self._on_device.clear()
            self.inputs.fill(step, tokens)
            return
        if self._on_device is not None:
            sizes = step.sizes
            self._on_device.fill(step.step, sizes["tokens"], sizes["sequences"], step.form)
        for side in self._sides:
            side.fill(step)

    def thunks(self, sizes: Mapping[str, int]) -> tuple[Thunk, ...]:
        """What runs before the calls of a step of these sizes: the launch that fills inputs."""
        return () if self._on_device is None else (self._on_device.thunk(sizes),)


class _Side:
    """Inputs in one memory, the device's or the host's; ``beside`` says that the host's are beside
    those of another device."""

    def __init__(
        self,
        views: dict[str, torch.Tensor],
        sizes: Mapping[str, int],
        device: torch.device,
        block_size: int,
        scratch_block: int,
        beside: bool,
    ) -> None:
        self.beside = beside
        tokens, sequences = sizes["tokens"], sizes["sequences"]
        for name in {_COMPUTED[name] for name in views if name in _COMPUTED} - set(views):
            rows = sequences + (name == "cu_seqlens_q")
            views[name] = torch.zeros(rows, dtype=torch.int32, device=device)
        self._views = views
        self._scratch_block = scratch_block
        zeros = torch.zeros(tokens, dtype=torch.int32, device=device)
        # As in our own steps they are spread over the scratch block, of which a padded row of
        # decode reads the first slot.
        slots = torch.arange(tokens, device=device) % block_size + scratch_block * block_size
        self._padding = {
            "token_ids": zeros,
            "positions": zeros,
            "slot_mapping": slots,
            "context_lengths": torch.ones(sequences, dtype=torch.int32, device=device),
        }
        # Of decode, where padded sequences have a token; in prefill they have none.
        self._ends = torch.arange(sequences + 1, device=device)

    def fill(self, padded: PaddedStep) -> None:
        """All copies by one call, as each takes longer to ask for than to make."""
        step, views = padded.step, self._views
        tokens, sequences = padded.sizes["tokens"], padded.sizes["sequences"]
        copies = _Copies()
        for name in _BY_TOKEN:
            if name in views:
                copies.add(
                    views[name], getattr(step, name), step.tokens, self._padding[name], tokens
                )
        if "context_lengths" in views:
            lengths, padding = self._lengths(step, "context_lengths"), self._padding
            copies.add(
                views["context_lengths"],
                lengths,
                step.sequences,
                padding["context_lengths"],
                sequences,
            )
        if "cu_seqlens_q" in views:
            ends, view = self._lengths(step, "cu_seqlens_q"), views["cu_seqlens_q"]
            copies.add(view, ends, step.sequences + 1)
            if step.sequences < sequences:
                rest = slice(step.sequences + 1, sequences + 1)
                if step.is_decode:
                    copies.add(view[rest], self._ends[rest], sequences - step.sequences)
                else:
                    view[rest].fill_(step.tokens)
        if "block_tables" in views:
            table, blocks = views["block_tables"], step.block_tables
            width = min(table.shape[1], blocks.shape[1])
            copies.add(
                table[: step.sequences, :width],
                blocks[: step.sequences, :width],
                step.sequences,
            )
            if width < table.shape[1]:
                table[: step.sequences, width:].zero_()  # not the blocks of an earlier step
            if step.sequences < sequences:
                table[step.sequences : sequences, :1].fill_(self._scratch_block)
        copies.make()
        if "cu_seqlens_k" in views:
            sums = views["cu_seqlens_k"][1 : sequences + 1]
            torch.cumsum(views["context_lengths"][:sequences], 0, dtype=sums.dtype, out=sums)
        if "last_rows" in views:
            rows = views["last_rows"][:sequences]
            torch.sub(views["cu_seqlens_q"][1 : sequences + 1], 1, out=rows)

    def _lengths(self, step: OuterStep, name: str) -> torch.Tensor:
        lengths = host_lengths(step, name) if self.beside else getattr(step, name)
        if lengths is None:
            raise RequestError(
                "kernels read the lengths of a step in host memory",
                expected=f"{name}_host",
                remedy="pass it: to fetch it would wait for the device",
            )
        return lengths


class _Copies:
    """Copies that are made together."""

    def __init__(self) -> None:
        self._targets: list[torch.Tensor] = []
        self._sources: list[torch.Tensor] = []

    def add(
        self,
        view: torch.Tensor,
        source: torch.Tensor,
        real: int,
        padding: torch.Tensor | None = None,
        size: int = 0,
    ) -> None:
        """``real`` rows of an engine's tensor, and the first of ``padding`` up to ``size``."""
        self._targets.append(view[:real])
        self._sources.append(source[:real])
        if padding is not None and real < size:
            self._targets.append(view[real:size])
            self._sources.append(padding[: size - real])

    def make(self) -> None:
        if self._targets:
            torch._foreach_copy_(self._targets, self._sources, non_blocking=True)
