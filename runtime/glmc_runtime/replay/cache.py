"""The paged KV cache: the tensors, and who owns which block."""

from __future__ import annotations

import os

import torch

from glmc_runtime.errors import CapacityError, PlanError
from glmc_runtime.format.dtypes import dtype_of
from glmc_runtime.format.manifest import CacheSpec

SCRATCH_BLOCK = 0


class BlockAllocator:
    """Hands out blocks 1 .. count-1; block 0 is the scratch block of padded rows.

    One byte per block (1 is free), so that a contiguous run is one search. A block is free again
    when all its owners have given it back.
    """

    def __init__(self, count: int) -> None:
        if count < 2:
            raise CapacityError(
                "the KV cache is too small",
                expected="at least 2 blocks: scratch and one more",
                found=str(count),
                remedy="give more memory to the KV cache",
            )
        self.count = count
        self._free = bytearray(b"\x00" + b"\x01" * (count - 1))
        self._owners = [0] * count
        self._available = count - 1

    @property
    def available(self) -> int:
        return self._available

    @property
    def usable(self) -> int:
        """All blocks that sequences can ever own."""
        return self.count - 1

    def allocate(self, number: int, after: int | None = None) -> list[int]:
        """Take ``number`` blocks: right after block ``after`` if those are free, else the first
        run that is long enough, else the lowest free ones. Raises :class:`CapacityError`."""
        if number <= 0:
            return []
        if number > self._available:
            raise CapacityError(
                "the KV cache has too few free blocks",
                expected=f"{number} blocks",
                found=f"{self._available} free of {self.usable}",
                remedy="release sequences, send fewer or shorter ones, or load with more kv_blocks",
            )
        run = b"\x01" * number
        start = -1
        if after is not None and self._free.startswith(run, after + 1):
            start = after + 1
        if start < 0:
            start = self._free.find(run)
        blocks = list(range(start, start + number)) if start >= 0 else self._lowest(number)
        for block in blocks:
            self._free[block] = 0
            self._owners[block] = 1
        self._available -= number
        return blocks

    def _lowest(self, number: int) -> list[int]:
        blocks: list[int] = []
        position = 0
        while len(blocks) < number:
            position = self._free.index(1, position)
            blocks.append(position)
            position += 1
        return blocks

    def owners(self, block: int) -> int:
        """How many own a block; whoever writes to one of several owners copies it first."""
        return self._owners[block]

    def share(self, blocks: list[int]) -> None:
        """Make one more owner of each block; a free block is refused, and then all are."""
        self._check_owned(blocks, "shared")
        for block in blocks:
            self._owners[block] += 1

    def free(self, blocks: list[int]) -> None:
        """Give blocks back; a block that is not owned (or given twice) is refused as a whole."""
        self._check_owned(blocks, "freed")
        for block in blocks:
            self._owners[block] -= 1
            if not self._owners[block]:
                self._free[block] = 1
                self._available += 1

    def _check_owned(self, blocks: list[int], done: str) -> None:
        if len(set(blocks)) != len(blocks) or any(
            not SCRATCH_BLOCK < block < self.count or self._free[block] for block in blocks
        ):
            raise PlanError(
                f"blocks of the KV cache are {done} that nobody owns",
                found=str(blocks),
                remedy="release each sequence once",
            )


class KVCache:
    """``keys[layer]`` and ``values[layer]`` in the layout of the manifest, and the allocator."""

    def __init__(self, spec: CacheSpec, blocks: int, device: torch.device) -> None:
        if spec.layout == "blocks_heads_tokens":
            shape = (blocks, spec.kv_heads, spec.block_size, spec.head_dim)
        elif spec.layout == "blocks_tokens_heads":
            shape = (blocks, spec.block_size, spec.kv_heads, spec.head_dim)
        else:
            raise PlanError(f"'{spec.layout}' is no layout of the KV cache")
        size, memory = blocks * block_bytes(spec), _memory_of(device)
        if size > memory:
            raise CapacityError(
                "the KV cache is larger than all memory",
                expected=f"at most {memory} bytes",
                found=f"{size} bytes for {blocks} blocks",
                place=str(device),
                remedy="load with fewer kv_blocks",
            )
        self.spec = spec
        self.allocator = BlockAllocator(blocks)
        dtype = dtype_of(spec.dtype)
        try:
            # Zeroed: a kernel that masks by multiplying must not meet NaN in an unwritten slot.
            self.keys = [torch.zeros(shape, dtype=dtype, device=device) for _ in range(spec.layers)]
            self.values = [torch.zeros_like(keys) for keys in self.keys]
        except RuntimeError as error:
            raise CapacityError(
                "the KV cache does not fit into memory",
                expected=f"{blocks * block_bytes(spec)} bytes for {blocks} blocks",
                place=str(device),
                remedy="load with fewer kv_blocks",
            ) from error

    def tensor(self, name: str, layer: int) -> torch.Tensor:
        """The ``key`` or ``value`` cache of a layer; raises :class:`PlanError`."""
        caches = {"key": self.keys, "value": self.values}.get(name)
        if caches is None or not 0 <= layer < len(caches):
            raise PlanError(f"there is no cache '{name}' of layer {layer}")
        return caches[layer]

    def copy_block(self, source: int, target: int) -> None:
        """Copy the keys and values of a block, in all layers."""
        for cache in (*self.keys, *self.values):
            cache[target].copy_(cache[source])


def _memory_of(device: torch.device) -> int:
    """All memory of a device, in use or not, in bytes."""
    if device.type == "cuda":
        return torch.cuda.mem_get_info(device)[1]
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")


def block_bytes(spec: CacheSpec) -> int:
    """Bytes of one block over all layers, keys and values."""
    tokens = 2 * spec.layers * spec.kv_heads * spec.block_size
    return tokens * spec.head_dim * dtype_of(spec.dtype).itemsize


CPU_DEFAULT_BYTES = 2 << 30


def choose_block_count(
    spec: CacheSpec,
    max_context: int,
    largest_batch: int,
    device: torch.device,
    *,
    kv_blocks: int | None,
    kv_memory_bytes: int | None,
) -> int:
    """The number of blocks, scratch included; see :func:`glmc_runtime.load` for the rule."""
    if kv_blocks is not None and kv_memory_bytes is not None:
        raise CapacityError(
            "the size of the KV cache is given twice",
            expected="kv_blocks or kv_memory_bytes",
            remedy="leave one of them out",
        )
    if kv_blocks is not None:
        return kv_blocks
    if kv_memory_bytes is not None:
        return kv_memory_bytes // block_bytes(spec)
    full = 1 + largest_batch * -(-max_context // spec.block_size)
    limit = CPU_DEFAULT_BYTES
    if device.type == "cuda":
        limit = torch.cuda.mem_get_info(device)[0] // 2
    return min(full, limit // block_bytes(spec))
