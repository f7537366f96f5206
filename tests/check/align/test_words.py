"""The first divergence is said with all that is known of it, a tie is no fault, and what is
emulated is called so."""

from __future__ import annotations

import math

from glmc.check.align.result import Verdict
from glmc.check.align.words import EMULATED, header_lines, paragraph, times_text, unpaired_lines
from glmc_runtime.record.tensors import Statistics
from tests.check.align.aligned_values import (
    UNKNOWN,
    a_router,
    a_value,
    an_alignment,
    emulated,
    off_by,
)

FAIL = "the worst row is 3.2 times what rounding explains"


def said(*values: object, **changes: object) -> str:
    text = paragraph(an_alignment(*values, **changes))  # type: ignore[arg-type]
    assert all(len(line) <= 100 or " " not in line.strip() for line in text.splitlines())
    return " ".join(text.split())


def test_the_first_divergence_is_one_paragraph_with_all_that_is_known() -> None:
    text = said(
        a_value(0, "self_attn.o_proj"),
        a_value(1, "self_attn.o_proj", 0.4, verdict=Verdict.FAIL, reason=FAIL, share=3.2),
        a_value(1, "mlp.down_proj", 0.9, verdict=Verdict.FAIL, reason=FAIL, share=9.0),
    )
    for words in (
        "The first divergence is model.layers.1.self_attn.o_proj.Linear.0.forward_output.0, in "
        "layer 1 of step 0 (prefill).",
        "Node layers.1.self_attn.o_proj#linear (linear) computes it by kunlun_ops.matmul.",
        "In the model this is modeling_glm4_moe.py:123.",
        "Passes that made or changed the node: rms_norm, qkv_merge.",
        f"Its root mean square error is 0.4, 20% of its magnitude, the largest 1.6; {FAIL}.",
        "Whether the error is its own or its operands' two records don't say.",
        "1 value before it is not too far apart, at most 10% of what is allowed.",
        "glmc inspect ARTIFACT --node 'layers.1.self_attn.o_proj#linear'",
        "glmc bisect MODEL --target xpu",
        "--dtype float32",
    ):
        assert words in text, words
    assert "mlp.down_proj" not in text


def test_where_all_before_is_equal_the_error_arises_there() -> None:
    equal = (a_value(0, "a", 0.0), a_value(0, "b", 0.0))
    fail = a_value(1, "c", 0.4, verdict=Verdict.FAIL, reason=FAIL, share=1234.5)
    text = said(*equal, fail)
    assert "2 values before it are equal, so the error arises between them and it." in text
    assert "don't say" not in text
    nan = a_value(0, "b", 0.0, total=off_by(0.0, apart=1), verdict=Verdict.UNKNOWN)
    assert "so the error arises" not in said(equal[0], nan, fail)


def test_a_share_far_beyond_is_a_factor() -> None:
    assert [times_text(share) for share in (0.5, 3.0, 9.99, 216034.24)] == [
        *("50%", "300%", "999%", "2.16e+05 times")
    ]


def test_own_and_inherited_error_are_said_with_the_bound() -> None:
    text = said(
        a_value(
            1,
            "mlp.down_proj",
            0.4,
            verdict=Verdict.OWN,
            own=off_by(0.2),
            inherited=off_by(0.01),
            bound=0.05,
            numerics="reordered",
        )
    )
    assert "Its own error, on operands as expected, is at most 0.8 in an element; 0.05 is" in text
    assert "allowed of a reordered rewrite where most of it is taken." in text
    assert "Inherited from its operands is at most 0.04 in an element." in text
    assert "don't say" not in text


