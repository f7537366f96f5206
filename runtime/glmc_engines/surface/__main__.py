"""``python -m glmc_engines.surface``."""

import sys

from glmc_engines.surface.command import main

sys.exit(main(sys.argv[1:]))
