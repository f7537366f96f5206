"""Count torch operations that hand out fresh memory."""

from __future__ import annotations

from typing import Any

import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves


class FreshStorage(TorchDispatchMode):
    """``fresh`` lists operations with an output in new storage; ``total`` counts all."""

    def __init__(self) -> None:
        super().__init__()
        self.fresh: list[str] = []
        self.total = 0

    def __torch_dispatch__(
        self, function: Any, types: Any, args: Any = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        kwargs = kwargs or {}
        known = {_storage(leaf) for leaf in tree_leaves((args, kwargs)) if _is_tensor(leaf)}
        result = function(*args, **kwargs)
        self.total += 1
        if any(_is_tensor(leaf) and _storage(leaf) not in known for leaf in tree_leaves(result)):
            self.fresh.append(str(function))
        return result


def _is_tensor(leaf: object) -> bool:
    return isinstance(leaf, torch.Tensor)


def _storage(tensor: torch.Tensor) -> int:
    if tensor.layout == torch._mkldnn:  # opaque: it has no storage to ask for
        return id(tensor)
    return tensor.untyped_storage().data_ptr()
