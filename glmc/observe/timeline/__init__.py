"""Files of profilers as one table: totals, bubbles, and the difference of two; see table.py."""
