"""Guard steps find return codes and outputs that were not written, and no more than that."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch

import glmc_runtime
from glmc_runtime.cli import main
from glmc_runtime.engine import loaded as loaded_module
from glmc_runtime.errors import RequestError, VendorError
from glmc_runtime.format.plan import BufferArgument, Call, ValueArgument
from glmc_runtime.generate.session import Session
from glmc_runtime.kernels import Thunk
from glmc_runtime.replay import guard_steps
from tests.runtime.broken_vendor import break_function
from tests.runtime.toy_vendor import write_vendor_toy

pytest.importorskip("glmc_kunlun_emulator")
PROMPTS = [[3, 14, 15], list(range(30)), [7]]


@pytest.fixture(scope="module")
def path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_vendor_toy(tmp_path_factory.mktemp("guarded") / "toy")


def _run(path: Path, **options: Any) -> Session:
    session = glmc_runtime.load(path, emulate=True, **options)
    session.generate(PROMPTS, max_new_tokens=5, ignore_eos=True)
    return session


def _returns(code: object) -> Callable[..., object]:
    def change(function: Callable[..., Any], arguments: dict[str, Any]) -> object:
        function(**arguments)
        return code

    return change


def _unwritten(function: Callable[..., Any], arguments: dict[str, Any]) -> None:
    """Ignores the return code and leaves what was there."""


@pytest.mark.parametrize("function", ["add_rmsnorm", "rotary_embedding", "moe_post"])
def test_a_return_code_names_call_node_layer_and_module(
    path: Path, monkeypatch: pytest.MonkeyPatch, function: str
) -> None:
    break_function(monkeypatch, function, _returns(1))
    with pytest.raises(VendorError, match="error code") as caught:
        _run(path)
    assert f"call 'kunlun_ops.{function}', node '" in caught.value.place
    assert "layer 0, module 'model.layers.0'" in caught.value.place
    assert caught.value.found == "1"
    assert "doctor" in caught.value.remedy


@pytest.mark.parametrize("code", [0, None, True, torch.ones(1)])
def test_what_is_no_return_code_is_no_error(
    path: Path, monkeypatch: pytest.MonkeyPatch, code: object
) -> None:
    break_function(monkeypatch, "swiglu", _returns(code))
    assert _run(path).statistics.guard_steps == {"prefill": 2, "decode": 2}


@pytest.mark.parametrize(
    ("function", "output"),
    [
        ("rmsnorm", "output"),
        ("swiglu", "y"),
        ("prefill_attention", "out"),
        ("speculative_attention", "out"),
        ("moe_sigmoid_group_topk_norm", "topk_index"),
        ("moe_pre_sorted", "moe_expand"),
        ("moe_fc", "y"),
        ("moe_post", "y"),
    ],
)
def test_a_call_that_writes_nothing_is_found(
    path: Path, monkeypatch: pytest.MonkeyPatch, function: str, output: str
) -> None:
    break_function(monkeypatch, function, _unwritten)
    with pytest.raises(VendorError, match=f"'{output}' unwritten") as caught:
        _run(path)
    assert f"kunlun_ops.{function}" in caught.value.place
    assert "layer 0" in caught.value.place


def test_one_missing_row_is_counted(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def without_last_row(function: Callable[..., Any], arguments: dict[str, Any]) -> None:
        kept = arguments["y"][-1].clone()
        function(**arguments)
        arguments["y"][-1].copy_(kept)

    break_function(monkeypatch, "moe_post", without_last_row)
    with pytest.raises(VendorError) as caught:
        _run(path)
    assert caught.value.found.startswith("64 still hold")


def test_only_the_first_steps_look(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    calls = 0

    def fails_later(function: Callable[..., Any], arguments: dict[str, Any]) -> int:
        nonlocal calls
        calls += 1
        function(**arguments)
        return int(calls > 3)

    def generate(steps: int) -> Session:
        session = glmc_runtime.load(path, emulate=True, guard_steps=steps)
        session.generate([[1, 2, 3]], max_new_tokens=6, ignore_eos=True)
        return session

    break_function(monkeypatch, "moe_post", fails_later)
    # One prefill step and two decode steps are looked at, and three more decode steps are not.
    assert generate(2).statistics.to_json()["guard_steps"] == {"decode": 2, "prefill": 1}
    assert calls == 6
    calls = 0
    with pytest.raises(VendorError, match="error code"):
        generate(3)
    break_function(monkeypatch, "moe_post", _returns(1))
    assert generate(0).statistics.guard_steps == {}


def test_guarding_changes_no_token(path: Path) -> None:
    def tokens(steps: int) -> list[list[int]]:
        session = glmc_runtime.load(path, emulate=True, guard_steps=steps)
        completions = session.generate(PROMPTS, max_new_tokens=6, ignore_eos=True)
        return [completion.tokens for completion in completions]

    assert tokens(100) == tokens(0)


def test_a_plan_without_vendor_calls_has_nothing_to_guard(toy_path: Path) -> None:
    session = glmc_runtime.load(toy_path)
    session.generate([[1, 2]], max_new_tokens=3, ignore_eos=True)
    assert session.statistics.guard_steps == {}


def test_the_number_of_steps_is_checked(path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(RequestError, match="negative"):
        glmc_runtime.load(path, emulate=True, guard_steps=-1)
    run = ["run", str(path), "--emulate", "--token-ids", "1,2", "--max-new-tokens", "3", "--json"]
    assert main([*run, "--guard-steps", "1"]) == 0
    assert '"guard_steps": {"decode": 1, "prefill": 1}' in capsys.readouterr().out
    assert main([*run, "--guard-steps", "-1"]) == 2


class Graphs:
    """A device's graphs without a device: ``captured`` is set by the first capture."""

    on_device = True
    captured = False

    def capture(self, thunks: tuple[Thunk, ...]) -> tuple[Thunk, ...]:
        self.captured = True
        for thunk in thunks:
            thunk()
        return thunks

    def wait(self) -> None: ...


