"""What the adapters of all engines share; it knows no engine."""
