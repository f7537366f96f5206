"""Writes what each module of a running model takes and returns, at once.

A module's parameters and inputs are written before it runs, its outputs after, so the order of a
record is that of execution and an input is what it was before anything changed it in place. Of the
tensors only weak references stay: one that is met again, unchanged, is named anew and not written.
"""

from __future__ import annotations

import weakref
from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field, replace
from types import TracebackType
from typing import Any

import torch
from torch import Tensor, nn

from glmc.check.align.op_mode import OpMode
from glmc.check.align.router_scores import ROUTER_SCORES, derivation, router_scores
from glmc_runtime.format.tensor_key import OUTPUT, PARAMS, TensorKey
from glmc_runtime.record.layers import layer_of
from glmc_runtime.record.module_tensors import module_tensors
from glmc_runtime.record.options import OP, RecordOptions, phase_of
from glmc_runtime.record.sink import Sink


@dataclass
class Frame:
    """A call of a module that goes on; ``ops`` counts the ops in it by name."""

    module: str
    wanted: bool
    ops: Counter[str] = field(default_factory=Counter)


@dataclass(frozen=True)
class Written:
    """Where a tensor was written, and its version then."""

    reference: weakref.ref[Tensor]
    version: int
    step: int
    key: TensorKey


class ModuleHooks:
    """Records the calls of a model inside its context; each starts with :meth:`begin`.

    Without ``links`` a tensor that is met again is written again, unless it is a weight.
    """

    def __init__(
        self, model: nn.Module, sink: Sink, options: RecordOptions, *, links: bool = True
    ) -> None:
        self._sink, self._options, self._links = sink, options, links
        self._modules = dict(model.named_modules())
        self._wanted = {path: options.wants(path, layer_of(path)) for path in self._modules}
        self._frames: list[Frame] = []
        self._written: dict[int, Written] = {}
        self._keys: set[TensorKey] = set()
        self._step = 0
        self._writing = False
        self._open = ExitStack()

    def __enter__(self) -> ModuleHooks:
        # Hooks run in the order in which they are added: a frame is there for the tensors.
        for path, module in self._modules.items():
            self._open.callback(module.register_forward_pre_hook(self._enter(path)).remove)
        tensors = module_tensors(
            self._modules.items(), self._seen, parameters=self._options.parameters
        )
        self._open.enter_context(tensors)
        for path, module in self._modules.items():
            made = module.register_forward_hook(self._leave(path, module), with_kwargs=True)
            self._open.callback(made.remove)
        if self._options.level == OP:
            self._open.enter_context(OpMode(self._op))
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._open.close()

    def begin(self, step: int) -> None:
        """The next call of the model is one of this step."""
        self._step = step
        self._keys.clear()
        self._frames = [Frame("", wanted=False)]

    def _enter(self, path: str) -> Any:
        def enter(module: nn.Module, args: Any) -> None:
            self._frames.append(Frame(path, self._wanted[path]))

        return enter

    def _leave(self, path: str, module: nn.Module) -> Any:
        derived = derivation(module)

        def leave(_: Any, args: tuple[Any, ...], kwargs: dict[str, Any], output: Any) -> None:
            self._frames.pop()
            if derived and self._wanted[path]:
                with self._busy():
                    scores = router_scores(module, next(iter((*args, *kwargs.values()))))
                key = TensorKey(path, ROUTER_SCORES, 0, OUTPUT, "0")
                self._write(key, scores, {"op": ROUTER_SCORES, "derived": derived})

        return leave

    def _seen(self, key: TensorKey, tensor: Tensor) -> None:
        if self._wanted[key.module]:
            self._write(key, tensor, {})

    def _op(self, name: str, outputs: Mapping[str, Tensor]) -> None:
        """Write what an op between modules computed."""
        frame = self._frames[-1]
        if self._writing or not frame.wanted:
            return
        call = frame.ops[name]
        frame.ops[name] += 1
        for place, tensor in outputs.items():
            key = TensorKey(frame.module, name, call, OUTPUT, place)
            self._write(key, tensor, {"op": name})

    def _write(self, key: TensorKey, tensor: Tensor, facts: Mapping[str, Any]) -> None:
        while key in self._keys:  # of a parent that was called before in this step
            key = replace(key, call=key.call + 1)
        self._keys.add(key)
        with self._busy():
            before = self._met(key, tensor)
            if before is not None:
                self._sink.link(key, before.step, before.key)
                return
            described = {"layer": layer_of(key.module), "phase": phase_of(self._step), **facts}
            self._sink.write([key], tensor, described)
            self._remember(tensor, key)

    def _met(self, key: TensorKey, tensor: Tensor) -> Written | None:
        """Where the same tensor was written, if nothing has changed it since."""
        before = self._written.get(id(tensor))
        if before is None or not (self._links or key.kind == PARAMS):
            return None
        same = before.reference() is tensor and before.version == tensor._version
        return before if same else None

    def _remember(self, tensor: Tensor, key: TensorKey) -> None:
        number, written = id(tensor), self._written

        def forget(reference: weakref.ref[Tensor]) -> None:
            if number in written and written[number].reference is reference:
                del written[number]

        reference = weakref.ref(tensor, forget)
        written[number] = Written(reference, tensor._version, self._step, key)

    @contextmanager
    def _busy(self) -> Iterator[None]:
        """What is computed here is no part of the model."""
        before, self._writing = self._writing, True
        try:
            with torch.no_grad():
                yield
        finally:
            self._writing = before
