"""The page of a compile: one file that tells what happened to each layer; see data.py."""
