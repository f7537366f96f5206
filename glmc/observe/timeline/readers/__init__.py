"""A reader for each kind of file; open.py chooses by content."""
