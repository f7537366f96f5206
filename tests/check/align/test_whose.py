"""A comparison that is given own errors: rows are filled, others stand beside them, in order."""

from __future__ import annotations

from dataclasses import replace

from glmc.check.align.result import AlignedValue, Alignment, OwnOfPart, Verdict
from glmc.check.align.summary import INHERITED, by_layer, is_inherited, standings
from glmc.check.align.whose import OF_WHOLE, with_own_errors
from tests.check.align.aligned_values import a_value, an_alignment, off_by

BY_BOUND = "own: by the bound"


def everything(module: str, layer: int | None) -> bool:
    return True


def own_of(value: AlignedValue, **changes: object) -> AlignedValue:
    known = replace(
        value,
        own=off_by(0.001),
        inherited=off_by(0.2),
        numerics="reordered",
        bound=0.1,
        share=0.04,
        verdict=Verdict.OK,
        reason="",
        paired_by="program",
    )
    return replace(known, **changes)  # type: ignore[arg-type]


def of(*values: AlignedValue) -> Alignment:
    return replace(an_alignment(*values), thresholds=BY_BOUND)


def filled(compared: Alignment, own: Alignment) -> Alignment:
    return with_own_errors(compared, own, everything)


def test_the_verdict_of_a_value_is_by_its_own_error() -> None:
    beyond = a_value(1, "mlp", 0.4, verdict=Verdict.FAIL, reason="too far", share=3.0)
    inside = a_value(0, "mlp", 0.01)
    wrong = own_of(inside, verdict=Verdict.OWN, reason="off by 4 where 1 is allowed", share=4.0)
    found = filled(an_alignment(inside, beyond), of(wrong, own_of(beyond)))
    first, second = found.values
    assert first.verdict is Verdict.OWN and first.share == 4.0 and first.reason == wrong.reason
    assert first.total == inside.total and first.paired_by == inside.paired_by
    assert second.verdict is Verdict.OK and second.reason == INHERITED
    assert second.own == off_by(0.001) and second.inherited == off_by(0.2)
    assert (second.bound, second.numerics, second.share) == (0.1, "reordered", 0.04)
    assert found.first == found.first_own == first
    assert found.thresholds == BY_BOUND


def test_what_only_calls_have_inherits_where_it_is_as_far_off() -> None:
    beyond = a_value(2, "v_proj", 0.4, verdict=Verdict.FAIL, reason="too far", share=3.0)
    fused, near, other, wrong = (
        own_of(a_value(layer, name, error, share=0.04), **changes)
        for layer, name, error, changes in (
            (2, "fused", 0.4, {}),
            (2, "near", 0.001, {}),
            (1, "other", 0.4, {}),
            (2, "wrong", 0.4, {"verdict": Verdict.OWN, "reason": "off"}),
        )
    )
    found = filled(an_alignment(beyond), of(other, own_of(beyond), fused, near, wrong))
    by_name = {each.module.rpartition(".")[2]: each for each in found.values}
    inherited = [name for name, each in by_name.items() if is_inherited(each)]
    assert sorted(inherited) == ["fused", "v_proj"]
    assert by_name["fused"].verdict is Verdict.OK and by_name["fused"].reason == INHERITED
    assert standings(found.values) == ["1 own", "2 inherited", "2 ok"]


def test_what_only_calls_have_stands_beside_the_rest() -> None:
    """In the layer where it is, though its call ends the layer before; B alone has it no more."""
    layers = [a_value(layer, name) for layer in (0, 1) for name in ("norm", "mlp")]
    ends = a_value(0, "residual", node="fused[1]", also=("other.name",))
    before, after = a_value(None, "embed"), a_value(None, "lm_head")
    # The norm of layer 1 comes of the call that ends layer 0, and before what ends it.
    calls = before, layers[0], layers[1], layers[2], ends, layers[3], after
    own = of(*map(own_of, calls))
    compared = replace(
        an_alignment(*layers), unpaired=(("a",), ("b", ends.name, "other.name", before.name))
    )
    found = filled(compared, own)
    names = [f"{each.layer} {each.module.rpartition('.')[2]}" for each in found.values]
    assert names == [
        *("None embed", "0 norm", "0 mlp", "0 residual"),
        *("1 norm", "1 mlp", "None lm_head"),
    ]
    assert [each.order for each in found.values] == list(range(7))
    assert [each.layer for each in by_layer(found.values)] == ["before", "0", "1", "after"]
    assert found.unpaired == (("a",), ("b",))
    chosen = with_own_errors(compared, own, lambda module, layer: layer == 0)
    assert "residual" in str(chosen.values) and "lm_head" not in str(chosen.values)


