"""All probes of several ranks, in order: what only looks first, then what runs."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from glob import glob

from glmc_runtime import arguments as kinds
from glmc_runtime.doctor.ranks import probes
from glmc_runtime.doctor.ranks.cards import cards
from glmc_runtime.doctor.ranks.environment import environment, switches
from glmc_runtime.doctor.ranks.facts import DEVICE_FILES, KUNLUN
from glmc_runtime.doctor.ranks.result import RanksReport, Result
from glmc_runtime.doctor.ranks.segments import segments
from glmc_runtime.doctor.ranks.tasks import GLOO
from glmc_runtime.errors import RequestError
from glmc_runtime.format.collectives import AlgorithmTable

LIMIT = 60.0
MOST_RANKS = 64
NCCL, CUDA = "nccl", "cuda"
BACKENDS = (GLOO, NCCL)
CUDA_DEVICE_FILES = "/dev/nvidia[0-9]*"


def examine_ranks(
    ranks: int,
    *,
    backend: str = GLOO,
    limit: float = LIMIT,
    target: str = "",
    table: AlgorithmTable | None = None,
    dtype: str = "bfloat16",
    variables: Mapping[str, str] | None = None,
    tell: Callable[[str], object] | None = None,
) -> RanksReport:
    """Probe this machine for ``ranks`` ranks; ``limit`` is the seconds of each probe that runs.

    ``backend`` is that of torch.distributed (BKCL is behind ``nccl``). ``target``, ``table`` and
    ``dtype`` are those of an artifact. ``tell`` hears the name of each probe as it begins. Raises
    :class:`RequestError` for numbers that can't be.
    """
    kinds.integer("ranks", ranks, least=2, most=MOST_RANKS)
    if backend not in BACKENDS:
        raise RequestError(
            f"there is no backend '{backend}'", expected=", ".join(BACKENDS), found=backend
        )
    if not 0 < limit <= 3600:
        raise RequestError(
            "a probe needs time, and no more than an hour", expected="seconds", found=f"{limit:g}"
        )
    known = dict(os.environ) if variables is None else variables
    formed: list[Result] = []

    def group() -> Result:
        formed.append(probes.group(ranks, backend, limit))
        return formed[0]

    steps: dict[str, Callable[[], Result]] = {
        "environment": partial(environment, known, target),
        "switches": partial(switches, known, target, table, ranks, dtype),
        "cards": partial(cards, known, ranks, limit),
        "segments": segments,
        "card": partial(probes.card, ranks, backend, limit),
        "group": group,
        "window": lambda: probes.window(ranks, backend, limit, formed[0]),
        "links": partial(probes.links, ranks, backend, limit),
    }
    return RanksReport(ranks, backend, tuple(_results(steps, tell)))


def _results(
    steps: Mapping[str, Callable[[], Result]], tell: Callable[[str], object] | None
) -> Iterator[Result]:
    for name, probe in steps.items():
        if tell is not None:
            tell(name)
        yield probe()


def backend_of(target: str, *, emulated: bool) -> str:
    """The backend of an artifact's ranks: that of the cards, or of host memory."""
    return GLOO if emulated or target not in (KUNLUN, CUDA) else NCCL


def backend_here(ranks: int, files: Sequence[str] = (DEVICE_FILES, CUDA_DEVICE_FILES)) -> str:
    """That of cards where there is one for each rank, by the system's ``files`` of them: a card
    that hangs is not asked."""
    return NCCL if any(len(glob(each)) >= ranks for each in files) else GLOO
