"""What a dataset of HDF5 may take in memory: a damaged or hostile file may promise anything.

Elements that are all in the file are read however many they are, one dataset at a time. Packed ones
may come to 40 times what is stored, or to 64 Mi elements, which is a mask of 8192 tokens. libhdf5
unpacks a chunk whole, whatever size the file says that it has, so that is asked here first.
"""

from __future__ import annotations

import zlib
from math import prod
from typing import Any

MOST_ELEMENTS = 64 << 20
"""Of a dataset, or of a chunk, that is packed more than is usual."""
_USUAL = 40
_DEFLATE, _PACKERS = 1, frozenset((1, 4, 32000))
"""Numbers of HDF5's filters: deflate, szip, and lzf of h5py."""
_DEFLATES_BY = 1032
_UNSEEN = MOST_ELEMENTS * 8 // _DEFLATES_BY
"""Bytes that can't unpack to more than a dataset may take."""


def promised_too_much(data: Any) -> str:
    """What a dataset has more of than it can have; empty where it may be read."""
    stored = data.id.get_storage_size()
    if data.size and not stored:
        return f"{data.nbytes:,} bytes of none that are stored"
    if _beyond(data.size, data.nbytes, stored):
        return f"{data.size:,} elements of {stored:,} bytes that are stored"
    return "" if data.chunks is None else _chunks(data, stored)


def _beyond(elements: int, size: int, stored: int) -> bool:
    return elements > MOST_ELEMENTS and size > _USUAL * stored


def _chunks(data: Any, stored: int) -> str:
    elements = prod(data.chunks)
    size = elements * data.dtype.itemsize
    if _beyond(elements, size, stored):
        return f"chunks of {elements:,} elements, where {stored:,} bytes are stored"
    created = data.id.get_create_plist()
    filters = [created.get_filter(place)[0] for place in range(created.get_nfilters())]
    if sum(each in _PACKERS for each in filters) > 1:
        return "chunks that are packed more than once"
    large: list[tuple[int, ...]] = []

    def look(chunk: Any) -> None:
        if chunk.size > _UNSEEN:
            large.append(chunk.chunk_offset)

    if _DEFLATE in filters:
        data.id.chunk_iter(look)
    if not all(_unpacks_to(data, offset, size) for offset in large):
        return f"a chunk that unpacks to more than its {size:,} bytes"
    return ""


def _unpacks_to(data: Any, offset: tuple[int, ...], size: int) -> bool:
    """Whether a chunk is not larger, once it is unpacked, than it may be. A checksum of four bytes
    may come first when it is packed and last when it is not."""
    _, packed = data.id.read_direct_chunk(offset)
    reader = zlib.decompressobj()
    try:
        return len(reader.decompress(packed, size + 5)) <= size + 4
    except zlib.error:
        return True  # that is no deflate: libhdf5 says what is wrong
