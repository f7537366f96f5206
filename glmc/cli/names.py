"""Names that are checked before anything that computes is imported."""

from __future__ import annotations

from glmc.config import CompileOptions, require_profile
from glmc.pipeline.names import require_passes
from glmc.presets.names import require_model


def require_names(model: str, options: CompileOptions) -> None:
    """Raise ConfigError for a model that is neither preset nor folder, UsageError for a pass and
    AbiError for a profile that there is not."""
    require_model(model)
    require_passes("--passes-on", options.passes_on)
    require_passes("--passes-off", options.passes_off)
    if options.abi_profile is not None:
        require_profile(options.abi_profile)
