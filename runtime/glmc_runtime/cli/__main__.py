"""``python -m glmc_runtime.cli``."""

import sys

from glmc_runtime.cli import main

sys.exit(main())
