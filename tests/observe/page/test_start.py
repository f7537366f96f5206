"""The start in words: what was compiled, kinds of layers, the verdict and what would prove it."""

from __future__ import annotations

from dataclasses import replace

from glmc.artifact.times import PassTimes, Times
from glmc.observe.dump.stages import ALL
from glmc.observe.history.record import History
from glmc.observe.history.times import with_times
from glmc.observe.page.layers import layer_kinds
from glmc.observe.page.start import became, described, layer_cells, main_phase, step_rows
from glmc.observe.page.verdict import verdict_of
from glmc.passes import specialise
from tests.observe.sample import FACTS, PICKED, SIGMOID, history


def whole_pipeline(verdict: str | None = None) -> History:
    """With every pass that a user could switch off, each with the same verdict."""
    made = history()
    some = tuple(replace(made.steps[1], name=name, verdict=verdict) for name in ALL)
    phases = tuple(replace(step, verdict=verdict) for step in made.steps[3:])
    return replace(made, steps=(made.steps[0], *some, *phases))


def test_what_was_compiled() -> None:
    assert described(history(), FACTS) == (
        "ToyForCausalLM, 3 layers, 1.4 M parameters in float32. Weights take 4.0 KiB, the cache "
        "96 B a token; contexts are at most 64 tokens."
    )
    assert became(history()) == (
        "17 captured nodes became 11: 7 calls in prefill and 7 calls in decode."
    )


def test_the_main_phase_is_the_captured_one() -> None:
    made = history()
    assert main_phase(made) == "decode"
    assert main_phase(replace(made, plans=made.plans[:1])) == "prefill"
    assert main_phase(replace(made, plans=())) is None


def test_kinds_of_layers() -> None:
    made = history()
    kinds = layer_kinds(made, "decode")
    assert [(kind.layers, kind.text) for kind in kinds] == [
        ((0,), "4 to 2 nodes, 2 calls"),
        ((1, 2), "4 to 2 nodes, 2 calls"),
    ]
    cells = layer_cells(made, kinds)
    assert [(cell.layer, cell.tint, cell.misses) for cell in cells] == [
        (0, 0, 0),
        (1, 1, 0),
        (2, 1, 1),
    ]


def test_a_layer_that_one_step_alone_treats_otherwise_is_a_kind_of_its_own() -> None:
    made = history()
    outside, first, block = made.steps[2].blocks
    other = replace(block, layer=2, like=(), nodes=(*block.nodes, SIGMOID, PICKED))
    odd = replace(made.steps[2], blocks=(outside, first, replace(block, like=()), other))
    kinds = layer_kinds(replace(made, steps=(*made.steps[:2], odd, *made.steps[3:])), None)
    assert [kind.layers for kind in kinds] == [(0,), (1,), (2,)]


def test_each_phase_has_its_own_verdict_and_lowering_is_a_step() -> None:
    made = history()
    prefill, decode = (
        replace(step, verdict=f"reordered: {count} values within bounds")
        for step, count in zip(made.steps[3:], (76, 72), strict=True)
    )
    rows = step_rows(replace(made, steps=(*made.steps[:3], prefill, decode)))
    assert [row.verdict for row in rows[3:5]] == [
        "76 values within bounds",
        "72 values within bounds",
    ]
    assert [(row.number, row.stage, row.name, row.address) for row in rows[5:]] == [
        (5, "lower", "prefill", "kernels=prefill"),
        (6, "lower", "decode", "kernels=decode"),
    ]


def test_times_of_phases_and_of_lowering() -> None:
    times = Times(stages={"lower decode": 2.5}, passes={specialise.NAME: PassTimes(1.039)})
    rows = step_rows(with_times(history(), times))
    assert [row.time for row in rows] == ["", "", "", "1.0 s for all", "1.0 s for all", "", "2.5 s"]


def test_verdict_in_words() -> None:
    made = verdict_of(history(), FACTS)
    assert made.counts == "Every pass matched as often as the model must have it; 1 near miss."
    assert (made.proof, made.is_proved) == ("1 of 4 steps were proved on real tensors.", False)
    all_proved = verdict_of(whole_pipeline("bitwise: equal"), FACTS)
    assert all_proved.is_proved and all_proved.proof.startswith("All ")
    parts = verdict_of(whole_pipeline("narrow, float32: bitwise: equal; narrow: the same"), FACTS)
    assert parts.proof.endswith("steps were proved on real tensors, one layer of each kind.")
    assert verdict_of(whole_pipeline(), FACTS).proof == "Not proved on real tensors."


def test_the_command_that_proves_it() -> None:
    whole = whole_pipeline()
    assert verdict_of(whole, FACTS).command == (
        "glmc compile PATH/toy-moe --target xpu --dtype float32 --verify --dump DIR"
    )
    preset = replace(whole, model="glm-4.7", steps=(whole.steps[0], *whole.steps[2:]))
    command = verdict_of(preset, replace(FACTS, abi_profile="P-B")).command
    assert command == (
        "glmc compile glm-4.7 --target xpu --dtype float32 --abi-profile P-B "
        f"--passes-off {ALL[0]} --no-weights --verify --dump DIR"
    )
