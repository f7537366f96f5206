"""The dtype of routers: a choice of ours, whatever the installed transformers keeps them in."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from glmc.capture import export
from glmc.capture.export import capture
from glmc.capture.routers import ROUTER, router_dtype, store_routers
from glmc.config import CompileOptions
from glmc.ir.program import Program
from glmc.job import read_job
from glmc.pipeline import runner
from glmc.presets.catalog import load_config
from glmc.weights.checkpoint import open_checkpoint
from glmc.weights.evaluate import evaluate
from glmc.weights.random_checkpoint import write_random_checkpoint
from tests.support.checkpoints import tiny_file
from tests.support.quick_functional import quick_functional

pytestmark = pytest.mark.long

BF16 = torch.bfloat16


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("routers") / "model"
    config = tiny_file("glm-4.7", num_hidden_layers=1, first_k_dense_replace=0)
    write_random_checkpoint(path, config)
    return path


def test_the_model_s_dtype_where_it_is_exact() -> None:
    assert router_dtype([BF16, BF16], BF16) is BF16
    assert router_dtype([], BF16) is BF16
    assert router_dtype([BF16, torch.float32], BF16) is torch.float32
    assert router_dtype([torch.float16], BF16) is torch.float32
    assert router_dtype([BF16], torch.float16) is torch.float32
    assert router_dtype([BF16, torch.float16], torch.float32) is torch.float32


def as_in_newer_transformers(build: Any) -> Any:
    """transformers 5.24 keeps the router in float32 and casts the hidden state alone."""

    def built(*arguments: Any) -> nn.Module:
        model: nn.Module = build(*arguments)
        for name, parameter in list(model.named_parameters()):
            if name.endswith(ROUTER):
                owner = model.get_submodule(name.removesuffix(".weight"))
                owner.weight = nn.Parameter(parameter.float(), requires_grad=False)
        return model

    return built


def captured(path: Path) -> Program:
    source = load_config(path)
    return capture(source.config, source.shape, BF16)


def logits(program: Program, path: Path) -> Tensor:
    source = open_checkpoint(path, load_config(path).fields)

    def read(name: str) -> Tensor:
        shape = source.shape(name)
        return source.read(name, 0, torch.Size(shape).numel()).view(shape)

    values = {name: evaluate(weight, read) for name, weight in program.weights.items()}
    tokens = torch.tensor([[3, 9, 27, 81, 50]])
    inputs = {"token_ids": tokens, "positions": torch.arange(5)[None]}
    arguments = [
        values[node.meta["weight"]] if "weight" in node.meta else inputs[node.meta["input"]]
        for node in program.graph.nodes
        if node.op == "placeholder"
    ]
    result = torch.fx.Interpreter(program.graph_module).run(*arguments)
    return result[0] if isinstance(result, tuple) else result


def test_both_kinds_of_transformers_give_one_program(
    checkpoint: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    this = captured(checkpoint)
    quick_functional(monkeypatch)  # torch's own second trace is in the first
    monkeypatch.setattr(export, "build_on_meta", as_in_newer_transformers(export.build_on_meta))
    newer = captured(checkpoint)
    for dtype in (BF16, torch.float32):
        programs = [this.copy(), newer.copy()]
        for program in programs:
            store_routers(program, dtype)
            routers = [name for name in program.weights if name.endswith(ROUTER)]
            assert len(routers) == 1
            assert program.weights[routers[0]].dtype is dtype
        assert programs[0].weights == programs[1].weights
        results = [logits(program, checkpoint) for program in programs]
        assert torch.equal(*results)
        for program in programs:
            records = runner.fuse(program)
            assert len(next(one for one in records if one.name == "moe_gate").matches) == 1


def test_a_wide_router_of_a_narrow_checkpoint_stays_wide(checkpoint: Path) -> None:
    options = CompileOptions(dtype="bfloat16")
    assert read_job(checkpoint, options).router_dtype is BF16
    tensors = load_file(checkpoint / "model.safetensors")
    wide = {
        name: value.float() * (1 + 2**-12) if name.endswith(ROUTER) else value
        for name, value in tensors.items()
    }
    try:
        save_file(wide, checkpoint / "model.safetensors", metadata={"format": "pt"})
        assert read_job(checkpoint, options).router_dtype is torch.float32
        drawn = replace(options, weights="random")
        assert read_job(checkpoint, drawn).router_dtype is BF16
    finally:
        save_file(tensors, checkpoint / "model.safetensors", metadata={"format": "pt"})
