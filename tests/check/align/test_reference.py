"""A stock model of Hugging Face as the reference: prompts, decode steps, what is recorded."""

from __future__ import annotations

import weakref
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from torch import Tensor

from glmc.check.align.eager_model import load_eager
from glmc.check.align.reference import record_checkpoint, record_model
from glmc.errors import CheckpointError, UsageError
from glmc_runtime.format.tensor_key import TensorKey
from glmc_runtime.record.options import RecordOptions
from glmc_runtime.record.sink import Part
from tests.check.align.conftest import ListSink
from tests.e2e.eager import forced_logits, greedy

LOGITS = "lm_head.Linear.0.forward_output.0"
PROMPT = (5, 9, 13, 21, 40)
SHORT = (7, 8)


def test_steps_are_prefill_and_then_decode_over_the_cache(moe_model: Any, sink: ListSink) -> None:
    record_model(moe_model, sink, RecordOptions((PROMPT,), steps=2))
    assert sink.lengths == [(5,), (1,), (1,)]
    (tokens,) = sink.about["tokens"]
    assert tokens == greedy(moe_model, [PROMPT], 2)[0]
    logits = forced_logits(moe_model, [*PROMPT, *tokens], 1)
    assert sink.get(0, LOGITS).shape == (1, 5, 96)
    for step, rows in enumerate((logits[:5], logits[5:6], logits[6:])):
        assert torch.allclose(sink.get(step, LOGITS)[0], rows, atol=1e-5), step
    assert {facts["phase"] for (step, _), facts in sink.facts.items() if not step} == {"prefill"}
    assert {facts["phase"] for (step, _), facts in sink.facts.items() if step} == {"decode"}


def test_prompts_of_one_length_are_a_batch(moe_model: Any, sink: ListSink) -> None:
    prompts = (PROMPT, PROMPT[::-1])
    left_out = record_model(moe_model, sink, RecordOptions(prompts, steps=1))
    assert left_out == () and "left_out" not in sink.about
    assert sink.get(0, LOGITS).shape == (2, 5, 96) and sink.get(1, LOGITS).shape == (2, 1, 96)
    assert sink.about["prompts"] == [list(each) for each in prompts]


def test_prompts_of_several_lengths_follow_each_other(moe_model: Any, sink: ListSink) -> None:
    """One of four tokens, as many as there are heads, and one of a single token among them."""
    prompts = (SHORT, PROMPT[:4], PROMPT, PROMPT[:1])
    left_out = record_model(moe_model, sink, RecordOptions(prompts, steps=2))
    assert sink.lengths == [(2, 4, 5, 1), (1, 1, 1, 1), (1, 1, 1, 1)]
    alone = [ListSink() for _ in prompts]
    for prompt, each in zip(prompts, alone, strict=True):
        record_model(moe_model, each, RecordOptions((prompt,), steps=2))
    assert sink.about["tokens"] == [each.about["tokens"][0] for each in alone]
    names = [name for step, name in sink.tensors if step == 0]
    layer = "model.layers.1.self_attn"
    norm, router = f"{layer}.q_norm.Glm4MoeRMSNorm.0", "model.layers.1.mlp.gate.Glm4MoeTopkRouter.0"
    assert {LOGITS, f"{norm}.forward_output.0", f"{router}.forward_output.0"} <= set(names)
    for step in range(3):
        for name in (name for at, name in sink.tensors if at == step and name not in left_out):
            parts = [each.get(step, name) for each in alone]
            whole = sink.tensors[step, name]
            axis = next(at for at, size in enumerate(whole.shape) if size != parts[0].shape[at])
            assert torch.equal(whole, torch.cat(parts, axis)), (step, name)
    assert list(left_out) == sink.about["left_out"]
    assert f"{layer}.Glm4MoeAttention.0.forward_output.1" in left_out  # weights of the attention
    assert not {LOGITS, f"{router}.forward_output.2"} & set(left_out)


def test_tokens_may_be_given(moe_model: Any, sink: ListSink) -> None:
    tokens = ((17, 3),)
    record_model(moe_model, sink, RecordOptions((PROMPT,), 2, tokens))
    assert sink.about["tokens"] == [[17, 3]]
    logits = forced_logits(moe_model, [*PROMPT, 17, 3], 6)
    assert torch.allclose(sink.get(2, LOGITS)[0], logits[-1:], atol=1e-5)


