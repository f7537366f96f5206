"""The page of the emulator: its program runs as it stands."""

from __future__ import annotations

from collections import Counter
from typing import Any

import torch

from tests.docs.markdown import ROOT, blocks

PAGE = ROOT / "runtime" / "glmc_kunlun_emulator" / "README.md"


def test_the_program_of_the_page_runs() -> None:
    (block,) = blocks(PAGE, "python")
    x, weight = torch.randn(3, 8), torch.randn(8)
    output = torch.full_like(x, torch.nan)
    scope: dict[str, Any] = {"x": x, "weight": weight, "output": output}
    exec(compile(block.text, str(PAGE), "exec"), scope)
    torch.testing.assert_close(output, torch.nn.functional.rms_norm(x, (8,), weight, 1e-5))
    assert scope["vendor"].calls == Counter({"rmsnorm": 1})
