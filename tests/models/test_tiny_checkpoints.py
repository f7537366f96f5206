"""The shipped small models: layout, size, routing, and that they have learned their text."""

from __future__ import annotations

import heapq
import inspect
import json
import math
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors import safe_open
from transformers import (
    AutoModelForCausalLM,
    AutoTokenizer,
    Glm4ForCausalLM,
    Glm4MoeForCausalLM,
    PreTrainedModel,
    PreTrainedTokenizerBase,
)

MODELS = Path(__file__).resolve().parents[2] / "models"
SIZE_LIMIT = 5_000_000
CLASSES = {"tiny-moe": Glm4MoeForCausalLM, "tiny-dense": Glm4ForCausalLM}
EXPERTS, CHOSEN = 16, 4
LICENCE_PROMPT = "Redistribution and use in source and binary forms, with or without modification,"
DOCSTRING_PROMPT = "heapq.merge(*iterables, key=None, reverse=False)\n\n"
CARD_WORDS = ("command", "corpus sha256", "held-out loss", "Licence remarks", "Limits")

Loaded = tuple[str, PreTrainedModel, PreTrainedTokenizerBase]


@pytest.fixture(scope="module", params=sorted(CLASSES))
def loaded(request: pytest.FixtureRequest) -> Loaded:
    folder = MODELS / str(request.param)
    model = AutoModelForCausalLM.from_pretrained(folder, dtype="auto").eval()
    return str(request.param), model, AutoTokenizer.from_pretrained(folder)


@pytest.fixture(scope="module")
def mixture() -> tuple[PreTrainedModel, PreTrainedTokenizerBase]:
    folder = MODELS / "tiny-moe"
    model = AutoModelForCausalLM.from_pretrained(folder, dtype="auto").eval()
    return model, AutoTokenizer.from_pretrained(folder)


def stored_dtypes(name: str) -> dict[str, str]:
    with safe_open(MODELS / name / "model.safetensors", "pt") as file:
        return {key: file.get_slice(key).get_dtype() for key in file.keys()}  # noqa: SIM118


def held_out_docstring() -> str:
    """heapq is one of the modules that training never saw."""
    return "module heapq\n\n" + inspect.cleandoc(str(heapq.__doc__))


@torch.no_grad()
def loss(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, text: str) -> float:
    ids = tokenizer(text, return_tensors="pt")["input_ids"][:, :256]
    return float(model(input_ids=ids, labels=ids).loss)


@torch.no_grad()
def greedy(
    model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, prompt: str, count: int
) -> list[int]:
    inputs = tokenizer(prompt, return_tensors="pt")
    kept = {key: inputs[key] for key in ("input_ids", "attention_mask")}
    output = model.generate(**kept, max_new_tokens=count, do_sample=False)
    return [int(token) for token in output[0, kept["input_ids"].shape[1] :]]


def test_all_models_together_are_small() -> None:
    files = [path for path in MODELS.rglob("*") if path.is_file()]
    assert {path.parent.name for path in files} >= set(CLASSES)
    assert sum(path.stat().st_size for path in files) <= SIZE_LIMIT


def test_stock_class_and_dtypes(loaded: Loaded) -> None:
    name, model, _ = loaded
    assert type(model) is CLASSES[name]
    assert {parameter.dtype for parameter in model.parameters()} == {torch.bfloat16}
    stored = stored_dtypes(name)
    for key, dtype in stored.items():
        assert dtype == ("F32" if key.endswith("e_score_correction_bias") else "BF16"), key


def test_both_share_one_tokenizer() -> None:
    for file in ("tokenizer.json", "tokenizer_config.json", "chat_template.jinja"):
        texts = {(MODELS / name / file).read_text(encoding="utf-8") for name in CLASSES}
        assert len(texts) == 1, file


def test_published_tensor_names_of_the_mixture() -> None:
    names = set(stored_dtypes("tiny-moe"))
    for layer in (1, 2, 3):
        prefix = f"model.layers.{layer}.mlp"
        experts = {
            f"{prefix}.experts.{expert}.{part}_proj.weight"
            for expert in range(EXPERTS)
            for part in ("gate", "up", "down")
        }
        assert experts <= names
        assert {f"{prefix}.gate.weight", f"{prefix}.gate.e_score_correction_bias"} <= names
        assert f"{prefix}.shared_experts.gate_proj.weight" in names
    assert "model.layers.0.mlp.gate_proj.weight" in names
    assert not any("experts.gate_up_proj" in name for name in names)


def test_published_tensor_names_of_the_dense_model() -> None:
    names = set(stored_dtypes("tiny-dense"))
    for part in ("post_self_attn_layernorm", "post_mlp_layernorm", "mlp.gate_up_proj"):
        assert f"model.layers.0.{part}.weight" in names
    assert "model.layers.0.self_attn.q_proj.bias" in names
    assert "lm_head.weight" in names


def test_configuration_is_in_the_published_style() -> None:
    config = json.loads((MODELS / "tiny-moe" / "config.json").read_text(encoding="utf-8"))
    expected: dict[str, Any] = {
        "architectures": ["Glm4MoeForCausalLM"],
        "attention_bias": True,
        "dtype": "bfloat16",
        "first_k_dense_replace": 1,
        "n_group": 1,
        "n_routed_experts": EXPERTS,
        "n_shared_experts": 1,
        "norm_topk_prob": True,
        "num_experts_per_tok": CHOSEN,
        "routed_scaling_factor": 2.5,
        "tie_word_embeddings": False,
        "topk_group": 1,
        "use_qk_norm": True,
    }
    assert {key: config[key] for key in expected} == expected
    assert config["rope_parameters"]["rope_theta"] == 1e6
    assert config["rope_parameters"]["partial_rotary_factor"] == 0.5
    assert not any("experts_implementation" in key for key in config)


