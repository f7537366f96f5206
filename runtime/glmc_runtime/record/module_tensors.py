"""The tensors that modules take and return, each with its key, told while a model runs.

Whoever records a stock model and whoever traces it hears the same keys. A tensor is named by the
place of its argument in ``forward``'s signature, whether it was passed by place or by name, or by
the place in what ``forward`` returns; one in a tuple by both, as in ``forward_input.1.0``.
"""

from __future__ import annotations

import inspect
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from typing import Any

from torch import Tensor, nn

from glmc_runtime.format.tensor_key import INPUT, OUTPUT, TensorKey

Seen = Callable[[TensorKey, Tensor], object]


@contextmanager
def module_tensors(modules: Iterable[tuple[str, nn.Module]], seen: Seen) -> Iterator[None]:
    """Within the block ``seen`` is called with each tensor that one of ``modules``, such as
    ``model.named_modules()``, takes, before it runs, and returns, after. A key counts the calls of
    a class within one call of the module that calls it, the first is 0."""
    calls: list[Counter[str]] = [Counter()]
    keys: list[tuple[str, str, int]] = []

    def before(path: str, module: nn.Module, arguments: Any, keywords: Any) -> None:
        kind = type(module).__name__
        keys.append((path, kind, calls[-1][kind]))
        calls[-1][kind] += 1
        calls.append(Counter())
        for name, tensor in _taken(module, arguments, keywords):
            seen(TensorKey(*keys[-1], INPUT, name), tensor)

    def after(_: nn.Module, __: Any, returned: Any) -> None:
        calls.pop()
        key = keys.pop()
        if not keys:
            calls[-1].clear()
        for name, tensor in _returned(returned):
            seen(TensorKey(*key, OUTPUT, name), tensor)

    def hook_before(path: str) -> Callable[..., None]:
        return lambda module, arguments, keywords: before(path, module, arguments, keywords)

    with ExitStack() as hooks:
        for path, module in modules:
            made = module.register_forward_pre_hook(hook_before(path), with_kwargs=True)
            hooks.callback(made.remove)
            hooks.callback(module.register_forward_hook(after).remove)
        yield


def _taken(
    module: nn.Module, arguments: tuple[Any, ...], keywords: Mapping[str, Any]
) -> Iterator[tuple[str, Tensor]]:
    signature = inspect.signature(module.forward)
    try:
        bound = signature.bind(*arguments, **keywords).arguments
    except TypeError:  # a wrapper around forward takes more than it hands on
        yield from _numbered("", arguments)
        for name, value in keywords.items():
            yield from _within(name, value)
        return
    for number, (name, parameter) in enumerate(signature.parameters.items()):
        if name not in bound:
            continue
        if parameter.kind is inspect.Parameter.VAR_KEYWORD:
            for keyword, value in bound[name].items():
                yield from _within(keyword, value)
        elif parameter.kind is inspect.Parameter.VAR_POSITIONAL:
            for place, value in enumerate(bound[name], number):
                yield from _within(str(place), value)
        else:
            yield from _within(str(number), bound[name])


def _returned(value: Any) -> Iterator[tuple[str, Tensor]]:
    if isinstance(value, Tensor):
        yield "0", value
    elif isinstance(value, Mapping):  # a ModelOutput of transformers: what is None is not in it
        yield from _numbered("", value.values())
    elif isinstance(value, (tuple, list)):
        yield from _numbered("", value)


def _numbered(stem: str, values: Iterable[Any]) -> Iterator[tuple[str, Tensor]]:
    for number, value in enumerate(values):
        yield from _within(f"{stem}{number}", value)


def _within(name: str, value: Any) -> Iterator[tuple[str, Tensor]]:
    if isinstance(value, Tensor):
        yield name, value
    elif isinstance(value, Mapping):
        yield from _numbered(f"{name}.", value.values())
    elif isinstance(value, (tuple, list)):
        yield from _numbered(f"{name}.", value)
