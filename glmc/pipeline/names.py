"""Names of the passes and steps, for the command line: nothing here needs torch.

Whoever adds a pass adds its name; a test compares them with the stages.
"""

from __future__ import annotations

from collections.abc import Iterable

from glmc.errors import UsageError
from glmc_runtime.command.nearest import did_you_mean
from glmc_runtime.package.entry_points import entries

GROUP = "glmc.passes"
PASSES = (
    *("canonical", "clean", "rms_norm", "rope", "qk_norm", "attention", "qkv_merge", "moe_gate"),
    *("moe_ffn", "gate_up_merge", "silu_mul", "shared_expert", "add_rms_norm"),
)
# The step that deals a model to ranks: there is one where there are several.
SHARD = "shard"
# Steps that no option leaves out, beside two of the passes.
FIXED_STEPS = ("kv_cache", SHARD, "specialise", "memory_plan")
# What a dump may name.
STEPS = ("capture", *PASSES, "kv_cache", SHARD, "prefill", "decode", "specialise", "lower")


def require_passes(flag: str, names: Iterable[str], known: tuple[str, ...] = PASSES) -> None:
    """Raise :class:`UsageError` for a name that is no pass, ours or of another distribution."""
    for name in names:
        if name not in known and name not in FIXED_STEPS and name not in entries(GROUP):
            raise unknown_pass(name, flag, (*known, *entries(GROUP)))


def unknown_pass(name: str, place: str, known: Iterable[str]) -> UsageError:
    """The error of a name that no pass has."""
    known = tuple(known)
    return UsageError(
        f"there is no pass '{name}'",
        place=place,
        expected=", ".join(known),
        found=name,
        remedy=did_you_mean(name, known)
        or "name one of these, or install the distribution that brings it",
    )
