"""The paged KV cache: the tensors, and who owns which block."""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import Protocol

import torch

from glmc_runtime.errors import CapacityError, PlanError
from glmc_runtime.format.cache import SCRATCH_BLOCK, CacheKey, CacheSpec
from glmc_runtime.format.dtypes import dtype_of
from glmc_runtime.format.memory import block_bytes
from glmc_runtime.replay.untouched import zeros


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


class Cache(Protocol):
    """A paged cache as an engine sees it: its blocks, wherever the tensors are."""

    @property
    def spec(self) -> CacheSpec: ...
    @property
    def allocator(self) -> BlockAllocator: ...
    def tensor(self, name: str, layer: int) -> torch.Tensor: ...
    def copy_block(self, source: int, target: int) -> None: ...


class KVCache:
    """The tensors of a cache by name and layer, each [blocks, ...] as the manifest's layout has a
    block (:meth:`CacheSpec.block_shape`), and the allocator of their blocks.

    ``tensors`` are those of an outer engine in place of new ones: of any strides, each of
    ``blocks`` blocks. Raises :class:`PlanError` where they are not what the spec says, and
    :class:`CapacityError` where new ones do not fit into memory.
    """

    def __init__(
        self,
        spec: CacheSpec,
        blocks: int,
        device: torch.device,
        tensors: Mapping[CacheKey, torch.Tensor] | None = None,
    ) -> None:
        self.spec = spec
        shapes = {
            CacheKey(row.name, layer): ((blocks, *spec.block_shape(row)), dtype_of(row.dtype))
            for row in spec.tensors
            for layer in row.layers
        }
        if tensors is None:
            size, memory = blocks * block_bytes(spec), _memory_of(device)
            if size > memory:
                raise CapacityError(
                    "the KV cache is larger than all memory",
                    expected=f"at most {memory} bytes",
                    found=f"{size} bytes for {blocks} blocks",
                    place=str(device),
                    remedy="load with fewer kv_blocks",
                )
            self.allocator = BlockAllocator(blocks)
            self.tensors = _allocated(shapes, device, size, blocks)
        else:
            self.allocator = BlockAllocator(blocks)
            _check_tensors(shapes, tensors, device)
            self.tensors = {key: tensors[key] for key in shapes}

    def tensor(self, name: str, layer: int) -> torch.Tensor:
        """A tensor of the cache in a layer; raises :class:`PlanError`."""
        tensor = self.tensors.get(CacheKey(name, layer))
        if tensor is None:
            raise PlanError(f"there is no cache '{name}' of layer {layer}")
        return tensor

    def copy_block(self, source: int, target: int) -> None:
        """Copy a block, in all tensors."""
        for tensor in self.tensors.values():
            tensor[target].copy_(tensor[source])


Shapes = Mapping[CacheKey, tuple[tuple[int, ...], torch.dtype]]


def _allocated(
    shapes: Shapes, device: torch.device, size: int, blocks: int
) -> dict[CacheKey, torch.Tensor]:
    try:
        # Zeroed: a kernel that masks by multiplying must not meet NaN in an unwritten slot.
        return {key: zeros(shape, dtype, device) for key, (shape, dtype) in shapes.items()}
    except (RuntimeError, OSError) as error:
        raise CapacityError(
            "the KV cache does not fit into memory",
            expected=f"{size} bytes for {blocks} blocks",
            place=str(device),
            remedy="load with fewer kv_blocks",
        ) from error


def _check_tensors(
    shapes: Shapes, tensors: Mapping[CacheKey, torch.Tensor], device: torch.device
) -> None:
    for key, (shape, dtype) in shapes.items():
        tensor = tensors.get(key)
        if tensor is None:
            raise PlanError(f"the KV cache has no tensor '{key.name}' of layer {key.layer}")
        if tuple(tensor.shape) != shape or tensor.dtype != dtype or tensor.device != device:
            raise PlanError(
                "a tensor of the KV cache is another than the artifact's",
                place=f"'{key.name}' of layer {key.layer}",
                expected=f"{dtype} {list(shape)} on {device}",
                found=f"{tensor.dtype} {list(tensor.shape)} on {tensor.device}",
            )


def _memory_of(device: torch.device) -> int:
    """All memory of a device, in use or not, in bytes."""
    if device.type == "cuda":
        return torch.cuda.mem_get_info(device)[1]
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")


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
