"""A module whose import does not end, as that of a library that waits for a card."""

from __future__ import annotations

import os
import time

if "RANK" in dict(os.environ):  # only in the process of a rank
    time.sleep(300)
