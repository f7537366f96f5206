"""What of a run is recorded, whichever side runs it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase

MODULE, OP = "module", "op"
LEVELS = (MODULE, OP)


@dataclass(frozen=True)
class RecordOptions:
    """``prompts`` are token ids of each sequence; ``steps`` how many decode steps follow. The token
    of a sequence in each of these is in ``tokens``, or is the likeliest by the side itself.

    ``layers`` and ``modules`` (patterns such as ``*.mlp*``) say which modules; empty: all.
    ``level`` is ``module`` or ``op``: also what is computed between modules. ``parameters`` records
    weights, too.
    """

    prompts: tuple[tuple[int, ...], ...]
    steps: int = 1
    tokens: tuple[tuple[int, ...], ...] | None = None
    layers: frozenset[int] = frozenset()
    modules: tuple[str, ...] = ()
    level: str = MODULE
    parameters: bool = False

    def wants(self, module: str, layer: int | None) -> bool:
        """Whether tensors of a module are recorded."""
        if self.layers and layer not in self.layers:
            return False
        return not self.modules or any(fnmatchcase(module, each) for each in self.modules)

    @property
    def lengths(self) -> tuple[int, ...]:
        """Tokens of each prompt."""
        return tuple(map(len, self.prompts))


def phase_of(step: int) -> str:
    """The phase of a step of a record."""
    return "decode" if step else "prefill"


def fed(tokens: Sequence[Sequence[int]], step: int) -> list[int]:
    """The token of each sequence that decode step ``step``, from 1, computes."""
    return [each[step - 1] for each in tokens]
