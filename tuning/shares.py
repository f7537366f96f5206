"""What one of several cards has of a model, where every size divides evenly."""

from __future__ import annotations


def share(size: int, ranks: int) -> int:
    """``size / ranks``. Raises ValueError where that is no whole number: a plan's shares are then
    longer and have zeros at their ends."""
    if ranks < 1 or size % ranks:
        raise ValueError(f"{size} is not dealt evenly to {ranks} ranks")
    return size // ranks


def kv_heads_of_rank(kv_heads: int, ranks: int) -> int:
    """A kv head that several ranks need, each of them has."""
    return 1 if ranks > kv_heads else share(kv_heads, ranks)