def test_steps_that_are_not_compared_are_left_out() -> None:
    """Of other tokens nothing is expected."""
    first, second = a_value(0, "mlp"), a_value(0, "mlp", step=1)
    found = filled(an_alignment(first), of(own_of(first), own_of(second)))
    assert [each.step for each in found.values] == [0]


def test_columns_of_one_call_share_its_error_and_keep_their_order() -> None:
    parts = [a_value(0, name, node="qkv") for name in ("q_proj", "k_proj", "v_proj")]
    found = filled(an_alignment(*parts), of(own_of(parts[0])))
    assert [each.module[-6:] for each in found.values] == ["q_proj", "k_proj", "v_proj"]
    assert all(each.own == off_by(0.001) for each in found.values)
    assert [each.reason for each in found.values] == ["", OF_WHOLE, OF_WHOLE]
    beyond = replace(parts[1], verdict=Verdict.FAIL)
    found = filled(an_alignment(parts[0], beyond), of(own_of(parts[0])))
    assert found.values[1].reason == f"{INHERITED}; {OF_WHOLE}"


def part_of(value: AlignedValue, rmse: float, found: str = "") -> OwnOfPart:
    return OwnOfPart((value.name,), off_by(rmse), off_by(0.3), 0.1, rmse * 40, found)


def test_columns_have_the_errors_of_their_own_place() -> None:
    parts = [
        a_value(0, name, 0.3, node="qkv", verdict=Verdict.FAIL)
        for name in ("q_proj", "k_proj", "v_proj")
    ]
    errors = (0.001, 0.25, 0.002)
    known = tuple(
        part_of(each, rmse, "off by 1" * (rmse > 0.1))
        for each, rmse in zip(parts, errors, strict=True)
    )
    whole = a_value(0, "qkv_proj", node="qkv")
    wrong = own_of(whole, verdict=Verdict.OWN, reason="off by 1", parts=known)
    found = filled(an_alignment(*parts), of(wrong))
    assert [each.own for each in found.values] == [off_by(rmse) for rmse in errors]
    assert [each.share for each in found.values] == [rmse * 40 for rmse in errors]
    assert all(each.inherited == off_by(0.3) for each in found.values)
    assert [(each.verdict, each.reason) for each in found.values] == [
        (Verdict.OK, INHERITED),
        (Verdict.OWN, "off by 1"),
        (Verdict.OK, INHERITED),
    ]


def test_what_only_the_whole_shows_blames_all_columns() -> None:
    parts = [a_value(0, name, node="qkv") for name in ("q_proj", "k_proj")]
    known = tuple(part_of(each, 0.001) for each in parts)
    wrong = own_of(
        a_value(0, "qkv_proj", node="qkv"), verdict=Verdict.OWN, reason="leans", parts=known
    )
    found = filled(an_alignment(*parts), of(wrong))
    assert [(each.verdict, each.reason) for each in found.values] == [(Verdict.OWN, "leans")] * 2
    sound = replace(wrong, verdict=Verdict.OK, reason="")
    found = filled(an_alignment(*parts), of(sound))
    assert [(each.verdict, each.reason) for each in found.values] == [(Verdict.OK, "")] * 2


def test_what_no_call_completes_keeps_its_verdict() -> None:
    known, other = a_value(0, "mlp"), a_value(1, "x", 0.4, node="", verdict=Verdict.FAIL)
    found = filled(an_alignment(known, other), of(own_of(known)))
    assert found.values[1].verdict is Verdict.FAIL and found.values[1].own is None
    assert found.thresholds.startswith(f"{BY_BOUND}; where that is not known ")
    assert found.first == found.values[1] and found.first_own is None
