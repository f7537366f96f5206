"""An artifact under an outer engine: hidden states and logits of its steps, over its KV cache.

The engine owns the cache, its blocks and the schedule, and samples. ``load_model`` puts an artifact
into memory without a cache; :meth:`Model.attach` binds it to the engine's tensors, once they are
there; an :class:`AttachedModel` computes steps. Threads may share one, as they may an
:class:`glmc_runtime.engine.engine.Engine`.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import AbstractContextManager, nullcontext
from itertools import takewhile
from time import perf_counter

import torch

from glmc_runtime.command.units import seconds_text
from glmc_runtime.engine.loaded import LoadedArtifact
from glmc_runtime.engine.outer.inputs import OuterInputs, PaddedStep
from glmc_runtime.engine.outer.kv_tensors import KVTensors, cache_views
from glmc_runtime.engine.outer.retarget import retargeted, with_block_size, with_head_apart
from glmc_runtime.engine.outer.step import Form, OuterStep, check_form, check_lengths, form_of
from glmc_runtime.engine.outer.strides import check_caches
from glmc_runtime.errors import CapacityError, RequestError
from glmc_runtime.format.dtypes import dtype_of
from glmc_runtime.format.manifest import Manifest
from glmc_runtime.format.phases import DECODE, PREFILL, PhaseKey
from glmc_runtime.loading.check import check_plan
from glmc_runtime.replay.cache import KVCache
from glmc_runtime.replay.phase import PhaseReplay

_LOG = logging.getLogger("glmc_runtime.graphs")
_SEQUENCES = tuple(1 << power for power in range(0, 32, 4))
"""What sequences of a prefill step are padded to where there are device graphs."""
_KEPT = 2048
"""Bindings of a call of prefill that are kept there: of each bucket and each of those numbers."""


class Model:
    """An artifact in memory, whose KV cache an outer engine will have.

    ``max_context`` is the longest sequence, ``max_tokens`` and ``max_sequences`` the largest step;
    ``max_decodes`` is the most sequences of a decode step. An engine is to be limited to them.
    ``manifest.cache`` says which tensors the cache has. ``emulated`` and ``interpreted`` are as for
    :class:`glmc_runtime.engine.engine.Engine`.
    """

    def __init__(self, loaded: LoadedArtifact) -> None:
        self.manifest: Manifest = loaded.artifact.manifest
        self.device = loaded.device
        self.statistics = loaded.statistics
        self.emulated = loaded.statistics.emulated
        self.interpreted = loaded.statistics.interpreted
        self.max_context = loaded.max_context
        self.max_tokens = loaded.prefill_buckets.largest
        self.max_sequences = loaded.entries[PREFILL.key].largest["sequences"]
        self.max_decodes = loaded.decode_buckets.largest
        self._loaded = loaded

    def attach(self, kv: KVTensors, *, capture: bool = True) -> AttachedModel:
        """Bind the artifact to the cache of an engine, and on a device capture its buckets: decode
        steps whole, prefill steps up to and after each attention. Without ``capture`` there are no
        device graphs: the host makes each call of a step, which is slower and takes less memory.

        Raises :class:`RequestError` for tensors, a layout or a block size that the artifact's
        kernels do not take, with what they do, and :class:`PlanError` for tensors on another
        device. May be called again for other tensors.
        """
        return AttachedModel(self._loaded, kv, capture)


class AttachedModel(Model):
    """A model over the KV cache of an outer engine; see :meth:`Model.attach`.

    ``needs_host_lengths`` says that some phase reads lengths in host memory, so that each step has
    to bring ``context_lengths_host`` and ``cu_seqlens_q_host``.
    """

    def __init__(self, loaded: LoadedArtifact, kv: KVTensors, capture: bool = True) -> None:
        super().__init__(loaded)
        spec = self.manifest.cache
        views = cache_views(kv, spec)
        if views.block_size != spec.block_size:
            self.manifest = with_block_size(self.manifest, views.block_size)
        plans = {
            phase.key: with_head_apart(
                retargeted(loaded.artifact.plans[phase.key], spec, self.manifest)
            )
            for phase in (PREFILL, DECODE)
        }
        for plan in plans.values():
            check_plan(plan, self.manifest)
        check_caches(plans.values(), self.manifest, views)
        cache = KVCache(self.manifest.cache, views.blocks, self.device, views.tensors)
        self._replays: dict[PhaseKey, PhaseReplay] = {}
        self._inputs: dict[PhaseKey, OuterInputs] = {}
        self._block_size = views.block_size
        head = plans[DECODE.key].head
        buffers = {buffer.id: buffer for buffer in plans[DECODE.key].buffers}
        self._hidden_dtype = None if head is None else dtype_of(buffers[head.hidden].dtype)
        self._hidden = self._kept_hidden()
        with loaded.exclusive:  # the arena may be in use by others that are attached
            graphs = loaded.graphs(capture)
            for key, plan in plans.items():
                memory, sizes = loaded.step_inputs(key, plan), loaded.entries[key].largest
                block = views.block_size, kv.scratch_block
                by_kernel = _fills_by_kernel(self.device, self.manifest.target)
                inputs = OuterInputs(plan, memory, sizes, self.device, *block, by_kernel)
                self._inputs[key] = inputs
                kept = _KEPT if graphs.on_device else None
                hidden = self._hidden if key == DECODE.key else None
                self._replays[key] = loaded.replay(
                    plan, cache, memory, inputs, graphs, kept, hidden
                )
            loaded.capture(self._replays, graphs, views.block_size, kv.scratch_block, prefill=True)
            self._pads_sequences = graphs.on_device
            if graphs.on_device:
                self._prepare_prefill()
        self._form: Form | None = None

    @property
    def needs_host_lengths(self) -> bool:
        """Whether a step has to bring its lengths in host memory, too."""
        return any(inputs.needs_host_lengths for inputs in self._inputs.values())

    def _kept_hidden(self) -> torch.Tensor | None:
        """Where hidden states of a decode step are left, on a device: the launch that copies them
        is in the graph of the step."""
        if self._hidden_dtype is None or not _keeps_hidden(self.device):
            return None
        rows, columns = self.max_decodes, self.manifest.model.hidden
        return torch.empty(rows, columns, dtype=self._hidden_dtype, device=self.device)

    def forward(self, step: OuterStep, *, own: bool = True) -> torch.Tensor:
        """Cache the keys and values of a step; the last hidden states of its tokens, after the last
        norm, [tokens, hidden size], in a tensor of the caller's own. Without ``own`` it may be a
        view that the next ``forward`` overwrites, in the order of the stream, which costs less.

        A step of one token for each sequence runs in the decode plan, any other in the prefill
        plan; each is one replay. Raises :class:`RequestError` for a step that can't be right and
        :class:`CapacityError` for one beyond the buckets; both change nothing.
        """
        with _inference():
            phase, padded = self._padded(step)
            with self._loaded.exclusive, self._loaded.stream_order.enter():
                hidden = self._replays[phase].run_body(padded)
                kept = phase == DECODE.key and self._hidden is not None
                return hidden if kept and not own else _own(hidden)

    def logits(self, hidden: torch.Tensor, *, own: bool = True) -> torch.Tensor:
        """Logits [rows, vocabulary] of ``hidden`` [rows, hidden size], rows of what ``forward``
        returned: those of chosen tokens, in any order and number. Without ``own`` it may be a view
        that the next call of the model overwrites, in the order of the stream."""
        self._check_hidden(hidden)
        parts = []
        with _inference(), self._loaded.exclusive, self._loaded.stream_order.enter():
            if len(hidden) <= self.max_decodes and not own:
                return self._head(hidden)
            for part in hidden.split(self.max_decodes):
                parts.append(_own(self._head(part)))
        with torch.inference_mode(False):
            return parts[0] if len(parts) == 1 else torch.cat(parts)

    def _head(self, hidden: torch.Tensor) -> torch.Tensor:
        """Logits of rows that fit into a decode step: a view."""
        rows = hidden.shape[0]
        sizes = _HeadRows(self._loaded.decode_buckets.choose(rows), rows)
        return self._replays[DECODE.key].run_head(sizes, hidden)

    def step(self, step: OuterStep) -> torch.Tensor:
        """:meth:`forward` and the logits after the last token of each sequence, [sequences,
        vocabulary], in one replay."""
        with _inference():
            phase, padded = self._padded(step)
            with self._loaded.exclusive, self._loaded.stream_order.enter():
                return _own(self._replays[phase].run(padded))

    def _padded(self, step: OuterStep) -> tuple[PhaseKey, PaddedStep]:
        """The phase that computes a step, and the step in its bucket. What was looked at in the
        step before is not looked at again."""
        try:
            form = form_of(step)
        except AttributeError:  # of what is no tensor
            check_form(step, self.device)
            raise
        known = self._form  # another thread may bring another
        same = form == known
        if not same:
            check_form(step, self.device)
        check_lengths(step, self.max_context, self._block_size, ends=not (same and step.is_decode))
        if known is not None and same:
            form = known  # the same object, by which inputs know it
        self._form = form
        phase = DECODE.key if step.is_decode else PREFILL.key
        if step.is_decode:
            bucket = self._loaded.decode_buckets.choose(step.sequences)
            return phase, PaddedStep(step, bucket, bucket, form)
        if step.sequences > self.max_sequences:
            raise CapacityError(
                f"a step of {step.sequences} sequences is beyond the largest prefill step",
                expected=f"at most {self.max_sequences}",
                found=str(step.sequences),
                remedy="limit the engine's sequences, or compile with larger buckets",
            )
        bucket = self._loaded.prefill_buckets.choose(step.tokens)
        sequences = step.sequences
        if self._pads_sequences:  # to few numbers, so that few calls are bound again
            sequences = next(each for each in self._padded_sequences(bucket) if each >= sequences)
        return phase, PaddedStep(step, bucket, sequences, form)

    def _padded_sequences(self, bucket: int) -> Iterator[int]:
        """What sequences of a prefill step of ``bucket`` tokens are padded to."""
        most = min(bucket, self.max_sequences)
        yield from takewhile(lambda each: each < most, _SEQUENCES)
        yield most

    def _prepare_prefill(self) -> None:
        """Bind the prefill steps of all sizes, so that no step waits until its own is bound."""
        started = perf_counter()
        with _inference(), self._loaded.stream_order.enter():
            for bucket in self._loaded.prefill_buckets.sizes:
                for sequences in self._padded_sequences(bucket):
                    self._replays[PREFILL.key].prepare({"tokens": bucket, "sequences": sequences})
        seconds = seconds_text(perf_counter() - started)
        _LOG.info("prefill steps of all sizes are bound in %s", seconds)

    def _check_hidden(self, hidden: torch.Tensor) -> None:
        columns = self.manifest.model.hidden
        fits = isinstance(hidden, torch.Tensor) and hidden.dim() == 2 and len(hidden)
        if not fits or hidden.shape[1] != columns or hidden.dtype not in (self._hidden_dtype, None):
            raise RequestError(
                "these are no rows of hidden states",
                expected=f"{self._hidden_dtype} [rows, {columns}], at least one row",
                found=f"{hidden.dtype} {list(hidden.shape)}"
                if isinstance(hidden, torch.Tensor)
                else type(hidden).__name__,
            )


class _HeadRows:
    """Rows for the head alone, in a decode bucket."""

    def __init__(self, bucket: int, rows: int) -> None:
        self.sizes = {"tokens": bucket, "sequences": bucket}
        self.real = {"tokens": rows, "sequences": rows}


def _fills_by_kernel(device: torch.device, target: str) -> bool:
    """Kernels of ours are there where all others of the plan are."""
    return device.type == "cuda" and target == "cuda"


def _keeps_hidden(device: torch.device) -> bool:
    """On the host a copy for the caller costs as much as one to where it would be kept."""
    return device.type != "cpu"


def _inference() -> AbstractContextManager[object]:
    """Inference mode, in which engines call a model already."""
    return _ALREADY if torch.is_inference_mode_enabled() else torch.inference_mode()


_ALREADY = nullcontext()


def _own(rows: torch.Tensor) -> torch.Tensor:
    """A copy that the caller may keep and change."""
    with torch.inference_mode(False):
        return rows.clone()
