"""The models of the GPU benchmark: random weights made on the device, shared by all contenders.

The Hugging Face model is made first. Our weights are its very tensors; where ours are merged (q, k
and v, gate and up) the merged tensor is made and the model's parameters become rows of it, so
nothing is twice in memory and every contender reads the same numbers.
"""

from __future__ import annotations

import json
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
import transformers

import glmc_runtime
from bench.gpu.gpu_timing import GIB, allocated
from bench.models import BenchModel
from bench.spread import BIAS, CORRECTION, draw
from glmc.compiled import Compiled, FrontEnd
from glmc.compiler import back_end, front_end, write_compiled
from glmc.config import CompileOptions
from glmc.ir.recipe import Recipe, Source, Weight, sources
from glmc.job import read_job
from glmc.presets.catalog import load_config
from glmc.weights.evaluate import evaluate
from glmc_runtime.generate.session import Session


class Bench:
    """One model on the device: Hugging Face's and sessions of ours over the same weights, whose
    biases are of spread ``bias``."""

    def __init__(
        self,
        model: BenchModel,
        folder: Path,
        device: torch.device,
        target: str,
        bias: float = BIAS,
    ) -> None:
        self.model = model
        self.device = device
        self.target = target
        self._folder = folder
        self._fronts: FrontEnd | None = None
        self._merged: dict[str, torch.Tensor] = {}
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "config.json").write_text(json.dumps(dict(model.config)), encoding="utf-8")
        self.hugging_face = random_model(load_config(folder).config, device, bias)
        self.compile_seconds = self.load_seconds = self.session_gib = 0.0

    def session(
        self,
        *,
        decode: tuple[int, ...],
        prefill: tuple[int, ...],
        max_context: int,
        kv_tokens: int,
        block_size: int = 128,
        prefill_graphs: bool = False,
    ) -> Session:
        """Compile a plan and load it over the shared weights; ``kv_tokens`` fit into its cache.

        How long both took, device graphs included, and what memory the session has, cache
        included, is kept in ``compile_seconds``, ``load_seconds`` and ``session_gib``.
        """
        options = CompileOptions(
            target=self.target,
            dtype="bfloat16",
            weights="none",
            block_size=block_size,
            decode_buckets=decode,
            prefill_buckets=prefill,
            max_context=max_context,
        )
        started = time.perf_counter()
        job = read_job(self._folder, options)
        if self._fronts is None:
            self._fronts = front_end(job)
        compiled = back_end(self._fronts, job)
        path = self._folder / f"artifact.{max_context}.{max(decode)}.{max(prefill)}"
        write_compiled(compiled, path)
        weights = self.weights(compiled)
        self.compile_seconds = time.perf_counter() - started
        before, started = allocated(self.device), time.perf_counter()
        # A partly filled block more for each sequence, and the scratch block.
        blocks = 1 + max(decode) + -(-kv_tokens // block_size)
        session = load_over(path, weights, kv_blocks=blocks, prefill_graphs=prefill_graphs)
        self.load_seconds = time.perf_counter() - started
        self.session_gib = (allocated(self.device) - before) / GIB
        return session

    @torch.no_grad()
    def weights(self, compiled: Compiled) -> dict[str, torch.Tensor]:
        """Every weight of the artifact; the model's own tensors, or what they become rows of."""
        parameters = dict(self.hugging_face.named_parameters())
        parameters |= dict(self.hugging_face.named_buffers())
        tensors = {}
        for name, weight in compiled.weights.items():
            if name not in self._merged and _is_merged(weight, parameters):
                self._merged[name] = _merge(weight, parameters)
            if name in self._merged:
                tensors[name] = self._merged[name]
            else:
                tensors[name] = evaluate(weight, parameters.__getitem__).detach().to(self.device)
        return tensors


def load_over(path: Path, weights: Mapping[str, torch.Tensor] | None, **more: Any) -> Session:
    """Load an artifact over tensors that are in memory already, or over its own."""
    return glmc_runtime.load(path, verify_hashes=False, weights=weights, **more)


def random_model(config: Any, device: torch.device, bias: float = BIAS, seed: int = 0) -> Any:
    """The stock model with weights of the spread of :mod:`bench.spread`, made where they stay."""
    with torch.device("meta"):
        model = transformers.AutoModelForCausalLM.from_config(
            config, dtype=torch.bfloat16, attn_implementation="sdpa"
        )
    model = model.to_empty(device=device).requires_grad_(False).eval()
    rotary = model.model.rotary_emb
    model.model.rotary_emb = type(rotary)(config).to(device)
    generator = torch.Generator(device).manual_seed(seed)
    for name, tensor in model.named_parameters():
        draw(name, tensor.data, generator, bias)
    for name, tensor in model.named_buffers():
        if name.endswith(CORRECTION):
            draw(name, tensor, generator, bias)
    return model


def _is_merged(weight: Weight, parameters: Mapping[str, torch.Tensor]) -> bool:
    parts: tuple[Recipe, ...] = getattr(weight.recipe, "parts", ())
    return bool(parts) and all(
        isinstance(part, Source) and parameters[part.name].dtype == weight.dtype for part in parts
    )


def _merge(weight: Weight, parameters: Mapping[str, torch.Tensor]) -> torch.Tensor:
    """Evaluate a concatenation and make its sources views of it."""
    merged = evaluate(weight, parameters.__getitem__).detach()
    begin = 0
    for source in sources(weight.recipe):
        part = parameters[source.name]
        part.data = merged.view(-1)[begin : begin + part.numel()].view(part.shape)
        begin += part.numel()
    return merged
