"""Whether all ranks hold the same: hashes of artifact, plans and table, compared at the start."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence

import torch

from glmc_runtime.collectives.group import Group, backend_of
from glmc_runtime.errors import RankError


def agree(group: Group, hashes: Mapping[str, str]) -> None:
    """A collective call: raise :class:`RankError` on every rank, naming the one that differs,
    unless all have these hashes by name."""
    require_equal(gathered_texts(group, json.dumps(hashes, sort_keys=True)))


def require_equal(texts: Sequence[str]) -> None:
    """The hashes of each rank by name, as JSON, are equal; else :class:`RankError` names a rank
    that differs from most, and rank 0's where there is no most."""
    common = max(texts, key=texts.count)
    strange = next((rank for rank, text in enumerate(texts) if text != common), None)
    if strange is None:
        return
    usual, other = json.loads(common), json.loads(texts[strange])
    names = [name for name in {**usual, **other} if usual.get(name) != other.get(name)]
    raise RankError(
        f"rank {strange} has another {' and another '.join(names)} than the others",
        place=f"rank {strange}",
        expected=", ".join(f"{name} {_short(usual.get(name))}" for name in names),
        found=", ".join(f"{name} {_short(other.get(name))}" for name in names),
        remedy="give every rank the same artifact, unchanged, and start all of them again",
    )


def gathered_texts(group: Group, text: str) -> list[str]:
    """The text of each rank; a collective call."""
    if group.size == 1:
        return [text]
    process_group, data = group.process_group, text.encode()
    device = "cuda" if backend_of(process_group) == "nccl" else "cpu"
    with torch.inference_mode(False):  # gloo's thread may write to no inference tensor (torch 2.5)
        length = torch.tensor([len(data)], dtype=torch.int64, device=device)
        lengths = [torch.empty_like(length) for _ in range(group.size)]
        process_group.allgather([lengths], [length]).wait()
        longest = max(int(one) for one in lengths)
        own = torch.zeros(longest, dtype=torch.uint8, device=device)
        own[: len(data)] = torch.tensor(list(data), dtype=torch.uint8, device=device)
        rows = [torch.empty_like(own) for _ in range(group.size)]
        process_group.allgather([rows], [own]).wait()
    return [
        bytes(row[: int(length)].tolist()).decode()
        for row, length in zip(rows, lengths, strict=True)
    ]


def _short(value: object) -> str:
    return "nothing" if value is None else str(value)[:16]
