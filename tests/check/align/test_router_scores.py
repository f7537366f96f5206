"""Scores of a router, derived from what it took."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

from glmc.check.align.reference import record_model
from glmc.check.align.router_scores import derivation
from glmc_runtime.record.options import RecordOptions
from tests.check.align.conftest import ListSink

GATE = "model.layers.1.mlp.gate"


def test_the_scores_explain_the_choice(moe_model: Any, sink: ListSink) -> None:
    record_model(moe_model, sink, RecordOptions(((3, 1, 4, 1, 5),), 1))
    name = f"{GATE}.router_scores.0.forward_output.0"
    for step, tokens in ((0, 5), (1, 1)):
        scores = sink.get(step, name)
        assert scores.shape == (tokens, 6) and scores.dtype == torch.float32
        chosen = sink.get(step, f"{GATE}.Glm4MoeTopkRouter.0.forward_output.2")
        assert torch.equal(scores.topk(2).indices.sort().values, chosen.sort().values)
        logits = sink.get(step, f"{GATE}.Glm4MoeTopkRouter.0.forward_output.0")
        bias = moe_model.get_submodule(GATE).e_score_correction_bias
        assert torch.equal(scores, logits.sigmoid() + bias)
    facts = sink.facts[0, name]
    assert "sigmoid" in facts["derived"] and facts["layer"] == 1
    order = [each for each in sink.order if each.startswith(GATE)]
    assert order[4] == name  # right after what the router returned


def test_other_modules_have_none() -> None:
    assert derivation(nn.Linear(2, 2)) == ""
