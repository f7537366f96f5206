"""SGLang's offline engine, whose scheduler is a process that it starts.

Each engine and its processes are forks of one that has imported SGLang
(:mod:`tests.engines.sglang.forked`).
"""

from __future__ import annotations

import asyncio
import importlib
import multiprocessing
import os
import re
import sys
import time
import traceback
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

from tests.engines.equality.counted import counted
from tests.engines.equality.result import Result, Subject
from tests.engines.equality.traffic import BLOCK, CHUNK, CONTEXT, SEQUENCES
from tests.engines.sglang.forked import IMPORTED, processes_are_forks

SECONDS = 0.03
"""Between two requests that are not sent at once: a step or a few."""
QUIET = 0.5
"""Seconds without a line, after which a scheduler that has nothing to do has said everything."""
PLACES = 24 * BLOCK
"""In the KV pool: less than vLLM's, as more is held free when a request is let in."""
EXPECTED = BLOCK
"""New tokens that the scheduler takes a request to have when it lets one in. It knows that those
don't end early, and would let in no more than the pool holds to their end. With much less than a
block its prefill runs out of memory, with plans and without."""


def serve(subject: Subject, ours: bool) -> Result:
    """Start an engine, ask it everything, and end it."""
    os.environ["SGLANG_CLIP_MAX_NEW_TOKENS_ESTIMATION"] = str(EXPECTED)
    os.environ["SGLANG_LOG_FORWARD_ITERS"] = "1"  # which step of the scheduler each line is of
    log = _log()
    written = log.stat().st_size
    for module in IMPORTED:
        importlib.import_module(module)
    result = _forked(subject, ours)
    if result.error:
        return result
    lines = log.read_bytes()[written:].decode(errors="replace")
    result.engine["steps"] = max(map(int, re.findall(r" batch \[(\d+)\]", lines)))
    return result


def _log() -> Path:
    """What this process prints to, and those that it starts."""
    return Path("/proc/self/fd/1").resolve()


def _wait_for_the_last_line() -> None:
    """The scheduler answers before it says which step that was: an end in between loses one."""
    log, seen = _log(), -1
    while log.stat().st_size != seen:
        seen = log.stat().st_size
        time.sleep(QUIET)


def _forked(subject: Subject, ours: bool) -> Result:
    """An engine in a fork of this process; where SGLang ends its process, this one ends."""
    forks = multiprocessing.get_context("fork")
    answer, told = forks.Pipe(duplex=False)
    process = forks.Process(target=_tell, args=(told, subject, ours))
    process.start()
    told.close()
    try:
        result: Result = answer.recv()
    except EOFError:
        sys.exit("SGLang has ended its process")
    process.join()
    return result


def _tell(told: Connection, subject: Subject, ours: bool) -> None:
    processes_are_forks()
    try:
        told.send(_served(subject, ours))
    except Exception as error:  # noqa: BLE001 - the next model is served all the same
        traceback.print_exc()
        told.send(Result(subject.name, [], [], error=f"{type(error).__name__}: {error}"))
    os._exit(0)  # whatever threads the engine has left


def _served(subject: Subject, ours: bool) -> Result:
    import sglang

    engine: Any = sglang.Engine(
        model_path=subject.checkpoint,
        device="cpu",
        dtype="float32",
        skip_tokenizer_init=True,
        skip_server_warmup=True,
        random_seed=0,
        mem_fraction_static=0.3,
        context_length=CONTEXT,
        page_size=BLOCK,
        chunked_prefill_size=CHUNK,
        enable_mixed_chunk=True,
        max_running_requests=SEQUENCES,
        max_total_tokens=PLACES,
        log_level="info",
        decode_log_interval=1,
    )
    try:
        before = counted() if ours else {}
        answers = engine.generate(input_ids=subject.texts, sampling_params=_asked(subject))
        later = engine.loop.run_until_complete(_staggered(engine, subject))
        after = counted() if ours else {}
        _wait_for_the_last_line()
    finally:
        engine.shutdown()
    told = [answer["meta_info"] for answer in (*answers, *later)]
    return Result(
        subject.name,
        [list(answer["output_ids"]) for answer in answers],
        [list(answer["output_ids"]) for answer in later],
        {
            "preemptions": sum(each.get("num_retractions") or 0 for each in told),
            "cached": sum(each["cached_tokens"] for each in told),
        },
        {name: after[name] - (before.get(name, 0) if name != "serves" else 0) for name in after},
    )


async def _staggered(engine: Any, subject: Subject) -> list[Any]:
    async def one(place: int, text: list[int]) -> Any:
        await asyncio.sleep(SECONDS * place)
        return await engine.async_generate(input_ids=text, sampling_params=_asked(subject))

    return await asyncio.gather(*(one(place, text) for place, text in enumerate(subject.texts)))


def _asked(subject: Subject) -> dict[str, Any]:
    return {"temperature": 0, "max_new_tokens": subject.tokens, "ignore_eos": True}
