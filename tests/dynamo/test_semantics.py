"""What the compiled function means: the caller's memory, modes, threads, changed weights."""

from __future__ import annotations

import threading
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from bench.hugging_face import with_cache
from tests.dynamo.compiled import decode, layer_of, model_of, prompt, static_cache, watched
from tests.support.thinned import thinned


def compiled(function: Any, **keywords: Any) -> Any:
    torch._dynamo.reset()
    return torch.compile(function, backend="kunlun", fullgraph=True, **keywords)


Compiled = tuple[nn.Module, Any]


# A test that resets Dynamo between those that share one of these costs a trace and nothing else.
@pytest.fixture(scope="module")
def mixture() -> Compiled:
    """A layer with experts and its compiled forward."""
    model = layer_of()
    return model, compiled(model.forward)


@pytest.fixture(scope="module")
def dense(mixture: Compiled) -> Compiled:
    model = layer_of("glm4")
    return model, torch.compile(model.forward, backend="kunlun", fullgraph=True)


def dense_mlp() -> tuple[nn.Module, Tensor]:
    """Two products that are merged into one, where the rest of a layer is not the point; and an
    input."""
    model: Any = model_of("glm4_moe", num_hidden_layers=1)
    return model.model.layers[0].mlp, torch.randn(2, 5, model.config.hidden_size)


# The caller's memory.


def test_a_cache_is_written_in_place_where_it_lies(mixture: Compiled) -> None:
    model, forward = mixture
    cache, twin = static_cache(model), static_cache(model)
    decode(model, model.forward, 5, twin, prompt(1))
    pointers = None
    with torch.no_grad():
        model(prompt(1), **with_cache(cache))
        pointers = [layer.keys.data_ptr() for layer in cache.layers]
    cache.reset()
    decode(model, forward, 5, cache, prompt(1))
    assert [layer.keys.data_ptr() for layer in cache.layers] == pointers
    for mine, theirs in zip(cache.layers, twin.layers, strict=True):
        torch.testing.assert_close(mine.keys, theirs.keys, rtol=1e-4, atol=1e-5)
        torch.testing.assert_close(mine.values, theirs.values, rtol=1e-4, atol=1e-5)
        assert mine.cumulative_length == theirs.cumulative_length


def test_a_cache_that_is_reset_and_used_again(dense: Compiled) -> None:
    model, forward = dense
    cache = static_cache(model)
    first = decode(model, forward, 6, cache, prompt(1))
    cache.reset()
    assert torch.equal(decode(model, forward, 6, cache, prompt(1)), first)


def test_two_caches_in_turn(dense: Compiled) -> None:
    model, forward = dense
    caches = [static_cache(model), static_cache(model)]
    ids = [prompt(1), prompt(1).flip(-1)]
    expected = [decode(model, model.forward, 6, static_cache(model), one).argmax(-1) for one in ids]
    with torch.no_grad():
        tokens = [
            [model(one, **with_cache(cache)).logits[:, -1:].argmax(-1)]
            for one, cache in zip(ids, caches, strict=True)
        ]
        for _ in range(6):
            for cache, made in zip(caches, tokens, strict=True):
                logits = forward(input_ids=made[-1], **with_cache(cache)).logits
                made.append(logits.argmax(-1))
    assert [torch.cat(made, 1).tolist() for made in tokens] == [one.tolist() for one in expected]


def test_two_models_in_one_process(mixture: Compiled, dense: Compiled) -> None:
    for _ in range(2):
        for model, forward in (mixture, dense):
            expected = decode(model, model.forward, 4, static_cache(model), prompt(1))
            made = decode(model, forward, 4, static_cache(model), prompt(1))
            assert torch.equal(made.argmax(-1), expected.argmax(-1))


class _Cached(nn.Module):
    """Writes a row of a cache and attends to all of it."""

    def forward(self, x: Tensor, cache: Tensor, at: Tensor) -> Tensor:
        cache.index_copy_(1, at, x)
        return torch.nn.functional.scaled_dot_product_attention(x, cache, cache)


