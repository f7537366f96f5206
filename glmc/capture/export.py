"""Capture: a stock model becomes one functional graph of ATen ops with symbolic batch and length.

``torch.export(strict=False)`` on meta tensors, then ``run_decompositions({})`` (functional and
bit-exact; keeps linear, silu and scaled_dot_product_attention whole). No weight is read.
"""

from __future__ import annotations

import copy
import re
import warnings
from contextlib import AbstractContextManager
from typing import Any

import torch
from torch import Tensor, nn
from torch.export import Dim, ExportedProgram
from torch.export.graph_signature import InputKind, OutputKind
from torch.fx import Graph, Node

from glmc.capture.boundaries import Boundaries, Keys, LayerKeys
from glmc.capture.layers import Folding, fold, instances, unfold
from glmc.capture.legacy import no_autocast_on_meta
from glmc.capture.model import CaptureOptions, build_on_meta, computed_buffers, decoder_layers
from glmc.errors import CaptureError
from glmc.ir import identity
from glmc.ir.program import ModelShape, Program, graph_module
from glmc.ir.recipe import Constant, Recipe, Source, Weight
from glmc.ir.rewrite import layer_of

# Sizes of the example inputs. Not 0 or 1, which torch.export treats as special, and not equal.
_BATCH, _TOKENS = 2, 7
_PREFIX = "model."
_FRAME = re.compile(r'File "([^"]+)", line (\d+), in (\w+)')


class _Stateless(nn.Module):
    """Tokens and positions in, logits and the tensors of modules out; the mask is causal and
    nothing is padded."""

    def __init__(self, model: nn.Module, boundaries: Boundaries) -> None:
        super().__init__()
        self.model = model
        self._boundaries = boundaries

    def forward(self, token_ids: Tensor, positions: Tensor) -> tuple[Tensor, ...]:
        # An explicit mask of ones keeps transformers from looking for packed sequences.
        with self._boundaries.watched() as tensors:
            output = self.model(
                input_ids=token_ids,
                position_ids=positions,
                attention_mask=torch.ones_like(token_ids),
                use_cache=False,
            )
        return output.logits, *tensors


def capture(
    config: Any, shape: ModelShape, dtype: torch.dtype, options: CaptureOptions | None = None
) -> Program:
    """Trace the model of a transformers config into a stateless :class:`Program`.

    Inputs ``token_ids`` and ``positions`` int64 [batch, tokens]; output logits [batch, tokens,
    vocabulary] of ``dtype``. Each call has the keys of the tensors of modules that its value is
    (ir/identity.py). Raises CaptureError when the model does not trace into one graph.
    """
    options = options or CaptureOptions()
    config = copy.deepcopy(config)  # folding and transformers write into it
    model = build_on_meta(config, dtype, options)
    buffers = computed_buffers(model, config)
    layers = decoder_layers(model)
    folding = fold(model, layers) if options.folded else Folding(tuple(range(len(layers))))
    boundaries = Boundaries(model)
    exported = _export(model, boundaries)
    graph, names, keys = _read(exported, boundaries)
    layers_keys = LayerKeys(keys, folding)
    outside = unfold(graph, folding, layers_keys.copied)
    identity.begin(graph, layers_keys.all(outside))
    weights = _weights(exported, names, folding, buffers)
    used = {node.meta["weight"] for node in graph.nodes if "weight" in node.meta}
    program = Program(
        graph_module(graph),
        {name: weight for name, weight in weights.items() if name in used},
        shape,
        dtype,
    )
    graph.lint()
    return program


def _export(model: nn.Module, boundaries: Boundaries) -> ExportedProgram:
    example = torch.zeros(_BATCH, _TOKENS, dtype=torch.int64, device="meta")
    sizes = {0: Dim.AUTO, 1: Dim.AUTO}
    try:
        with (
            torch.inference_mode(False),  # a caller's: writes in place are counted
            torch.no_grad(),
            no_autocast_on_meta(),
            _without_fake_cache(),
            warnings.catch_warnings(),
        ):
            warnings.simplefilter("ignore")
            exported: ExportedProgram = torch.export.export(
                _Stateless(model, boundaries),
                (example, example.clone()),
                strict=False,
                dynamic_shapes={"token_ids": sizes, "positions": sizes},
            )
            decomposed: ExportedProgram = exported.run_decompositions({})
            return decomposed
    except (RuntimeError, torch._dynamo.exc.TorchDynamoException) as error:
        first_line = str(error).strip().splitlines()[0] if str(error).strip() else repr(error)
        raise CaptureError(
            f"{type(model).__name__} does not trace into one graph",
            expected="a forward without data-dependent Python control flow",
            found=first_line,
            remedy="use a transformers version that glmc supports, or --debug for the trace",
        ) from error


