"""Options of the backend, what it refuses, and what it says of itself."""

from __future__ import annotations

import importlib.metadata
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from bench.hugging_face import with_cache
from glmc.dynamo import explain
from glmc.dynamo.backend import compile_graph
from glmc.dynamo.compile.checks import XMLIR_VARIABLES, mocked_compile
from glmc.dynamo.options import read_options
from glmc.dynamo.say import warn_once
from glmc.errors import UsageError, VerificationError
from tests.dynamo.compiled import (
    decode,
    fusions,
    layer_of,
    model_of,
    prompt,
    static_cache,
    watched,
)
from tests.support.logs import logged
from tests.support.thinned import thinned


def options_of(**options: Any) -> Any:
    return {"backend": "kunlun", "options": options}


def test_the_backend_is_an_entry_point() -> None:
    (entry,) = importlib.metadata.entry_points(group="torch_dynamo_backends", name="kunlun")
    assert entry.value == "glmc.dynamo:kunlun"
    assert "kunlun" in torch._dynamo.list_backends()


@pytest.mark.parametrize(
    ("options", "found"),
    [
        ({"targt": "cpu"}, "no option 'targt'.*target, dump, verify, abi_profile, graph_capture"),
        ({"target": "tpu"}, "no target 'tpu'.*cpu, cuda, xpu"),
        ({"verify": 1}, "'verify'.*wrong kind.*bool"),
    ],
)
def test_unknown_options_are_errors_that_list_the_known(
    options: dict[str, Any], found: str
) -> None:
    torch._dynamo.reset()
    function = torch.compile(lambda x: x + 1, **options_of(**options))
    with pytest.raises(Exception, match=f"(?s){found}"):
        function(torch.ones(2))


def test_modes_of_inductor_are_refused() -> None:
    torch._dynamo.reset()
    function = torch.compile(lambda x: x + 1, backend="kunlun", mode="reduce-overhead")
    with pytest.raises(Exception, match=r"(?s)no mode 'reduce-overhead'.*mode='default'"):
        function(torch.ones(2))


def test_device_graphs_on_the_cpu_are_refused() -> None:
    torch._dynamo.reset()
    function = torch.compile(lambda x: x + 1, **options_of(graph_capture=True))
    with pytest.raises(Exception, match="device graphs"):
        function(torch.ones(2))


@pytest.mark.parametrize(
    ("options", "remedy"),
    [
        ({"targt": "cpu"}, r"leave out 'targt' in options=\{"),
        ({"target": "tpu"}, r"options=\{'target': 'cpu'\}"),
        ({"verify": 1}, r"options=\{'verify': True\}"),
        ({"graph_capture": True}, "leave 'graph_capture' out of options"),
    ],
)
def test_remedies_say_what_to_write(options: dict[str, Any], remedy: str) -> None:
    torch._dynamo.reset()
    function = torch.compile(lambda x: x + 1, **options_of(**options))
    with pytest.raises(Exception, match=remedy) as caught:
        function(torch.ones(2))
    assert "--help" not in str(caught.value)


def test_a_dump_that_is_no_folder_is_an_error_of_the_option(tmp_path: Path) -> None:
    taken = tmp_path / "file"
    taken.write_text("")
    torch._dynamo.reset()
    function = torch.compile(lambda x: x + 1, **options_of(dump=taken / "below"))
    with pytest.raises(Exception, match=r"(?s)'dump'.*Not a directory.*'dump': 'some/folder'"):
        function(torch.ones(2))


# What differs between the profiles is tested in tests/backends/kunlun.
@pytest.mark.parametrize("profile", thinned(["P-A", "P-B"], ["P-B"], long=["P-A"]))
def test_the_xpu_target_runs_on_the_emulator(
    profile: str, capsys: pytest.CaptureFixture[str]
) -> None:
    model = layer_of(dtype=torch.bfloat16, **WIDE)
    exact = layer_of(**WIDE)
    with watched() as graphs:
        forward = torch.compile(
            model.forward, fullgraph=True, **options_of(target="xpu", abi_profile=profile)
        )
        logits = {
            name: one_step(prefilled, call)
            for name, prefilled, call in (
                ("exact", exact, exact.forward),
                ("eager", model, model.forward),
                ("xpu", model, forward),
            )
        }
    (graph,) = graphs
    assert graph.emulated
    called = {call.function for call in graph.plan.calls}
    assert {"kunlun_ops.rotary_embedding", "kunlun_ops.moe_fc"} <= called
    assert fusions(graph)["attention"] == model.config.num_hidden_layers
    errors = {name: (one - logits["exact"]).square().mean() for name, one in logits.items()}
    assert errors["xpu"].sqrt() <= 1.25 * errors["eager"].sqrt()


@torch.no_grad()
def one_step(model: nn.Module, forward: Any) -> Tensor:
    """float32 logits of one given token after the prompt."""
    cache = static_cache(model)
    model(prompt(2), **with_cache(cache))
    tokens = torch.tensor([[5], [9]])
    return forward(input_ids=tokens, **with_cache(cache)).logits.float()


# Shapes that the vendor's kernels take.
WIDE: dict[str, Any] = {"hidden_size": 128, "head_dim": 64}


@pytest.mark.long
def test_a_dump_has_a_folder_per_graph(tmp_path: Path) -> None:
    model = layer_of("glm4")
    torch._dynamo.reset()
    forward = torch.compile(model.forward, **options_of(dump=str(tmp_path)))
    with torch.no_grad():
        forward(prompt(1))
        forward(prompt(2))
    assert [path.name for path in sorted(tmp_path.iterdir())] == ["graph_00", "graph_01"]
    names = [path.name for path in sorted((tmp_path / "graph_00").iterdir())]
    assert names[0] == "00_normal.txt"
    assert names[-1].endswith("_calls.txt")
    assert any("attention" in name for name in names)
    assert "cpu.masked_attention" in (tmp_path / "graph_00" / names[-1]).read_text()


