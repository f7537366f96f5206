"""SGLang's own pools for a platform of older releases, which had to name them."""

from __future__ import annotations

from typing import Any

from sglang.srt.platforms.interface import SRTPlatform


class NamesPools(SRTPlatform):  # type: ignore[misc]
    """Of releases whose platforms choose pools by these methods."""

    def get_mha_kv_pool_cls(self) -> Any:
        from sglang.srt.mem_cache.memory_pool import MHATokenToKVPool

        return MHATokenToKVPool

    def get_paged_allocator_cls(self) -> Any:
        return _allocator

    def support_cuda_graph(self) -> bool:
        return False

    def support_piecewise_cuda_graph(self) -> bool:
        return False


def _allocator(size: int, page_size: int, **named: Any) -> Any:
    """Those releases say a page size to the allocator of single places, too."""
    from sglang.srt.mem_cache import allocator

    if page_size == 1:
        return allocator.TokenToKVPoolAllocator(size, **named)
    return allocator.PagedTokenToKVPoolAllocator(size, page_size=page_size, **named)


def base() -> Any:
    """The class that a platform of this release has above it."""
    return SRTPlatform if hasattr(SRTPlatform, "get_kv_pool_cls") else NamesPools
