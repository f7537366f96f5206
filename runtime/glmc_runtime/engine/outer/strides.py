"""What an artifact's kernels take of an outer engine's memory: packed or by its strides."""

from __future__ import annotations

from collections.abc import Iterable

from glmc_runtime.engine.outer.kv_tensors import CacheViews
from glmc_runtime.errors import RequestError
from glmc_runtime.format.cache import CacheKey
from glmc_runtime.format.manifest import Manifest
from glmc_runtime.format.plan import CacheArgument, PhasePlan, place_of
from glmc_runtime.kernels import is_vendor
from glmc_runtime.kernels.allowed import allowed_kernels
from glmc_runtime.kernels.vendor_functions.attention import BLOCK_SIZES

_PACKED = {
    "blocks_heads_tokens": "'blocks heads tokens dim', or 'kv blocks heads tokens dim' in one",
    "blocks_tokens_heads": "'blocks tokens heads dim', or 'kv blocks tokens heads dim' in one",
}


def check_caches(plans: Iterable[PhasePlan], manifest: Manifest, views: CacheViews) -> None:
    """Raise :class:`RequestError` for a cache with gaps, or with its dimensions in another order,
    that a kernel would get which takes packed ones only, and for blocks of a size that the
    vendor's kernels are not known to take."""
    schema_of = allowed_kernels(manifest)
    for plan in plans:
        for call in plan.calls:
            schema = schema_of(call.function, place_of(call))
            for name, argument in call.arguments.items():
                expected = schema.argument(name)
                if not isinstance(argument, CacheArgument) or expected is None:
                    continue
                if is_vendor(call.function) and views.block_size not in BLOCK_SIZES:
                    raise RequestError(
                        f"{call.function} is not known to take blocks of this size",
                        place=place_of(call),
                        expected=f"{', '.join(map(str, BLOCK_SIZES))} tokens",
                        found=f"{views.block_size} tokens",
                    )
                if expected.strided:
                    continue
                view = views.tensors[CacheKey(argument.cache, argument.layer)]
                if not view.is_contiguous():
                    raise RequestError(
                        f"{call.function} reads a KV cache in its own layout only",
                        place=place_of(call),
                        expected=f"packed tensors of {_PACKED[manifest.cache.layout]}",
                        found=f"[{', '.join(map(str, view.shape))}] with strides "
                        f"{list(view.stride())}",
                        remedy="let the engine lay its cache out so",
                    )
