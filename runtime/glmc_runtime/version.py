"""Version of the runtime package."""

__version__ = "0.1.0"
