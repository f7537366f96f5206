"""The AOTInductor peer: our own captured decode graph, compiled ahead of time and loaded again.

What the passes made of the model is spelled in plain torch for Inductor: references where they are
dense, and here where they read lengths or expert ids. The caches are buffers, written in place;
weights and prefilled caches are those of our artifact.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.fx import Graph, GraphModule, Node

from bench.cpu.peers import Source
from bench.cpu.peers.ours import Ours
from glmc.compiler import front_end
from glmc.config import CompileOptions
from glmc.ir.ops import OPS
from glmc.ir.ops.linear import swiglu
from glmc.ir.ops.norms import rms_norm
from glmc.ir.ops.rotary import rope
from glmc.ir.program import Program
from glmc.ir.recipe import Constant
from glmc.job import read_job
from glmc_runtime.format.phases import DECODE
from glmc_runtime.loading.weights import load_weights


def _decode_attention(
    q: Tensor, keys: Tensor, values: Tensor, tables: Tensor, lengths: Tensor, scale: float
) -> Tensor:
    """Every block of the table is read; positions beyond a length are masked."""
    sequences, _, head_dim = q.shape
    keys, values = (
        cache[tables.long()].transpose(1, 2).reshape(sequences, cache.shape[1], -1, head_dim)
        for cache in (keys, values)
    )
    seen = torch.arange(keys.shape[2]) < lengths.unsqueeze(1)
    out = F.scaled_dot_product_attention(
        q.unsqueeze(2), keys, values, seen[:, None, None], scale=scale, enable_gqa=True
    )
    return out.squeeze(2)


def _qkv_rope_cache(
    qkv: Tensor,
    q_norm: Tensor | None,
    k_norm: Tensor | None,
    positions: Tensor,
    frequencies: Tensor,
    slots: Tensor,
    keys: Tensor,
    values: Tensor,
    q_heads: int,
    kv_heads: int,
    head_dim: int,
    interleaved: bool,
    scaling: float,
    eps: float,
) -> tuple[Tensor, Tensor, Tensor]:
    """The reference without its copies of the caches."""
    heads = [q_heads, kv_heads, kv_heads]
    q, k, v = qkv.view(qkv.shape[0], -1, head_dim).split(heads, 1)
    if q_norm is not None and k_norm is not None:
        q, k = rms_norm(q, q_norm, eps), rms_norm(k, k_norm, eps)
    q, k = (rope(part, positions, frequencies, interleaved, scaling) for part in (q, k))
    blocks, offsets = slots // keys.shape[2], slots % keys.shape[2]
    keys[blocks, :, offsets] = k
    values[blocks, :, offsets] = v
    return q, keys, values


def _moe_ffn(x: Tensor, weights: Tensor, ids: Tensor, gate_up: Tensor, down: Tensor) -> Tensor:
    """One batched product over the chosen experts' weights, as ``batched_mm`` of transformers."""
    experts = ids.flatten()
    rows = x.repeat_interleave(ids.shape[1], 0).unsqueeze(-1)
    merged = torch.bmm(gate_up[experts], rows).squeeze(-1)
    results = torch.bmm(down[experts], swiglu(merged).unsqueeze(-1)).squeeze(-1)
    return (results.float().view(*ids.shape, -1) * weights.unsqueeze(-1)).sum(1).to(x.dtype)


_DENSE: dict[str, Callable[..., Any]] = {
    "decode_attention": _decode_attention,
    "qkv_rope_cache": _qkv_rope_cache,
    "moe_ffn": _moe_ffn,
}


