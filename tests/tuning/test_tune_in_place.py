"""tuning.tune_in_place keeps what makes the whole step faster, and is right."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from itertools import chain, repeat
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from bench.gpu.gpu_decode import make_session
from bench.gpu.gpu_models import Bench
from bench.models import gpu_model
from tuning import tune_in_place
from tuning.tunable import Configuration, Tunable
from tuning.tune_in_place import StepInPlace, known_for, parse, tune

CPU = torch.device("cpu")
Q, DOWN, GATE_UP = ("linear", "8x4"), ("linear", "4x16"), ("linear_swiglu", "8x4")
NOW = {"variant": "now", "ms": 10.0}
Thunks = tuple[Callable[[], Any], ...]


class FakeStep:
    """Two layers of three products, a norm and an attention; a step takes what its configurations
    say, the one after the other where one says several."""

    def __init__(self) -> None:
        kinds = {
            "cuda.linear": torch.empty(8, 4),
            "cuda.rms_norm": torch.empty(4),
            "cuda.rope_decode_attention": None,
            "cuda.linear_swiglu": torch.empty(8, 4),
        }
        layer = [(function, weight) for function, weight in kinds.items()]
        layer.append(("cuda.linear", torch.empty(4, 16)))
        self.calls = tuple(SimpleNamespace(function=function) for function, _ in 2 * layer)
        self.arguments = [{} if weight is None else {"weight": weight} for _, weight in 2 * layer]
        self.thunks: Thunks = tuple(self._bind(NOW) for _ in self.calls)
        self.changed_places: set[tuple[int, ...]] = set()

    @staticmethod
    def _bind(configuration: Configuration) -> Callable[[], Any]:
        ms = configuration["ms"]
        return (lambda: next(ms)) if isinstance(ms, Iterator) else (lambda: ms)

    def changed(self, thunks: Thunks, positions: list[int], configuration: Configuration) -> Thunks:
        if configuration.get("fails"):
            raise RuntimeError("out of resources")
        self.changed_places.add(tuple(positions))
        found = list(thunks)
        for place in positions:
            found[place] = self._bind(configuration)
        return tuple(found)

    def time(self, thunks: Thunks, repeats: int = 3) -> float:
        return float(sum(thunk() for thunk in thunks))


def known(**candidates: list[Configuration]) -> dict[tuple[str, str], Tunable]:
    which = {"q": Q, "down": DOWN, "gate_up": GATE_UP}
    return {
        which[name]: Tunable(
            kernel=which[name][0],
            key=which[name][1],
            rows=16,
            dtype=torch.bfloat16,
            bytes=1,
            make=lambda device, generator: {},
            reference=lambda arguments: {},
            candidates=lambda found=found: found,
        )
        for name, found in candidates.items()
    }


def chosen(
    tunables: dict[tuple[str, str], Tunable],
    table: dict[str, Any] | None = None,
    seconds: float = 60,
) -> dict[tuple[str, str], Configuration]:
    found: dict[tuple[str, str], Configuration] = {}

    def keep(tunable: Tunable, configuration: Configuration) -> None:
        found[tunable.kernel, tunable.key] = configuration

    step: Any = FakeStep()
    tune(step, tunables, table or {}, CPU, time.monotonic() + seconds, keep)
    assert step.changed_places <= {(0, 5), (3, 8), (4, 9)}
    return found


@pytest.fixture
def installed(monkeypatch: pytest.MonkeyPatch) -> None:
    def configuration(kernel: str, dtype: torch.dtype, key: str, rows: int) -> Configuration:
        assert (dtype, rows) == (torch.bfloat16, 16)
        return NOW

    monkeypatch.setattr(tune_in_place.tuned, "configuration", configuration)
    monkeypatch.setattr(
        tune_in_place,
        "is_right",
        lambda tunable, configuration, *more: "off" if configuration.get("wrong") else "",
    )


@pytest.mark.usefixtures("installed")
def test_the_fastest_that_is_right_and_works_wins_whatever_the_order() -> None:
    q = [{"ms": ms} for ms in (9.8, 9.6, 9.4, 9.2)]
    q += [{"ms": 8.0, "wrong": True}, {"ms": 1.0, "fails": True}, {"ms": 9.0}, {"ms": 9.1}]
    assert chosen(known(q=q, down=[{"ms": 10.5}, {"ms": 9.9999}])) == {Q: {"ms": 9.0}}


@pytest.mark.usefixtures("installed")
def test_one_that_is_only_sometimes_faster_does_not_win() -> None:
    """Times are two, of two layers, for each measurement."""
    lucky = {"ms": iter([4.0, 4.0, 9.0, 9.0, 9.0, 9.0, 10.1, 10.1])}
    assert chosen(known(q=[lucky])) == {}
    steady = {"ms": chain([4.0, 4.0], repeat(9.0))}
    assert chosen(known(q=[steady])) == {Q: steady}
    steady = {"ms": chain([4.0, 4.0], repeat(9.0))}
    assert chosen(known(q=[steady, {"ms": 8.0}])) == {Q: {"ms": 8.0}}


@pytest.mark.usefixtures("installed")
def test_kernels_are_apart_and_later_kinds_come_on_top(capsys: pytest.CaptureFixture[str]) -> None:
    found = chosen(known(q=[{"ms": 4.0}], gate_up=[{"ms": 8.0}], down=[{"ms": 6.0}]))
    assert found == {Q: {"ms": 4.0}, GATE_UP: {"ms": 8.0}, DOWN: {"ms": 6.0}}
    assert "the step: 100.0000 ms, now 76.0000" in capsys.readouterr().out


@pytest.mark.usefixtures("installed")
def test_what_the_file_holds_is_what_must_be_beaten() -> None:
    table = {"linear": {"bfloat16": {"8x4": {"16": {"ms": 5.0}, "1": {"ms": 1.0}}}}}
    assert chosen(known(q=[{"ms": 6.0}, NOW]), table) == {}
    assert chosen(known(q=[{"ms": 4.0}]), table) == {Q: {"ms": 4.0}}
    # Not measured against itself: noise would let it win.
    assert chosen(known(q=[{**NOW}, {"ms": 11.0}])) == {}


@pytest.mark.usefixtures("installed")
def test_the_present_one_is_no_candidate(monkeypatch: pytest.MonkeyPatch) -> None:
    fake: Any = FakeStep
    monkeypatch.setattr(fake, "changed", lambda *given: pytest.fail("it was bound"))
    assert chosen(known(q=[NOW])) == {}


@pytest.mark.usefixtures("installed")
def test_without_time_nothing_changes_and_it_is_said(capsys: pytest.CaptureFixture[str]) -> None:
    assert chosen(known(q=[{"ms": 4.0}]), seconds=-1) == {}
    assert "out of time at linear 8x4, 16 rows" in capsys.readouterr().out
    assert chosen({}) == {}


def test_which_batches_and_keys() -> None:
    every = known_for(16, [])
    assert {("linear", "4608x4096"), ("linear_swiglu", "27392x4096")} < set(every)
    assert {one.rows for one in every.values()} == {16}
    assert set(known_for(16, ["4608x4096"])) == {("linear", "4608x4096")}
    options = parse(["--output", "x.json", "--batches", "16,1", "--keys", "4608x4096"])
    assert (options.batches, options.keys) == ((1, 16), ["4608x4096"])
    with pytest.raises(SystemExit):
        parse(["--output", "x.json", "--batches", "3"])
    with pytest.raises(SystemExit, match=r"--keys: no weight of 16 rows has 4608x4097"):
        known_for(16, ["4608x4096", "4608x4097"])


@pytest.mark.long
def test_a_real_step_with_one_kind_bound_otherwise(tmp_path: Path) -> None:
    model = gpu_model("9b", True)
    session = make_session(Bench(model, tmp_path, CPU, "cuda"), (2,), True)
    step = StepInPlace(session, model, 2, context=40)
    (first, *_) = [place for place, call in enumerate(step.calls) if call.function == "cuda.linear"]
    thunks = step.changed(step.thunks, [first], {"variant": "cublas"})
    assert [one is other for one, other in zip(thunks, step.thunks, strict=True)].count(False) == 1
    assert thunks[first].func is torch.addmm  # type: ignore[attr-defined]
    assert step.thunks[first].func is not torch.addmm  # type: ignore[attr-defined]
    out = step.arguments[first]["out"]
    step.thunks[first]()
    expected = out.clone()
    out.fill_(torch.nan)
    thunks[first]()
    torch.testing.assert_close(out, expected, rtol=2e-2, atol=2e-2)