def _without_fake_cache() -> AbstractContextManager[None]:
    """torch's cache of fake results costs a capture more than it saves: sizes are symbols, and no
    layer is traced twice."""
    without: AbstractContextManager[None]
    without = torch._dynamo.config.patch(fake_tensor_cache_enabled=False)
    return without


def _read(exported: ExportedProgram, boundaries: Boundaries) -> tuple[Graph, dict[Node, str], Keys]:
    """A copy of the graph with ids, modules, layers and source lines; names of its weights, and
    the keys of its nodes."""
    signature = exported.graph_signature
    by_argument = {spec.arg.name: spec for spec in signature.input_specs}
    outputs = [spec.arg.name for spec in signature.output_specs]
    if any(spec.kind is not OutputKind.USER_OUTPUT for spec in signature.output_specs):
        raise CaptureError("the traced program changes its own state", found=", ".join(outputs))
    graph = Graph()
    copies: dict[Node, Node] = {}
    names: dict[Node, str] = {}
    keys: Keys = {}
    counts: dict[str, int] = {}
    for node in exported.graph_module.graph.nodes:
        if is_assertion(node):
            continue
        copy = graph.node_copy(node, lambda old: copies[old])
        copies[node] = copy
        copy.meta = {"val": node.meta.get("val")}
        if copy.kwargs.get("device") is not None:
            copy.kwargs = {**copy.kwargs, "device": torch.device("cpu")}
        if node.op == "placeholder":
            names[copy] = _describe_placeholder(copy, by_argument[node.name])
        elif node.op == "call_function":
            describe_call(copy, node, counts, _module_of(node))
        else:
            copy.meta.update(id="output", module="", layer=None, source=None)
            keys = boundaries.taken_out(copy)
    for copy in reversed(list(graph.nodes)):
        if not copy.users and copy.op not in ("output", "placeholder"):
            graph.erase_node(copy)
    for copy in [node for node in graph.nodes if "weight" in node.meta and not node.users]:
        graph.erase_node(copy)
    return graph, {node: name for node, name in names.items() if name}, keys


def is_assertion(node: Node) -> bool:
    """Whether a node only checks something, such as the dtype of a value before a cast."""
    return node.op == "call_function" and "assert" in str(node.target)


def _describe_placeholder(copy: Node, spec: Any) -> str:
    """Mark a placeholder as input or weight; returns the weight's qualified name, '' for inputs."""
    if spec.kind == InputKind.USER_INPUT:
        copy.meta.update(input=copy.name, id=copy.name, module="", layer=None, source=None)
        return ""
    if spec.kind not in (InputKind.PARAMETER, InputKind.BUFFER):
        raise CaptureError(
            f"the traced program holds a {spec.kind.name.lower().replace('_', ' ')}",
            place=str(spec.target),
            expected="parameters and buffers only",
        )
    name = str(spec.target).removeprefix(_PREFIX)
    module = name.rpartition(".")[0]
    copy.meta.update(weight=name, id=name, module=module, layer=layer_of(module), source=None)
    return name


def _module_of(node: Node) -> str:
    stack = node.meta.get("nn_module_stack") or {}
    paths = [str(path) for path, _ in stack.values()]
    module = (paths[-1] if paths else "").removeprefix("model").removeprefix(".")
    return "" if "metadata_hook" in module else module


def describe_call(copy: Node, node: Node, counts: dict[str, int], module: str) -> None:
    """Give a call its id, module, layer and source line; ``counts`` numbers ids that repeat."""
    base = f"{module}#{str(node.target).split('.')[1] if '.' in str(node.target) else 'getitem'}"
    count = counts.get(base, 0)
    counts[base] = count + 1
    copy.meta.update(
        id=base if count == 0 else f"{base}.{count}",
        module=module,
        layer=layer_of(module),
        source=_source_line(node.meta.get("stack_trace")),
    )


def _source_line(trace: str | None) -> str | None:
    """``modeling_glm4_moe.py:212 forward``: the model's own line in a stack trace."""
    frames = _FRAME.findall(trace or "")
    modelled = [frame for frame in frames if "/models/" in frame[0]] or frames
    if not modelled:
        return None
    path, line, function = modelled[-1]
    return f"{path.rpartition('/')[2]}:{line} {function}"


def _weights(
    exported: ExportedProgram,
    names: dict[Node, str],
    folding: Folding,
    buffers: dict[str, Tensor],
) -> dict[str, Weight]:
    """A Weight per parameter of the full model; buffers that are computed become constants."""
    weights: dict[str, Weight] = {}
    values = {name: node.meta["val"] for node, name in names.items()}
    for traced, full in instances(list(values), folding):
        value = values[traced]
        recipe: Recipe = Source(full, tuple(value.shape))
        if full in buffers:
            recipe = Constant(tuple(buffers[full].double().flatten().tolist()))
        weights[full] = Weight(full, tuple(value.shape), value.dtype, recipe)
    return weights
