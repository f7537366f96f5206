"""The tensors that modules take and return, each with its key, told while a model runs.

A tensor is named by the place of its argument, or by its keyword where it was passed by name, and
by its place in what a module returns; one in a tuple by both places, as in
``forward_input.position_embeddings.0``.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from typing import Any

from torch import Tensor, nn

from glmc_runtime.format.tensor_key import INPUT, OUTPUT, PARAMS, TensorKey

Seen = Callable[[TensorKey, Tensor], object]


@contextmanager
def module_tensors(
    modules: Iterable[tuple[str, nn.Module]], seen: Seen, *, parameters: bool = False
) -> Iterator[None]:
    """Within the block ``seen`` is called with each tensor that one of ``modules``, such as
    ``model.named_modules()``, takes, before it runs, and returns, after. With ``parameters`` a
    module's own weights are seen, too, before what it takes.

    A key counts the calls of a class among the modules of one parent, within one call of the
    module that calls them; the first is 0. So the experts of a list, of which each step calls
    others, count for themselves."""
    counts: list[Counter[tuple[str, str]]] = [Counter()]
    running: list[tuple[str, str, int]] = []

    def hook(path: str, module: nn.Module) -> None:
        kind = type(module).__name__
        counted = path.rpartition(".")[0], kind

        def before(_: nn.Module, arguments: Any, keywords: Any) -> None:
            running.append((path, kind, counts[-1][counted]))
            counts[-1][counted] += 1
            counts.append(Counter())
            for name, weight in module.named_parameters(recurse=False) if parameters else ():
                seen(TensorKey(*running[-1], PARAMS, name), weight)
            for name, tensor in tensors_in({**dict(enumerate(arguments)), **keywords}):
                seen(TensorKey(*running[-1], INPUT, name), tensor)

        def after(_: nn.Module, __: Any, returned: Any) -> None:
            counts.pop()
            key = running.pop()
            if not running:
                counts[-1].clear()  # the next call of the whole begins anew
            for name, tensor in tensors_in(returned):
                seen(TensorKey(*key, OUTPUT, name), tensor)

        hooks.callback(module.register_forward_pre_hook(before, with_kwargs=True).remove)
        hooks.callback(module.register_forward_hook(after).remove)

    with ExitStack() as hooks:
        for each in modules:
            hook(*each)
        yield


def tensors_in(value: Any, name: str = "") -> Iterator[tuple[str, Tensor]]:
    """Tensors with their names, which are joined by dots. What is None has a place in a tuple, and
    none in an output class of transformers; a KV cache counts as nothing."""
    if isinstance(value, Tensor):
        yield name or "0", value
    if hasattr(value, "to_tuple"):
        value = value.to_tuple()
    if isinstance(value, (tuple, list)):
        value = dict(enumerate(value))
    if isinstance(value, Mapping):
        for key, each in value.items():
            yield from tensors_in(each, f"{name}.{key}" if name else str(key))
