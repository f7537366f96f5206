"""``python -m tests.engines.equality.child ENGINE with|without SUBJECTS RESULTS``: an engine that
serves each subject in turn, with compiled plans or without them."""

from __future__ import annotations

import os
import sys
import traceback
from collections.abc import Callable
from pathlib import Path

from tests.engines.equality.result import Result, Subject, read_subjects, write


def main() -> int:
    engine, plans, subjects, results = sys.argv[1:]
    serve: Callable[[Subject, bool], Result]
    if engine == "vllm":
        from tests.engines.equality.in_vllm import serve
    else:
        from tests.engines.equality.in_sglang import serve
    made: list[Result] = []
    for subject in read_subjects(Path(subjects)):
        if plans == "with":
            os.environ["GLMC_ARTIFACT"] = subject.artifact
        try:
            made.append(serve(subject, plans == "with"))
        except Exception as error:  # noqa: BLE001 - the next model is served all the same
            traceback.print_exc()
            made.append(Result(subject.name, [], [], error=f"{type(error).__name__}: {error}"))
        write(Path(results), made)
    return 0


if __name__ == "__main__":  # an engine starts processes that import this module
    sys.exit(main())
