"""What every command line does: its output, logs, end by a signal, and memory that runs out."""