def _plain(program: Program, tensors: dict[str, Tensor]) -> tuple[GraphModule, list[str]]:
    """The graph in plain torch with weights and caches as buffers, and its inputs' names."""
    root, graph, inputs = torch.nn.Module(), Graph(), []
    copies: dict[Node, Node] = {}
    for node in program.graph.nodes:
        name = node.meta.get("weight") or node.meta.get("input")
        if node.op == "placeholder" and name in tensors:
            root.register_buffer(f"tensor_{len(copies)}", tensors[name])
            copies[node] = graph.get_attr(f"tensor_{len(copies)}")
            continue
        copies[node] = graph.node_copy(node, copies.__getitem__)
        if node.op == "placeholder":
            inputs.append(name)
        elif isinstance(node.target, torch._ops.OpOverload) and node.target.namespace == "glmc":
            op = node.target._opname
            copies[node].target = _DENSE.get(op) or OPS[op].reference
    return GraphModule(root, graph), inputs


@dataclass
class Continued:
    """Sequences of a session that go on in a compiled step, once there is one."""

    prompts: Sequence[list[int]]
    room: int
    sequences: Any
    step: Callable[[list[int]], Tensor] | None = None


class Inductor(Ours):
    """Our session prefills; a decode step is compiled for its batch size when one is asked for."""

    prefills = False

    def __init__(self, source: Source) -> None:
        super().__init__(source.made)
        self._options = CompileOptions(dtype=source.dtype)
        self._program = front_end(read_job(source.checkpoint, self._options)).phases.programs[
            DECODE.key
        ]

    def prefill(self, prompts: Sequence[list[int]], room: int) -> tuple[Any, Any]:
        sequences, logits = super().prefill(prompts, room)
        return Continued(prompts, room, sequences), logits

    @torch.no_grad()
    def decode(self, sequences: Continued, tokens: list[int]) -> Any:
        if sequences.step is None:
            sequences.step = self._compiled(sequences)
        return sequences.step(tokens)

    def release(self, sequences: Continued) -> None:
        super().release(sequences.sequences)

    def _tensors(self, caches: dict[str, Tensor]) -> dict[str, Tensor]:
        weights = load_weights(self.session.artifact, torch.device("cpu"))
        for name, weight in self._program.weights.items():
            if isinstance(weight.recipe, Constant):
                weights[name] = torch.tensor(weight.recipe.values, dtype=weight.dtype)
        return {**weights, **caches}

    def _caches(self, sequences: Any, width: int) -> dict[str, Tensor]:
        """Copies of the session's caches, with so many blocks for each of the sequences."""
        caches = {}
        for node in self._program.caches():
            rows = self.session.cache.tensor(*node.meta["cache"].key).permute(0, 2, 1, 3)
            own = rows.new_zeros(len(sequences) * width, *rows.shape[1:])
            for number, sequence in enumerate(sequences):
                count = len(sequence.blocks)
                own[number * width : number * width + count] = rows[sequence.blocks]
            caches[node.meta["input"]] = own
        return caches

    def _compiled(self, continued: Continued) -> Callable[[list[int]], Tensor]:
        batch, size = len(continued.prompts), self._options.block_size
        longest = max(len(prompt) for prompt in continued.prompts)
        width = -(-(longest + continued.room) // size)
        tensors = self._tensors(self._caches(continued.sequences, width))
        module, names = _plain(self._program, tensors)
        tables = torch.arange(batch * width, dtype=torch.int32).view(batch, width)
        lengths = torch.tensor([len(prompt) for prompt in continued.prompts])

        def inputs(tokens: list[int]) -> tuple[Tensor, ...]:
            values = {
                "token_ids": torch.tensor(tokens),
                "positions": lengths.clone(),
                "slot_mapping": tables[:, 0].long() * size + lengths,
                "block_tables": tables,
                "context_lengths": (lengths + 1).int(),
            }
            return tuple(values[name] for name in names)

        with tempfile.TemporaryDirectory() as folder:
            exported = torch.export.export(module, inputs([0] * batch), strict=False)
            package = torch._inductor.aoti_compile_and_package(
                exported, package_path=str(Path(folder) / "decode.pt2")
            )
            forward = torch._inductor.aoti_load_package(package)

        def step(tokens: list[int]) -> Tensor:
            logits: Tensor = forward(*inputs(tokens))[0]
            lengths.add_(1)
            return logits

        return step


def load(source: Source) -> Inductor:
    return Inductor(source)
