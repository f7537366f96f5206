"""What the time model of ``glmc estimate`` is fitted to and held against."""
