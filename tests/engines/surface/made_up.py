"""A made-up engine: files of a release, by name."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from glmc_engines.surface.lookup import Lookup
from glmc_engines.surface.release import Release, Sources

ENGINE = {
    "engine/__init__.py": """
import typing
LAZY = {"Registry": ".registry:Registry"}
if typing.TYPE_CHECKING:
    from .registry import Registry
def __getattr__(name): ...
""",
    "engine/registry.py": """
from dataclasses import dataclass
@dataclass
class _Registry:
    def register(self, name: str, cls=None) -> None: ...
Registry = _Registry()
""",
    "engine/layers/__init__.py": """
from .attention import Attention
from engine.layers.norms import *
""",
    "engine/layers/attention.py": """
import torch.nn as nn
from .base import Layer
class Attention(Layer, nn.Module):
    kind = "paged"
    def __init__(self, heads, head_size, scale, *, prefix=""):
        self.heads = heads
        self.cache, self.scale = None, scale
    @property
    def blocks(self) -> "Blocks": ...
    @staticmethod
    def shape(blocks, size): ...
""",
    "engine/layers/base.py": """
class Layer:
    def forward(self, x, metadata=None, **rest): ...
    @classmethod
    def name(cls): ...
""",
    "engine/layers/norms.py": """
__all__ = ["Norm"]
class Norm: ...
""",
    "engine/config.py": """
from typing import ClassVar, TYPE_CHECKING, Optional
from dataclasses import dataclass, field
from .made import config
if TYPE_CHECKING:
    from engine.layers import Attention as ForCheckers
@config
class Parallel:
    size: int = 1
    worker: str = field(default="auto")
    ready: bool = field(default=False, init=False)
    limit: ClassVar[int] = 3
@dataclass
class Whole:
    name: str
    parallel: Optional[Parallel] = None
@dataclass(kw_only=True)
class More(Whole):
    extra: list = field(default_factory=list)
""",
    "engine/made.py": """
from typing import dataclass_transform
@dataclass_transform()
def config(cls): ...
""",
    "engine/choice.py": """
import sys
try:
    from fast import run
except ImportError:
    def run(x, y=1): ...
if sys.version_info >= (3, 11):
    def pick(a): ...
else:
    def pick(a, b): ...
Fast = None
try:
    from engine.layers import Norm as Fast
except ImportError:
    pass
from engine.choice import missing as circle
""",
}


def write(files: Mapping[str, str], folder: Path) -> Path:
    """The files below a folder, which is returned."""
    for name, text in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(text)
    return folder


def lookup(files: Mapping[str, str], folder: Path, version: str = "1.0") -> Lookup:
    """Names of a release that consists of these files."""
    return Lookup(Sources(Release("engine", version, write(files, folder))))
