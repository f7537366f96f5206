"""Experts of both sides: ours of tokens that differ, vLLM's from what its engine returns."""

from __future__ import annotations

import json
from collections import deque
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from bench.engines.side import Side, _of_steps
from bench.gpu import peer_experts
from bench.gpu.gpu_models import Bench
from bench.gpu.vllm_side import SITE

pytestmark = pytest.mark.usefixtures("shared_captures")


class Engine:
    """A step loop that ends one request a step, with the experts that it was given."""

    def __init__(self, routed: dict[int, torch.Tensor]) -> None:
        self.routed, self.waiting = routed, deque[str]()

    def has_unfinished_requests(self) -> bool:
        return bool(self.waiting)

    def step(self) -> list[Any]:
        name = self.waiting.popleft()
        going = [SimpleNamespace(request_id=each, finished=False) for each in self.waiting]
        chosen = self.routed[int(name)].numpy()
        output = SimpleNamespace(routed_experts=chosen)
        return [*going, SimpleNamespace(request_id=name, finished=True, outputs=[output])]


def counted(monkeypatch: pytest.MonkeyPatch, routed: dict[int, torch.Tensor]) -> float:
    engine = Engine(routed)
    side = Side(SimpleNamespace(llm_engine=engine), 100)

    def add(prompt: list[int], new: int) -> str:
        assert (len(prompt), new) == (9, 3)  # the context is in the middle of two steps
        engine.waiting.append(str(len(engine.waiting)))
        return engine.waiting[-1]

    monkeypatch.setattr(side, "_add", add)
    return float(side.experts(len(routed), 10, 2, 0, dense_layers=1)["experts"])


def test_experts_are_counted_by_step_and_layer(monkeypatch: pytest.MonkeyPatch) -> None:
    # [tokens, layers, top_k]; the prompt's and the dense layer's do not count.
    prompt, dense = [[[7, 8], [7, 8]]] * 9, [0, 0]
    one = torch.tensor([*prompt, [dense, [0, 1]], [dense, [0, 1]]])
    other = torch.tensor([*prompt, [dense, [1, 2]], [dense, [2, 3]]])
    assert counted(monkeypatch, {0: one, 1: other}) == (3 + 4) / 2
    assert counted(monkeypatch, {0: one, 1: one}) == 2


@pytest.mark.parametrize(("rows", "right"), [(11, True), (2, True), (10, False), (12, False)])
def test_experts_of_another_number_of_tokens_are_refused(
    rows: int, right: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    chosen = {0: torch.ones(rows, 2, 1, dtype=torch.int64)}
    if right:
        assert counted(monkeypatch, chosen) == 1
        return
    with pytest.raises(ValueError, match=f"experts of {rows} tokens .* expected 2, or 11"):
        counted(monkeypatch, chosen)


def test_an_engine_that_returns_no_experts_is_refused() -> None:
    with pytest.raises(ValueError, match="experts of None tokens"):
        _of_steps(None, 9, 2)


def test_the_spread_of_biases_reaches_an_engine() -> None:
    model = torch.nn.Linear(512, 512)
    side = Side(SimpleNamespace(apply_model=lambda call: [call(model)]), 100)
    assert side.spread(bias=0.02) == {"parameters": 512 * 513}
    assert float(model.bias.detach().std()) == pytest.approx(0.02, rel=0.2)


class Answers:
    def __enter__(self) -> Answers:
        return self

    def __exit__(self, *error: object) -> None: ...

    def ask(self, order: str, **given: Any) -> dict[str, Any]:
        assert order == "experts" and given["batch"] == 4
        return {"experts": 5.25}


def test_a_row_of_both_sides(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "vllm").mkdir()
    monkeypatch.setenv(SITE, str(tmp_path))
    options = []

    def side(*arguments: Any) -> Answers:
        options.append(arguments[-2:])
        return Answers()

    monkeypatch.setattr(peer_experts, "vllm_side", side)
    output = tmp_path / "e.json"
    biases = []

    class Kept(Bench):
        def __init__(self, *arguments: Any) -> None:
            super().__init__(*arguments)
            attention = self.hugging_face.model.layers[0].self_attn
            biases.append(float(attention.q_proj.bias.float().std()))

    monkeypatch.setattr(peer_experts, "Bench", Kept)
    words = ["--quick", "--target", "cpu", "--models", "4.7", "--batches", "4", "--bias", "0.02"]
    assert peer_experts.main([*words, "--output", str(output)]) == 0
    assert options == [({"enable_return_routed_experts": True}, 0.02)]
    assert biases == pytest.approx([0.02], rel=0.3)
    (row,) = json.loads(output.read_text())["rows"]
    assert row["vllm"] == 5.25
    # Tokens that differ choose more than one token's experts.
    assert row["glmc"] > peer_experts.gpu_model("4.7", True).config["num_experts_per_tok"]
    assert "| 0.02 | 4 | 96 | 5.2 |" in capsys.readouterr().out


def test_a_step_in_which_no_router_was_seen_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    released = []
    double = SimpleNamespace(
        filled=lambda *_: ["a sequence"],
        first_tokens=lambda *_: [1],
        prepared=lambda *_: None,
        traced_logits=lambda *_: (torch.zeros(1, 8), []),
        distinct_experts=peer_experts.gpu_ours.distinct_experts,
        released=lambda _, sequences: released.extend(sequences),
    )
    monkeypatch.setattr(peer_experts, "gpu_ours", double)
    session: Any = None
    with pytest.raises(RuntimeError, match="no call of a traced decode step writes the ids"):
        peer_experts.ours(peer_experts.gpu_model("4.7", True), session, 1, 96)
    assert released == ["a sequence"]


@pytest.mark.parametrize(
    ("words", "said"),
    [(["--models", "9b"], "'9b' is none of air, 4.7"), ([], f"{SITE} is not set")],
)
def test_what_cannot_be_counted_is_said(
    words: list[str],
    said: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.delenv(SITE, raising=False)
    with pytest.raises(SystemExit):
        peer_experts.main(["--output", "e.json", *words])
    assert said in capsys.readouterr().err