def test_buckets_are_guarded_before_they_are_captured(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    graphs = Graphs()
    monkeypatch.setattr(loaded_module, "graphs_for", lambda device, emulated: graphs)
    session = _run(path)
    buckets = len(session.decode_buckets.sizes)
    # Of the first steps, what is no graph (attention) is looked at as well.
    assert session.statistics.guard_steps == {"decode": buckets + 2, "prefill": 2}
    graphs.captured = False
    break_function(monkeypatch, "moe_fc", _unwritten)
    with pytest.raises(VendorError, match="unwritten"):
        glmc_runtime.load(path, emulate=True)
    assert not graphs.captured


def _call(function: str, *writes: str, **arguments: ValueArgument | BufferArgument) -> Call:
    return Call(f"kunlun_ops.{function}", dict(arguments), writes, False, "node", "op", None, "m")


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
def test_a_nan_that_a_kernel_computes_is_no_poison(dtype: torch.dtype) -> None:
    x, y = torch.full((4, 8), float("inf"), dtype=dtype), torch.ones(4, 8, dtype=dtype)
    for result in (float("nan"), -float("nan")):
        write = partial(y.fill_, result)
        guard_steps.run_guarded(_call("swiglu", "y"), {"x": x, "y": y}, write)
    guard_steps.run_guarded(_call("swiglu", "y"), {"x": x, "y": y}, lambda: y.copy_(x - x))
    with pytest.raises(VendorError, match="unwritten"):
        guard_steps.run_guarded(_call("swiglu", "y"), {"x": x, "y": y}, lambda: None)
    assert bool(y.isnan().all())


def test_what_is_read_or_not_sure_to_be_written_is_left_alone() -> None:
    def left(call: Call, **arguments: Any) -> None:
        before = {name: item.clone() for name, item in arguments.items() if torch.is_tensor(item)}
        guard_steps.run_guarded(call, arguments, lambda: None)
        for name, item in before.items():
            assert torch.equal(arguments[name], item)

    def ones(*shape: int) -> torch.Tensor:
        return torch.ones(shape)

    memory = torch.ones(64)
    x = memory[:32].view(4, 8)
    norm = _call("add_rmsnorm", "output", "residual_output")
    left(norm, x=x, y=memory[32:], output=x, residual_output=memory[32:])
    left(_call("rmsnorm", "output"), x=x, output=memory[16:48])
    left(_call("rmsnorm"), x=x, output=ones(4))  # the plan does not say that it is written
    left(_call("matmul", "out"), x=x, out=ones(4, 4), beta=1)
    left(_call("swiglu", "y"), x=x, y=torch.ones(4, 4, dtype=torch.int8))
    left(_call("gen_block_statistic", "block_statistic"), block_statistic=ones(12, 8))
    padded = _call("prefill_attention", "out", out=BufferArgument(0))
    left(padded, q=x, out=ones(4, 8))
    sort = _call("moe_pre_sorted", "moe_expand", "moe_index")
    index = torch.ones(8, dtype=torch.int32)
    left(sort, x=x, moe_expand=ones(8, 8), moe_index=index, index_have_neg=True)
    product = _call("moe_fc", "y")
    short, full = torch.tensor([0, 2, 3]), torch.tensor([0, 2, 4])
    left(product, x=x, sorted_tokens_num_lod=short, y=ones(4, 8), act=None)
    left(product, x=x, sorted_tokens_num_lod=full, y=ones(4, 8), act="SWISH_GLU")
    with pytest.raises(VendorError, match="unwritten"):
        left(product, x=x, sorted_tokens_num_lod=full, y=ones(4, 8), act=None)