def test_stop_ids_are_the_three_of_glm(loaded: Loaded) -> None:
    _, model, tokenizer = loaded
    stop = tokenizer.convert_tokens_to_ids(["<|endoftext|>", "<|user|>", "<|observation|>"])
    assert model.config.eos_token_id == stop
    assert model.generation_config.eos_token_id == stop
    assert max(stop) == model.config.vocab_size - 1 == len(tokenizer) - 1


@pytest.mark.parametrize("text", ["", " \n\t", "naïve — 模型 🙂\x00", "    def f(x):\r\n", "12345"])
def test_tokenizer_loses_no_byte(loaded: Loaded, text: str) -> None:
    _, _, tokenizer = loaded
    assert tokenizer.decode(tokenizer(text)["input_ids"]) == text


def test_chat_template(loaded: Loaded) -> None:
    _, _, tokenizer = loaded
    messages = [{"role": "system", "content": "Be short."}, {"role": "user", "content": "Hello"}]
    text = tokenizer.apply_chat_template(messages, add_generation_prompt=True, tokenize=False)
    assert text == "<|system|>\nBe short.<|user|>\nHello<|assistant|>\n"
    ids = tokenizer(text)["input_ids"]
    assert ids[0] == tokenizer.convert_tokens_to_ids("<|system|>")
    assert len(ids) < len(text) / 2


def test_loss_on_an_unseen_docstring(loaded: Loaded) -> None:
    _, model, tokenizer = loaded
    uniform = math.log(model.config.vocab_size)
    assert loss(model, tokenizer, held_out_docstring()) < 0.7 * uniform


def test_loss_knows_the_order_of_words(loaded: Loaded) -> None:
    _, model, tokenizer = loaded
    text = held_out_docstring()
    words = text.split(" ")
    backwards = " ".join(reversed(words))
    assert loss(model, tokenizer, text) + 0.5 < loss(model, tokenizer, backwards)


@pytest.mark.parametrize("prompt", [LICENCE_PROMPT, DOCSTRING_PROMPT])
def test_greedy_text_does_not_collapse(loaded: Loaded, prompt: str) -> None:
    _, model, tokenizer = loaded
    tokens = greedy(model, tokenizer, prompt, 48)
    assert len(tokens) >= 8
    assert len(set(tokens)) >= len(tokens) // 4
    assert max(tokens.count(token) for token in tokens) <= len(tokens) // 2
    assert sum(character.isalpha() for character in tokenizer.decode(tokens)) > 20


def test_greedy_text_is_the_same_with_and_without_a_cache(loaded: Loaded) -> None:
    _, model, tokenizer = loaded
    full = model.float()
    tokens = greedy(full, tokenizer, LICENCE_PROMPT, 8)
    ids = tokenizer(LICENCE_PROMPT, return_tensors="pt")["input_ids"]
    with torch.no_grad():
        logits = full(input_ids=torch.cat([ids, torch.tensor([tokens])], 1), use_cache=False).logits
    expected = logits[0, ids.shape[1] - 1 : -1].argmax(-1).tolist()
    model.to(torch.bfloat16)
    assert tokens == expected


def test_saving_again_gives_the_same_tensors(loaded: Loaded, tmp_path: Path) -> None:
    name = loaded[0]
    model = AutoModelForCausalLM.from_pretrained(MODELS / name, dtype="auto")
    model.save_pretrained(tmp_path)
    with (
        safe_open(MODELS / name / "model.safetensors", "pt") as before,
        safe_open(tmp_path / "model.safetensors", "pt") as after,
    ):
        assert set(before.keys()) == set(after.keys())
        for key in before.keys():  # noqa: SIM118
            assert before.get_tensor(key).dtype == after.get_tensor(key).dtype, key
            assert torch.equal(before.get_tensor(key), after.get_tensor(key)), key


def test_routing_is_balanced_but_not_uniform(
    mixture: tuple[PreTrainedModel, PreTrainedTokenizerBase],
) -> None:
    model, tokenizer = mixture
    chosen: list[torch.Tensor] = []
    unbiased: list[torch.Tensor] = []

    def watch(_gate: Any, _inputs: Any, output: tuple[torch.Tensor, ...]) -> None:
        unbiased.append(output[0].sigmoid().topk(CHOSEN, dim=-1)[1].sort(-1)[0])
        chosen.append(output[2].sort(-1)[0])

    gates = [layer.mlp.gate for layer in model.model.layers[1:]]
    hooks = [gate.register_forward_hook(watch) for gate in gates]
    loss(model, tokenizer, held_out_docstring())
    for hook in hooks:
        hook.remove()
    assert len(chosen) == 3
    for gate, with_bias, without in zip(gates, chosen, unbiased, strict=True):
        assert gate.e_score_correction_bias.dtype == torch.float32
        assert gate.e_score_correction_bias.abs().max() > 0.01
        load = torch.bincount(with_bias.flatten(), minlength=EXPERTS).float()
        assert load.max() > 1.3 * load.mean(), "uniform: every prompt would look alike"
        assert load.max() < 4.0 * load.mean(), "collapsed: one expert takes every token"
        assert int((load > 0).sum()) >= EXPERTS - 2
        assert (with_bias != without).any(), "the correction bias decides nothing"


@pytest.mark.parametrize("name", sorted(CLASSES))
def test_card_says_how_it_was_made(name: str) -> None:
    card = (MODELS / name / "README.md").read_text(encoding="utf-8")
    for word in CARD_WORDS:
        assert word in card, word
