"""``torch.compile(model, backend="kunlun")``: no artifact, the same passes.

Installed as an entry point of ``torch_dynamo_backends``, so that nothing has to be imported.
"""

from __future__ import annotations

from glmc.dynamo.backend import kunlun
from glmc.dynamo.explain import Explanation, explain

__all__ = ["Explanation", "explain", "kunlun"]
