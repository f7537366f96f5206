"""The installed package: its version, old names of its modules, and what others register for it."""
