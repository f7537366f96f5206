"""Records that an NVIDIA H200 made; README.md says how."""

from __future__ import annotations

import re
from pathlib import Path

FOLDER = Path(__file__).parent
TINY, TINY_CUDA, AIR = (
    FOLDER / name for name in ("tiny_moe.h5", "tiny_moe_cuda.h5", "air_layer.h5")
)


def digest_of(record: Path) -> str:
    """What the page says of the weights that a record was made with."""
    page = (FOLDER / "README.md").read_text(encoding="utf-8")
    (digest,) = re.findall(rf"^\| `{re.escape(record.name)}` .*`([0-9a-f]{{64}})` \|$", page, re.M)
    return str(digest)
