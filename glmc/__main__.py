"""``python -m glmc``: the command of an interpreter that is named, wherever its scripts are."""

from __future__ import annotations

import sys

from glmc.cli.main import main

if __name__ == "__main__":
    sys.exit(main())