@pytest.mark.parametrize(
    ("prompts", "tokens"), [(((1, 96),), None), (((-1,),), None), (((1,),), ((200,),))]
)
def test_ids_of_another_vocabulary_are_refused(
    moe_model: Any, sink: ListSink, prompts: Any, tokens: Any
) -> None:
    with pytest.raises(UsageError, match="vocabulary"):
        record_model(moe_model, sink, RecordOptions(prompts, tokens=tokens))


def test_only_what_was_asked_for_is_recorded(moe_model: Any, sink: ListSink) -> None:
    options = RecordOptions((PROMPT,), 0, layers=frozenset({1}), modules=("*.mlp*", "*norm"))
    record_model(moe_model, sink, options)
    modules = {name.split(".Glm4Moe")[0] for name in sink.names(0) if ".Glm4Moe" in name}
    assert modules == {
        *("model.layers.1.mlp", "model.layers.1.mlp.gate", "model.layers.1.mlp.experts"),
        *("model.layers.1.mlp.shared_experts", "model.layers.1.input_layernorm"),
        *("model.layers.1.post_attention_layernorm",),
        *(f"model.layers.1.self_attn.{name}_norm" for name in "qk"),
    }
    assert {facts["layer"] for facts in sink.facts.values()} == {1}


def test_a_checkpoint_says_who_recorded_it(moe: Path, sink: ListSink) -> None:
    record_checkpoint(moe, sink, RecordOptions((SHORT,), 0))
    version = transformers.__version__
    about = {name: sink.about[name] for name in ("model", "target", "dtype", "emulated", "made_by")}
    assert about == {
        "model": moe.name,
        "target": "eager",
        "dtype": "bfloat16",
        "emulated": False,
        "made_by": f"Hugging Face transformers {version}, cpu",
    }
    assert sink.get(0, LOGITS).dtype == torch.bfloat16


@pytest.mark.parametrize("preset", ["glm-4-9b-0414", "glm-z1-9b"])
def test_a_dense_model_is_recorded_too(
    preset: str, checkpoint_of: Callable[..., Path], sink: ListSink
) -> None:
    record_checkpoint(checkpoint_of(preset), sink, RecordOptions((PROMPT, SHORT), 1))
    assert sink.get(0, LOGITS).shape == (1, 7, 96)
    assert sink.get(0, "model.layers.2.mlp.Glm4MLP.0.forward_output.0").shape == (1, 7, 32)


def test_what_hugging_face_can_not_load_is_an_error_of_ours(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text('{"model_type": "nothing"}')
    with pytest.raises(CheckpointError, match="can't load"):
        load_eager(tmp_path)


def test_a_device_that_is_not_there_is_refused(moe: Path) -> None:
    for device in ("cuda:99", "nothing"):
        with pytest.raises(UsageError, match="no device"):
            load_eager(moe, device=device)


class LiveSink(ListSink):
    """Counts, at each tensor, how many of all that it was given are still alive."""

    def __init__(self) -> None:
        super().__init__()
        self.references: list[weakref.ref[Tensor]] = []
        self.most = 0

    def write(
        self,
        keys: Sequence[TensorKey],
        tensor: Tensor,
        facts: Mapping[str, Any],
        part: Part | None = None,
    ) -> None:
        self.references.append(weakref.ref(tensor))
        self.most = max(self.most, sum(each() is not None for each in self.references))


@pytest.mark.parametrize("prompts", [(PROMPT,), (PROMPT, SHORT)])
def test_nothing_is_kept_alive(checkpoint_of: Callable[..., Path], prompts: Any) -> None:
    """Memory is that of a layer, however many there are, and none is left at the end."""
    most = []
    for layers in (2, 6):
        model = load_eager(checkpoint_of(num_hidden_layers=layers))
        sink = LiveSink()
        record_model(model, sink, RecordOptions(prompts, steps=2))
        assert not any(each() is not None for each in sink.references)
        assert len(sink.references) > 100 * (layers - 1)
        most.append(sink.most)
    assert most[0] == most[1] < 40, most
