"""History of a compile, from the source line to the kernel call; see record.py."""
