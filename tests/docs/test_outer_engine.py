"""docs/outer_engine.md: the page's program runs, and its words are those of the code."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import torch

from glmc_runtime.engine.outer.kv_tensors import KVTensors, cache_views
from glmc_runtime.format.cache import CacheSpec, CacheTensor
from tests.docs.markdown import ROOT, blocks, section, table_rows

PAGE = ROOT / "docs" / "outer_engine.md"


@pytest.mark.long
def test_the_program_of_the_page_runs(
    tiny_dense: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "tiny-dense.glmc").symlink_to(tiny_dense)
    monkeypatch.chdir(tmp_path)
    (block,) = blocks(PAGE, "python")
    scope: dict[str, torch.Tensor] = {}
    exec(compile(block.text, str(PAGE), "exec"), scope)
    assert scope["hidden"].shape[0] == 8
    torch.testing.assert_close(scope["logits"], scope["same"])


def test_every_layout_of_the_page_is_one() -> None:
    sizes = {"kv": 2, "blocks": 3, "tokens": 4, "heads": 2, "dim": 8, "kv*dim": 16, "slots": 12}
    rows = tuple(CacheTensor(name, (2, 8), "float32", (0,)) for name in ("key", "value"))
    spec = CacheSpec(rows, 4, 8, "blocks_tokens_heads")
    layouts = [
        layout
        for row in table_rows(section(PAGE, "Layouts"))
        for layout in re.findall(r"`([a-z* ]+ [a-z* ]+)`", row[1])
    ]
    assert len(layouts) == 7
    for layout in layouts:
        tensor = torch.zeros([sizes[word] for word in layout.split()])
        together = {"kv", "kv*dim"} & set(layout.split())
        layer = tensor if together else (tensor, tensor.clone())
        assert cache_views(KVTensors([layer], layout, 4), spec).blocks == 3
