"""The nearest of the names that there are."""

from __future__ import annotations

import pytest

from glmc_runtime.command.nearest import did_you_mean, nearest

PASSES = ("rms_norm", "add_rms_norm", "qk_norm", "moe_gate", "moe_ffn", "rope")


@pytest.mark.parametrize(
    ("name", "near"),
    [
        ("rms-norm", "rms_norm"),
        ("RMS_NORM", "rms_norm"),
        ("moegate", "moe_gate"),
        ("rop", "rope"),
        ("gate", "moe_gate"),
        ("flash", None),
        ("", None),
        ("x", None),
    ],
)
def test_slips_of_the_keyboard(name: str, near: str | None) -> None:
    assert next(iter(nearest(name, PASSES)), None) == near


def test_the_names_that_others_use() -> None:
    names, aliases = ("float32", "float16"), {"fp16": "float16", "bf16": "bfloat16"}
    assert did_you_mean("FP16", names, aliases) == "did you mean 'float16'?"
    assert did_you_mean("bf16", names, aliases) == ""  # a name that there is not is no answer
    assert did_you_mean("rnu", ("run", "chat", "fit")) == "did you mean 'run'?"
    assert did_you_mean("moe", PASSES) == "did you mean 'moe_gate' or 'moe_ffn'?"
