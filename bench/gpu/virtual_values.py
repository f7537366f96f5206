"""Values of the all-reduces over the memory of peers: beside the sum in the order of the ranks.

Messages of many sizes, in whole tiles and not, aligned and not, in one piece and several, with
infinities, NaNs, zeros of both signs and the smallest numbers among them. All ranks must have the
same bits, again when repeated, and the fused kernel those of two calls.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from bench.gpu.virtual_group import Thunk, VirtualGroup, bits
from glmc_runtime.kernels.cuda.collectives.all_reduce_add_rms_norm import all_reduce_add_rms_norm
from glmc_runtime.kernels.cuda.collectives.one_shot import one_shot
from glmc_runtime.kernels.cuda.collectives.two_shot import two_shot
from glmc_runtime.kernels.cuda.norms import add_rms_norm

ALGORITHMS = {"one_shot": one_shot, "two_shot": two_shot}
DTYPES = (torch.bfloat16, torch.float16, torch.float32)
SIZES = (7, 128, 1024, 2048, 2049, 5120, 40_960, 65_535, 300_001, 1_048_576, 2_500_003)
ROWS = (
    (torch.bfloat16, 1, 5120),
    (torch.bfloat16, 33, 5120),
    (torch.bfloat16, 300, 5120),
    (torch.bfloat16, 2, 63),
    (torch.float16, 3, 4096),
    (torch.float32, 5, 1000),
)
_HOSTILE = (float("inf"), float("-inf"), float("nan"), -0.0, 0.0, 1e-40, -6e-8, 3e38)
Rounded = Callable[[Tensor, torch.dtype], Tensor]


@dataclass(frozen=True)
class Case:
    """A message: ``offset`` elements after an aligned address."""

    algorithm: str
    dtype: torch.dtype
    size: int
    offset: int = 0

    def __str__(self) -> str:
        name = str(self.dtype).removeprefix("torch.")
        return f"{self.algorithm}, {self.size} of {name} from element {self.offset}"


class HangError(Exception):
    """Ranks that wait for each other for ever."""


def cases(sizes: Sequence[int] = SIZES) -> Iterator[Case]:
    """All sizes from an aligned address, odd ones from another too, and one element."""
    for algorithm in ALGORITHMS:
        yield Case(algorithm, torch.bfloat16, 1)
        for dtype in DTYPES:
            for size in sizes:
                yield from (Case(algorithm, dtype, size, offset) for offset in range(size % 2 + 1))


def messages(ranks: int, case: Case, device: torch.device) -> list[Tensor]:
    """The message of each rank, the same in each run."""
    parts = []
    hostile = torch.tensor(_HOSTILE, device=device)
    for rank in range(ranks):
        made = torch.Generator(device).manual_seed(1000 * rank + case.size)
        shape = (case.size + case.offset,)
        x = torch.randn(shape, generator=made, device=device)
        x *= torch.randint(-3, 4, shape, generator=made, device=device).float().exp2()
        count = len(x) // 50
        places = torch.randint(0, len(x), (count,), generator=made, device=device)
        kinds = torch.randint(0, len(_HOSTILE), (count,), generator=made, device=device)
        x[places] = hostile[kinds]
        parts.append(x.to(case.dtype)[case.offset :])
    return parts


def rounded(total: Tensor, dtype: torch.dtype) -> Tensor:
    return total.to(dtype)


def in_rank_order(parts: Sequence[Tensor], to: Rounded = rounded) -> Tensor:
    """The sum in float32, rounded once."""
    total = parts[0].float()
    for part in parts[1:]:
        total = total + part.float()
    return to(total, parts[0].dtype)


def fault_of(group: VirtualGroup, case: Case, to: Rounded = rounded) -> str:
    """What is wrong with a case; empty where nothing is."""
    parts = messages(group.size, case, group.device)
    expected = in_rank_order(parts, to)
    kept = [part.clone() for part in parts]
    make = ALGORITHMS[case.algorithm]
    steps = [make(peer, part) for peer, part in zip(group.peers, parts, strict=True)]
    group.warm(steps)
    first: Tensor | None = None
    for _ in range(2):
        _copy(parts, kept)
        group.poison()
        if not group.run(steps, parts):
            raise HangError(f"{case}, uses {group.uses()}")
        first = parts[0].clone() if first is None else first
        for rank, part in enumerate(parts):
            if not torch.equal(bits(part), bits(first)):
                return f"rank {rank} or a repetition has other bits: {case}"
        wrong = difference(first, expected)
        if wrong:
            return f"{wrong}: {case}"
    return ""


def difference(found: Tensor, expected: Tensor) -> str:
    """The first element that has other bits, but for those of NaN; empty where none has."""
    same = (bits(found) == bits(expected)) | (found.isnan() & expected.isnan())
    if same.all():
        return ""
    place = int((~same).nonzero()[0])
    return f"element {place} is {found[place]}, not {expected[place]}"


def fused_fault_of(group: VirtualGroup, dtype: torch.dtype, rows: int, width: int) -> str:
    """What is wrong with all-reduce, addition and norm in one kernel beside two calls."""
    device = group.device
    case = Case("one_shot", dtype, rows * width)
    parts = [part.nan_to_num(1.0, 2.0, -2.0) for part in messages(group.size, case, device)]
    parts = [part.view(rows, width) for part in parts]
    made = torch.Generator().manual_seed(7)
    residual, weight = (
        torch.randn(shape, generator=made).to(dtype).to(device) for shape in ((rows, width), width)
    )
    kept = [part.clone() for part in parts]
    results: dict[str, list[tuple[Tensor, Tensor, Tensor]]] = {}
    for name in ("apart", "fused"):
        steps: list[list[Thunk]] = []
        results[name] = []
        for peer, part in zip(group.peers, parts, strict=True):
            out, total = torch.empty_like(part), torch.empty_like(part)
            arguments = {
                "x": part, "residual": residual, "weight": weight, "eps": 1e-5, "out": out,
                "total": total,
            }  # fmt: skip
            steps.append(
                all_reduce_add_rms_norm(peer, arguments)
                if name == "fused"
                else [*one_shot(peer, part.view(-1)), add_rms_norm(arguments)]
            )
            results[name].append((part, out, total))
        group.warm(steps)
        _copy(parts, kept)
        group.poison()
        if not group.run(steps, parts):
            raise HangError(f"{name} norm, {rows} x {width}, uses {group.uses()}")
        results[name] = [(x.clone(), out, total) for x, out, total in results[name]]
    for rank in range(group.size):
        for what, one, other in zip(
            ("sum", "norm", "total"), results["fused"][rank], results["apart"][0], strict=True
        ):
            if not torch.equal(bits(one), bits(other)):
                where = f"{rows} x {width} of {dtype}"
                return f"the {what} of rank {rank} has other bits in one kernel: {where}"
    return ""


def _copy(parts: Sequence[Tensor], kept: Sequence[Tensor]) -> None:
    for part, one in zip(parts, kept, strict=True):
        part.copy_(one)