def test_a_value_of_another_tool_has_neither_node_nor_passes() -> None:
    bare = a_value(
        2,
        "mlp",
        0.4,
        verdict=Verdict.FAIL,
        reason=FAIL,
        node="",
        op="",
        function="",
        source="",
        passes=(),
        other_name="h.2.mlp.Mlp.0.forward_output.0",
        paired_by="module and shape",
    )
    text = said(bare)
    assert "On the other side it is h.2.mlp.Mlp.0.forward_output.0, paired by module and" in text
    assert "Node" not in text and "Passes" not in text and "bisect" not in text
    assert "glmc align A B --layers 2 --all" in text


def test_without_a_divergence_the_nearest_to_its_limit_is_named() -> None:
    text = said(a_value(0, "a"), a_value(1, "b", 0.05), a_value(2, "c", 0.02))
    assert text.startswith("No divergence: of 3 values 3 are within what is allowed.")
    assert "The nearest to its limit is model.layers.1.b.Linear.0" in text and "50% of" in text


def test_what_can_t_be_judged_is_said() -> None:
    reason = "neither side says what it was computed in"
    unknown = a_value(1, "b", verdict=Verdict.UNKNOWN, reason=reason, share=None)
    text = said(a_value(0, "a"), unknown)
    assert "of 2 values 1 are within" in text
    assert f"1 can't be judged, the first of them {unknown.name}: {reason}." in text
    assert "nothing was compared" in said()


def test_a_tie_is_said_to_be_no_fault() -> None:
    text = said(a_value(0, "a"), a_router(1, 1e-4, 1e-3))
    assert text.startswith("No divergence")
    assert "Routers chose other experts for 1 token, first in model.layers.1.mlp.gate" in text
    assert "ties, and no fault, as the scores were at most 0.0001 apart" in text


def test_a_router_that_is_wrong_is_said_with_margins_and_the_ties_before_it() -> None:
    text = said(a_router(0, 1e-4, 1e-3), a_router(1, 0.3, 1e-3))
    assert "The first divergence is model.layers.1.mlp.gate" in text
    assert "It has other experts for 1 of 8 tokens." in text
    assert "up to 0.3 apart, of ties at most 0.001" in text
    assert "Routers chose other experts for 1 token, first in model.layers.0.mlp.gate" in text


def test_what_is_not_finite_and_statistics_are_said() -> None:
    reason = "NaN 0 | 64, infinite 0 | 0: 64 elements in 8 rows are not finite on one side"
    nan = a_value(0, "a", total=UNKNOWN, verdict=Verdict.FAIL, reason=reason, share=math.inf)
    assert f"It has {reason}." in said(nan)
    pair = (Statistics(-1, 1, 0.0, 0.5, 0, 0), Statistics(-1, 1, 0.25, 0.5, 0, 0))
    alone = a_value(0, "a", total=UNKNOWN, verdict=Verdict.FAIL, reason="alone", statistics=pair)
    assert "Alone: minimum -1 | -1, maximum 1 | 1, mean 0 | 0.25, std 0.5 | 0.5." in said(alone)


def test_the_header_names_both_sides_and_says_what_is_emulated() -> None:
    alignment = an_alignment(a_value(0, "a"), remarks=("only rows",))
    lines = list(header_lines(alignment))
    assert lines[0] == "A  hf.h5  (Hugging Face transformers 5, cpu, tiny-moe, bfloat16)"
    assert lines[1] == "B  moe.h5  (glmc artifact, xpu, tiny-moe, bfloat16)"
    assert lines[2:] == ["thresholds rounding: as far as rounding goes", "note: only rows"]
    assert EMULATED in list(header_lines(emulated(alignment)))
    foreign = an_alignment(facts=({}, {}))
    assert next(header_lines(foreign)) == "A  hf.h5  (of another tool)"


def test_what_one_side_alone_has_is_counted_and_listed_where_all_is_shown() -> None:
    alignment = an_alignment(unpaired=(("x", "y"), ()))
    assert list(unpaired_lines(alignment, names=False)) == ["only in A: 2 tensors, such as x"]
    assert list(unpaired_lines(alignment, names=True)) == ["only in A: 2 tensors", "  x", "  y"]
