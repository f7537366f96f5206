"""The page of a compile: one file that shows passes, graphs, kernels and memory; see data.py."""
