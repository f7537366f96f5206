"""Names that are checked before anything that computes is imported."""

from __future__ import annotations

from glmc.config import CompileOptions
from glmc.errors import AbiError
from glmc.pipeline.names import require_passes
from glmc.presets.names import require_model
from glmc_runtime.command.nearest import did_you_mean

PROFILES = ("P-A", "P-B", "P-C")


def require_names(model: str, options: CompileOptions) -> None:
    """Raise ConfigError for a model that is neither preset nor folder, UsageError for a pass and
    AbiError for a profile that there is not."""
    require_model(model)
    require_passes("--passes-on", options.passes_on)
    require_passes("--passes-off", options.passes_off)
    profile = options.abi_profile
    if profile is not None and profile not in PROFILES:
        raise AbiError(
            "unknown ABI profile",
            expected=", ".join(PROFILES),
            found=profile,
            remedy=did_you_mean(profile, PROFILES)
            or "choose the profile of the wheels on the target machine",
        )
