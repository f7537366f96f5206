"""Defaults of the arguments of :func:`glmc_runtime.load`."""

# Steps of each phase whose vendor calls are checked.
GUARD_STEPS = 2
