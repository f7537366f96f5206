"""Version of the package, and a default that several floors share."""

__version__ = "0.1.0"

# Steps of each phase whose vendor calls are checked.
GUARD_STEPS = 2
