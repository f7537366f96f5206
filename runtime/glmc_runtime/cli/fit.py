"""``fit``: what fits into how much memory; nothing is loaded, and no device is asked."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace

from glmc_runtime.format.artifact_files import require_directory
from glmc_runtime.printable import printable_lines


def fit(options: SimpleNamespace) -> int:
    """Print the table; returns the exit status."""
    require_directory(Path(options.artifact))
    from glmc_runtime.loading.fit import Wanted, artifact_fit
    from glmc_runtime.loading.loader import load_artifact

    wanted = Wanted(
        tuple(options.device_memory or ()), options.batch, options.context, options.cache_memory
    )
    report = artifact_fit(load_artifact(options.artifact, verify_hashes=False), wanted)
    if options.json:
        print(json.dumps(report.to_json()))
    else:
        print(printable_lines(report.text()))
    return 0
