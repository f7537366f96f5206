"""What differs between two compiles, by pass and node: see record.py for the result."""
