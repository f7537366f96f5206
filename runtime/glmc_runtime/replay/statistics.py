"""Counters of a session: steps per bucket, padding, captures, and time per segment."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from typing import Any

from glmc_runtime.kernels.interpreter import INTERPRETED_NOTICE


@dataclass
class BucketCounts:
    """Steps that ran in one bucket, and how many of their rows were real."""

    steps: int = 0
    real_rows: int = 0
    rows: int = 0


@dataclass
class Time:
    count: int = 0
    seconds: float = 0.0

    def add(self, seconds: float) -> None:
        self.count += 1
        self.seconds += seconds


@dataclass
class AsyncDecode:
    """Async decode: ``steps`` whose tokens were returned, those of them that were enqueued
    ``ahead`` (or thrown away since), and tokens ``discarded``: computed for nobody.

    ``seconds`` is all time in these steps, of which the host ``waited`` for tokens.
    """

    steps: int = 0
    ahead: int = 0
    discarded: int = 0
    seconds: float = 0.0
    waited: float = 0.0


@dataclass
class Statistics:
    """``timing`` switches the time per segment on; on a device that synchronises each segment.

    ``guard_steps`` counts by phase the steps whose vendor calls were looked at; they are not timed.
    """

    emulated: bool = False
    timing: bool = False
    load_seconds: float = 0.0
    buckets: dict[tuple[str, int], BucketCounts] = field(default_factory=dict)
    captures: dict[tuple[str, int], Time] = field(default_factory=dict)
    segments: dict[tuple[str, int, int], Time] = field(default_factory=dict)
    guard_steps: Counter[str] = field(default_factory=Counter)
    finished: Counter[str] = field(default_factory=Counter)
    preempted: int = 0
    vendor_calls: Counter[str] | None = None
    interpreted: bool = False
    last: tuple[str, int] | None = None
    async_decode: AsyncDecode = field(default_factory=AsyncDecode)

    def count_step(self, phase: str, bucket: int, real: int) -> None:
        key = self.last = (phase, bucket)
        counts = self.buckets.get(key)
        if counts is None:
            counts = self.buckets[key] = BucketCounts()
        counts.steps += 1
        counts.rows += bucket
        counts.real_rows += real

    def count_capture(self, phase: str, bucket: int, graphs: int, seconds: float) -> None:
        self.captures[(phase, bucket)] = Time(graphs, seconds)

    def count_guard_step(self, phase: str) -> None:
        self.guard_steps[phase] += 1

    def count_segment(self, phase: str, bucket: int, segment: int, seconds: float) -> None:
        self.segments.setdefault((phase, bucket, segment), Time()).add(seconds)

    def to_json(self) -> dict[str, Any]:
        """Plain data; seconds are floats, rows and steps are counts."""
        return {
            "emulated": self.emulated,
            "interpreted": self.interpreted,
            "load_seconds": self.load_seconds,
            "buckets": [
                {
                    "phase": phase,
                    "bucket": bucket,
                    "steps": counts.steps,
                    "rows": counts.rows,
                    "padded_rows": counts.rows - counts.real_rows,
                }
                for (phase, bucket), counts in sorted(self.buckets.items())
            ],
            "captures": [
                {"phase": phase, "bucket": bucket, "graphs": time.count, "seconds": time.seconds}
                for (phase, bucket), time in sorted(self.captures.items())
            ],
            "segments": [
                {
                    "phase": phase,
                    "bucket": bucket,
                    "segment": segment,
                    "count": time.count,
                    "seconds": time.seconds,
                }
                for (phase, bucket, segment), time in sorted(self.segments.items())
            ],
            "guard_steps": dict(sorted(self.guard_steps.items())),
            "finished": dict(sorted(self.finished.items())),
            "preempted": self.preempted,
            "async_decode": {
                "steps": self.async_decode.steps,
                "ahead": self.async_decode.ahead,
                "discarded_tokens": self.async_decode.discarded,
                "seconds": self.async_decode.seconds,
                "waited_seconds": self.async_decode.waited,
            },
            "vendor_calls": dict(sorted((self.vendor_calls or {}).items())),
        }

    def _seconds(self, phase: str, bucket: int) -> float:
        return sum(
            time.seconds for key, time in self.segments.items() if key[:2] == (phase, bucket)
        )

    def summary(self) -> str:
        """A short table for people."""
        lines = ["emulated: no Kunlun hardware was used"] if self.emulated else []
        lines += [INTERPRETED_NOTICE] if self.interpreted else []
        header = f"{'phase':<9}{'bucket':>7}{'steps':>8}{'rows':>9}{'padding':>9}"
        lines.append(header + (f"{'seconds':>10}" if self.timing else ""))
        for (phase, bucket), counts in sorted(self.buckets.items()):
            padding = 100.0 * (counts.rows - counts.real_rows) / counts.rows
            row = f"{phase:<9}{bucket:>7}{counts.steps:>8}{counts.rows:>9}{padding:>8.1f}%"
            lines.append(row + (f"{self._seconds(phase, bucket):>10.3f}" if self.timing else ""))
        if self.guard_steps:
            total = sum(self.guard_steps.values())
            lines.append(f"{total} guard steps, whose vendor calls were checked and not timed")
        if self.captures:
            graphs = sum(time.count for time in self.captures.values())
            seconds = sum(time.seconds for time in self.captures.values())
            lines.append(f"captured {graphs} graphs in {seconds:.2f} s")
        if self.async_decode.steps:
            ahead = self.async_decode
            lines.append(
                f"{ahead.steps} greedy steps in {ahead.seconds:.3f} s, {ahead.waited:.3f} s of it "
                f"waiting for tokens; {ahead.ahead} ran ahead, {ahead.discarded} tokens discarded"
            )
        if self.preempted:
            lines.append(f"{self.preempted} requests were put back for lack of KV blocks")
        return "\n".join(lines)
