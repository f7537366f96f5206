"""Blocks for a step: every sequence owns alone what it is about to write, or nothing changes."""

from __future__ import annotations

from glmc_runtime.errors import CapacityError
from glmc_runtime.replay.cache import Cache
from glmc_runtime.replay.step import ScheduledTokens, blocks_for


def reserve(cache: Cache, chunks: list[ScheduledTokens]) -> None:
    """Give each sequence the blocks that it lacks, and a copy of its own of each shared block that
    it writes to; the last owner of a block keeps it. Raises :class:`CapacityError`."""
    allocator, size = cache.allocator, cache.spec.block_size
    owners: dict[int, int] = {}
    copies: list[tuple[list[int], int]] = []
    lacking: list[tuple[list[int], int]] = []
    needed = 0
    for chunk in chunks:
        blocks = chunk.blocks
        held, end = len(blocks), blocks_for(chunk.start + len(chunk.tokens), size)
        if end > held:
            lacking.append((blocks, end - held))
            needed += end - held
        for place in range(chunk.start // size, min(end, held)):
            block = blocks[place]
            number = owners.get(block) or allocator.owners(block)
            if number > 1:
                owners[block] = number - 1
                copies.append((blocks, place))
    needed += len(copies)
    if needed > allocator.available:
        raise CapacityError(
            "the KV cache has too few free blocks for this step",
            expected=f"{needed} blocks for {len(chunks)} sequences",
            found=f"{allocator.available} free of {allocator.usable}",
            remedy="release sequences, send fewer or shorter ones, or load with more kv_blocks",
        )
    for blocks, place in copies:
        (copy,) = allocator.allocate(1)
        cache.copy_block(blocks[place], copy)
        allocator.free([blocks[place]])
        blocks[place] = copy
    for blocks, number in lacking:
        blocks.extend(allocator.allocate(number, blocks[-1] if blocks else None))


def blocks_lacking(cache: Cache, blocks: list[int], cached: int, length: int) -> int:
    """How many blocks a sequence with these takes when it grows to ``length`` tokens."""
    end = blocks_for(length, cache.spec.block_size)
    written = blocks[cached // cache.spec.block_size : end]
    shared = sum([cache.allocator.owners(block) > 1 for block in written])
    return max(0, end - len(blocks)) + shared