@pytest.mark.parametrize("cut", ["rows", "batch", "columns"])
def test_a_slice_of_a_larger_cache(cut: str) -> None:
    large = torch.randn(4, 32, 16)
    parts = {"rows": large[:2, :8], "batch": large[1:3], "columns": large[:2, :, :8]}
    twins = large.clone()
    twin_parts = {"rows": twins[:2, :8], "batch": twins[1:3], "columns": twins[:2, :, :8]}
    cache, twin = parts[cut], twin_parts[cut]
    function = compiled(_Cached())
    with torch.no_grad():
        for step in range(3):
            x = torch.randn(2, 1, cache.shape[2])
            at = torch.tensor([step])
            torch.testing.assert_close(function(x, cache, at), _Cached()(x, twin, at))
    assert torch.equal(large, twins)  # inside the slice and outside


def test_an_output_is_not_overwritten_by_the_next_call() -> None:
    function = compiled(lambda x: (x * 2, x + 1))
    first = function(torch.ones(3))
    function(torch.zeros(3))
    assert [part.tolist() for part in first] == [[2.0] * 3, [2.0] * 3]


def test_an_output_that_is_an_input_or_a_view_of_one() -> None:
    def both(x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        x.add_(1)
        return x, x[1:], x * 2

    function = compiled(both)
    for start in (0.0, 5.0):
        x = torch.full((4,), start)
        same, view, double = function(x)
        assert torch.equal(x, torch.full((4,), start + 1))
        assert same.data_ptr() == x.data_ptr()
        view.fill_(9)  # a view of the caller's tensor, of this call
        assert x[1:].tolist() == [9.0] * 3
        assert double.tolist() == [2 * start + 2] * 4


def test_tensors_that_share_memory_are_left_to_the_program() -> None:
    def shift(target: Tensor, source: Tensor) -> Tensor:
        target.copy_(source * 2)
        return source + 1

    memory, twin = torch.arange(8.0), torch.arange(8.0)
    function = compiled(shift)
    for _ in range(2):
        found = function(memory[1:5], memory[2:6])
        expected = shift(twin[1:5], twin[2:6])
        assert torch.equal(found, expected)
        assert torch.equal(memory, twin)


def test_old_values_that_are_read_after_the_write() -> None:
    def swap(cache: Tensor, x: Tensor, at: Tensor) -> Tensor:
        before = cache.clone()
        cache.index_copy_(0, at, x)
        return before + cache

    cache, twin = torch.randn(6, 3), torch.empty(6, 3)
    twin.copy_(cache)
    x, at = torch.randn(2, 3), torch.tensor([1, 4])
    assert torch.equal(compiled(swap)(cache, x, at), swap(twin, x, at))
    assert torch.equal(cache, twin)


# Modes.


@pytest.mark.long
def test_inference_mode_and_then_no_grad_over_one_compile() -> None:
    model = layer_of()
    forward = compiled(model.forward)
    expected = model(prompt(2)).logits
    for mode in (torch.inference_mode, torch.no_grad, torch.inference_mode):
        with mode():
            torch.testing.assert_close(forward(prompt(2)).logits, expected)


@pytest.mark.long
def test_autocast() -> None:
    model = layer_of()
    exact = model(prompt(2)).logits
    forward = compiled(model.forward)
    with torch.no_grad(), torch.autocast("cpu", dtype=torch.bfloat16):
        eager = model(prompt(2)).logits
        found = forward(prompt(2)).logits
    assert found.dtype == eager.dtype
    error = (eager.float() - exact).square().mean().sqrt()
    assert (found.float() - exact).square().mean().sqrt() <= 1.25 * error


def test_gradients_are_refused() -> None:
    model, x = dense_mlp()
    model.requires_grad_(True)
    function = compiled(model)
    with pytest.raises(Exception, match=r"inference only.*needs gradients"):
        function(x)
    with torch.no_grad():
        torch.testing.assert_close(function(x), model(x))


def test_gradients_that_nobody_asks_for() -> None:
    """Parameters require gradients, and grad mode is on where the model is called."""
    linear = nn.Linear(4, 4)

    def function(x: Tensor) -> Tensor:
        with torch.no_grad():
            return linear(x) * 2  # type: ignore[no-any-return]

    x = torch.randn(2, 4, requires_grad=True)
    torch.testing.assert_close(compiled(function)(x), function(x))
    assert torch.equal(compiled(lambda x: x.argmax(-1))(x), x.argmax(-1))


def test_a_reset_of_dynamo() -> None:
    model, x = dense_mlp()
    function = torch.compile(model, backend="kunlun")
    with torch.no_grad():
        first = function(x)
        torch._dynamo.reset()
        assert torch.equal(function(x), first)
        for parameter in model.parameters():
            parameter.mul_(1.25)
        torch._dynamo.reset()
        torch.testing.assert_close(function(x), model(x))


def test_a_region_that_is_disabled() -> None:
    class Outer(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.first, self.second = nn.Linear(8, 8), nn.Linear(8, 8)

        @torch.compiler.disable
        def inner(self, x: Tensor) -> Tensor:
            return x + len(x.tolist())

        def forward(self, x: Tensor) -> Tensor:
            return self.second(self.inner(self.first(x)))  # type: ignore[no-any-return]

    model = Outer().requires_grad_(False)
    x = torch.randn(3, 8)
    with watched() as graphs, torch.no_grad():
        found = torch.compile(model, backend="kunlun")(x)
    torch.testing.assert_close(found, model(x))
    assert len(graphs) == 2
    assert graphs[0].broken is not None


@pytest.fixture(scope="module")
def stateless() -> Compiled:
    """A layer with experts and its compiled forward, for calls without a cache."""
    model = layer_of()
    return model, compiled(model.forward)


@pytest.mark.long
def test_two_threads(stateless: Compiled) -> None:
    model, forward = stateless
    ids = [prompt(1), prompt(1).flip(-1)]
    with torch.no_grad():
        forward(ids[0])
        expected = [model(one).logits for one in ids]
    wrong: list[str] = []

    def work(index: int) -> None:
        with torch.no_grad():
            for _ in range(20):
                found = forward(ids[index]).logits
                if not torch.allclose(found, expected[index], rtol=1e-4, atol=1e-4):
                    wrong.append(f"thread {index}")

    threads = [threading.Thread(target=work, args=(index,)) for index in (0, 1)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert wrong == []


# Changed weights.


def test_weights_that_are_written_in_place(stateless: Compiled) -> None:
    model, forward = stateless
    with torch.no_grad():
        forward(prompt(1))
        for name, parameter in model.named_parameters():
            if "proj" in name or "embed" in name:
                parameter.mul_(1.25)
        torch.testing.assert_close(forward(prompt(1)).logits, model(prompt(1)).logits)
        model.load_state_dict(layer_of().state_dict())
        torch.testing.assert_close(forward(prompt(1)).logits, model(prompt(1)).logits)


@pytest.mark.parametrize("target", thinned(["cpu", "xpu"], long=["cpu"]))
def test_frequencies_that_are_written_in_place(target: str) -> None:
    """On xpu (emulated) they are in a table of the plan's own."""
    model = layer_of(dtype=torch.float16, hidden_size=128, head_dim=64)
    forward = compiled(model.forward, options={"target": target})
    frequencies = model.model.rotary_emb.inv_freq  # type: ignore[union-attr]
    found = []
    with torch.no_grad():
        for factor in (1.0, 0.5):
            frequencies.mul_(factor)  # type: ignore[union-attr, operator]
            found.append(forward(prompt(1)).logits)
            expected = model(prompt(1)).logits
            torch.testing.assert_close(found[-1], expected, rtol=2e-2, atol=2e-2)
    assert not torch.allclose(*found, rtol=2e-2, atol=2e-2)


@pytest.mark.long
def test_a_model_that_is_retyped() -> None:
    model = layer_of("glm4")
    torch._dynamo.reset()
    forward = torch.compile(model.forward, backend="kunlun")
    with torch.no_grad():
        forward(prompt(1))
        model.to(torch.bfloat16)
        found = forward(prompt(1)).logits
        assert found.dtype == torch.bfloat16
        torch.testing.assert_close(found, model(prompt(1)).logits, rtol=5e-2, atol=5e-2)
        model.to(torch.float32)
        torch.testing.assert_close(forward(prompt(1)).logits, model(prompt(1)).logits)


def test_a_parameter_that_is_given_other_memory() -> None:
    model = nn.Linear(8, 4).requires_grad_(False)
    function = compiled(model)
    x = torch.randn(2, 8)
    with torch.no_grad():
        function(x)
        model.weight.data = torch.randn(4, 8)
        torch.testing.assert_close(function(x), model(x))
