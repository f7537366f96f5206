"""What the adapters use of an engine, and what became of it in another release of the engine."""
