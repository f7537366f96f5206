"""What every command line does: its output, its end by a signal, and memory that runs out."""
