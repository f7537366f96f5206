"""An artifact under an outer engine, which schedules, owns the KV cache and samples."""