def test_verify_accepts_what_is_right() -> None:
    model = layer_of()
    with watched() as graphs, logged("glmc.verify") as lines:
        forward = torch.compile(model.forward, fullgraph=True, **options_of(verify=True))
        decode(model, forward, 3, static_cache(model), prompt(1))
    assert graphs[0].function.proved  # type: ignore[attr-defined]
    (line,) = lines
    assert line.startswith("INFO glmc.verify: a graph of")
    assert "is right" in line


def test_verify_finds_a_wrong_kernel(monkeypatch: pytest.MonkeyPatch) -> None:
    from glmc_runtime.kernels import _BINDERS, find_binder

    right = find_binder("cpu.swiglu")

    def wrong(arguments: dict[str, Any]) -> Any:
        thunk = right(arguments)

        def run() -> None:
            thunk()
            arguments["out"].mul_(1.5)

        return run

    monkeypatch.setitem(_BINDERS, "cpu.swiglu", wrong)
    model = layer_of("glm")
    torch._dynamo.reset()
    forward = torch.compile(model.forward, **options_of(verify=True))
    with torch.no_grad(), pytest.raises(VerificationError, match=r"where: +output \d"):
        forward(prompt(1))


def test_verify_finds_an_input_that_is_left_wrong() -> None:
    def write(cache: Tensor, x: Tensor) -> Tensor:
        cache.copy_(x)
        return x + 1

    torch._dynamo.reset()
    with watched() as graphs:
        torch.compile(write, **options_of(verify=True))(torch.zeros(3), torch.ones(3))
    verified: Any = graphs[0].function
    verified.proved = False
    verified._replay = lambda cache, x: [x + 1]
    with pytest.raises(VerificationError, match=r"input .*afterwards"):
        verified(torch.zeros(3), torch.ones(3))


def test_the_mock_of_the_kunlun_shim_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    assert mocked_compile() is None

    def compile(model: Any, *_: object, **__: object) -> Any:
        return model

    compile.__module__ = "torch_xmlir.mock"
    monkeypatch.setattr(torch, "compile", compile)
    monkeypatch.setenv("XMLIR_FORCE_USE_XPU_GRAPH", "1")
    text = mocked_compile()
    assert text is not None
    assert "torch_xmlir.mock" in text
    assert "XMLIR_ENABLE_MOCK_TORCH_COMPILE=false" in text
    assert "XMLIR_DYNAMO_WORKAROUND=1" in text
    assert "XMLIR_FORCE_USE_XPU_GRAPH" not in text  # it is set already
    with pytest.raises(UsageError, match=r"torch\.compile does nothing"):
        explain(nn.Linear(2, 2), torch.ones(1, 2))
    assert len(XMLIR_VARIABLES) == 3


def test_eager_experts_are_named_and_still_right() -> None:
    """Two layers of them; Dynamo breaks at each, so the rest of the layers is left out."""
    model: Any = model_of("glm4_moe", "eager", first_k_dense_replace=0, n_routed_experts=4)
    experts = nn.Sequential(*(layer.mlp for layer in model.model.layers))
    x = torch.randn(1, 7, model.config.hidden_size, generator=torch.Generator().manual_seed(3))
    torch._dynamo.reset()
    warn_once.cache_clear()
    function = torch.compile(experts, backend="kunlun")
    with torch.no_grad(), pytest.warns(UserWarning, match="set_experts_implementation") as said:
        made = function(x)
    ours = [each for each in said if "set_experts_implementation" in str(each.message)]
    assert len(ours) == 1  # although two layers have experts
    torch.testing.assert_close(made, experts(x))


@pytest.mark.long
def test_explain_a_model_without_breaks() -> None:
    model = model_of("glm4_moe")
    made = explain(model, prompt(1))
    (graph,) = made.graphs
    assert made.breaks == ()
    assert graph.fusions["attention"] == model.config.num_hidden_layers
    assert graph.misses == ()
    assert "1 graph, 0 breaks" in str(made)
    assert "MiB added: temporaries" in str(made)
    assert f"rms_norm {graph.fusions['rms_norm']}" in str(made)


def test_explain_names_breaks_and_near_misses() -> None:
    class Broken(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            y = torch.nn.functional.scaled_dot_product_attention(x, x, x, dropout_p=0.5)
            torch._dynamo.graph_break()
            return y + 1

    made = explain(Broken(), torch.randn(1, 2, 4, 8))
    assert len(made.graphs) == 2
    assert len(made.breaks) == 1
    assert "test_options.py" in made.breaks[0]
    assert [miss.pass_name for miss in made.graphs[0].misses] == ["attention"]
    text = str(made)
    assert "not fused: attention" in text
    assert "break after graph 0" in text


def test_a_graph_is_compiled_without_dynamo_as_well() -> None:
    """What the backend does is a function of a graph and its inputs."""
    graphs: list[Any] = []

    def keep(module: Any, examples: Any) -> Any:
        graphs.append((module, examples))
        return module

    torch._dynamo.reset()
    torch.compile(lambda x: torch.relu(x) * 2, backend=keep)(torch.ones(2))
    made = compile_graph(*graphs[0], read_options({}))
    assert made.replay(torch.tensor([-1.0, 3.0]))[0].tolist() == [0.0, 6.0]
    assert [call.origin for call in made.plan.calls] == ["aten.relu", "aten.mul"]
