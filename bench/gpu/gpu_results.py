"""The results of a run as one JSON file, written anew after each measurement, and the bars.

A run that is killed keeps what it has. ``measurements`` hold times, ``checks`` what was held
against a reference, with numbers; ``errors`` whatever failed or raised, ``left_out`` what there was
no time for.
"""

from __future__ import annotations

import gc
import json
import os
import statistics
import sys
import time
import traceback
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

# The bars hold for a card that reads this much, and multiplies at this rate.
BAR_BANDWIDTH = 4.26e12
BAR_RATE = 800e12
# (model, what, batch or tokens) -> milliseconds at most, on that card.
BARS: Mapping[tuple[str, str, int], float] = {
    ("9b", "decode", 1): 4.9,
    ("9b", "decode", 16): 5.4,
    ("9b", "decode", 64): 7.0,
    ("9b", "prefill", 2048): 56.0,
    ("9b", "prefill", 8192): 240.0,
    ("air", "decode", 1): 2.2,
    ("air", "decode", 16): 10.0,
    ("moe", "moe_ffn", 1): 0.082,
    ("moe", "moe_ffn", 8): 0.590,
    ("moe", "moe_ffn", 32): 1.150,
}
LONG_SHARE = 0.75


@dataclass(frozen=True)
class Machine:
    """What floors are computed with: bytes per second and operations per second."""

    name: str
    bandwidth: float
    rate: float

    def seconds(self, read: float, operations: float = 0.0) -> float:
        """The floor: nothing moves these bytes and does these operations faster."""
        return max(read / self.bandwidth, operations / self.rate)


def bar(machine: Machine, model: str, what: str, size: int, floor_ms: float) -> float | None:
    """Milliseconds that the bar allows, translated to this machine; None without a bar.

    What is bound by memory scales with the bandwidth of a plain read, prefill with the rate of a
    large matrix product, so the share of the floor that is asked for stays the same.
    """
    if what == "long":
        return floor_ms / LONG_SHARE
    bar_of_the_card = BARS.get((model, what, size))
    if bar_of_the_card is None:
        return None
    if what == "prefill":
        return bar_of_the_card * BAR_RATE / machine.rate
    return bar_of_the_card * BAR_BANDWIDTH / machine.bandwidth


@dataclass
class Results:
    """One run. ``seconds`` is how long it may take; quick runs have no bars."""

    path: Path
    seconds: float = 540.0
    quick: bool = False
    data: dict[str, Any] = field(default_factory=dict)
    machine: Machine = field(default_factory=lambda: Machine("", 1.0, 1.0))

    def __post_init__(self) -> None:
        self._began = time.perf_counter()
        for name in ("measurements", "checks", "errors", "left_out"):
            self.data.setdefault(name, [])

    @property
    def left(self) -> float:
        """Seconds until the run must end."""
        return self.seconds - (time.perf_counter() - self._began)

    @property
    def failed(self) -> bool:
        return bool(self.data["errors"]) or not all(item["passed"] for item in self.data["checks"])

    def describe(self, machine: Machine, facts: Mapping[str, Any]) -> None:
        self.machine = machine
        self.data["machine"] = dict(facts)
        self.flush()

    def time(
        self,
        times_ms: Iterable[float],
        *,
        model: str,
        what: str,
        peer: str,
        size: int,
        read: float,
        operations: float = 0.0,
        **more: Any,
    ) -> dict[str, Any]:
        """Keep a measurement: its median beside its floor and, of ours, its bar.

        ``size`` is the batch of a decode step, the tokens of a prefill or an MoE layer, the context
        of a long one.
        """
        times = [float(value) for value in times_ms]
        median = statistics.median(times)
        floor = self.machine.seconds(read, operations) * 1e3
        allowed = None
        if peer == "glmc" and not self.quick:
            allowed = bar(self.machine, model, what, size, floor)
        item = {
            "model": model,
            "what": what,
            "peer": peer,
            "size": size,
            "ms": median,
            "all_ms": times,
            "bytes": read,
            "operations": operations,
            "floor_ms": floor,
            "share": floor / median if median else None,
            "bar_ms": allowed,
            "met": None if allowed is None else median <= allowed,
            **more,
        }
        self.data["measurements"].append(item)
        label = more.get("stage", peer)
        self._say(f"{model} {what} {size} {label}: {median:.4f} ms, floor {floor:.4f} ms")
        return item

    def check(self, name: str, passed: bool, **numbers: Any) -> None:
        """Keep whether something is right, with the numbers that say so."""
        self.data["checks"].append({"name": name, "passed": bool(passed), **numbers})
        self._say(f"{'passed' if passed else 'FAILED'}: {name} {numbers}")

    def attempt(self, name: str, work: Callable[[], Any], needs: float = 0.0) -> Any:
        """Run a part; what it raises is kept as an error and the run goes on.

        It is left out, and that is kept too, when fewer than ``needs`` seconds are left.
        """
        if self.left < needs:
            self.leave_out(name, f"{self.left:.0f} s were left, it needs {needs:.0f}")
            return None
        try:
            return work()
        # Kept with its trace, whatever it is: the other parts still count.
        except Exception as error:  # noqa: BLE001
            self.data["errors"].append(
                {
                    "name": name,
                    "error": f"{type(error).__name__}: {error}"[:2000],
                    "trace": traceback.format_exc()[-6000:],
                }
            )
            self._say(f"ERROR in {name}: {type(error).__name__}: {str(error)[:500]}")
            return None
        finally:
            clean()

    def leave_out(self, name: str, reason: str) -> None:
        """Keep that something was not measured, and why."""
        self.data["left_out"].append({"name": name, "reason": reason})
        self._say(f"left out: {name}: {reason}")

    def flush(self) -> None:
        """Write the file whole; a reader never sees half of it."""
        self.data["elapsed_s"] = time.perf_counter() - self._began
        self.path.parent.mkdir(parents=True, exist_ok=True)
        draft = self.path.with_name(self.path.name + ".draft")
        draft.write_text(json.dumps(self.data, indent=1) + "\n", encoding="utf-8")
        os.replace(draft, self.path)

    def _say(self, text: str) -> None:
        self.flush()
        print(f"[{self.data['elapsed_s']:6.1f} s] {text}", file=sys.stderr, flush=True)


def clean() -> None:
    """Give memory back that nothing holds any more."""
    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()


def load_results(paths: Iterable[Path]) -> list[dict[str, Any]]:
    """The data of several runs, in their order."""
    return [json.loads(path.read_text(encoding="utf-8")) for path in paths]
