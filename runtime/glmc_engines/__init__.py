"""Plans of glmc inside other people's serving engines: one core, a thin adapter for each engine."""
