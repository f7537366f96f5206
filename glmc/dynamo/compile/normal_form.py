"""Normal form of Dynamo's graph: a :class:`Program` as every pass reads it.

Dynamo's graph is of torch functions and mutates its inputs: parameters, caches, whatever the
program touches. Exported ahead of dispatch it is the same functional ATen graph as that of
``capture``: linear, silu and scaled_dot_product_attention stay whole, and what is written in place
becomes an output of its own. Sizes keep the symbols of Dynamo's own ShapeEnv, so that whatever is
concluded from a size is guarded.
"""

from __future__ import annotations

import re
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import SymFloat, Tensor
from torch._functorch.aot_autograd import aot_export_module
from torch._subclasses.fake_tensor import FakeTensor
from torch.fx import Graph, GraphModule, Node

from glmc.capture.export import describe_call, is_assertion
from glmc.dynamo.compile.autocast import copy_node, restored, spell_autocast, switches, switching
from glmc.dynamo.compile.checks import traced_outputs
from glmc.errors import CaptureError
from glmc.ir.program import ModelShape, Program, graph_module
from glmc.ir.recipe import Source, Weight
from glmc.ir.rewrite import layer_of

_PART = re.compile(r"\['([^']+)'\]|\[(\d+)\]|\.([A-Za-z_]\w*)")
_TABLES = ("_modules", "_parameters", "_buffers")
_OWNER = re.compile(r"^L\[['\"]\w+['\"]\]\.?|^L__\w*?___?")


@dataclass(frozen=True)
class Placeholder:
    """One argument of the compiled function. ``kind``: weight, input, or size (an integer)."""

    name: str
    kind: str
    node: Node


@dataclass(frozen=True)
class Result:
    """One output of the program's graph. ``fake``: Dynamo's value, of the layout of eager code's;
    passes may give the node another layout."""

    index: int
    fake: Any = None


@dataclass(frozen=True)
class Traced:
    """``outputs``: what the function returns, in order: :class:`Result`, numbers and None.
    ``mutated`` maps the name of an input to the result that it holds afterwards. ``given``:
    Dynamo's values of the placeholders."""

    program: Program
    placeholders: tuple[Placeholder, ...]
    outputs: tuple[Any, ...]
    mutated: dict[str, Result]
    constants: dict[str, Tensor]
    given: tuple[Any, ...]

    def node(self, result: Result) -> Node:
        """The node of a result as the program is now; passes replace nodes."""
        output = next(node for node in reversed(self.program.graph.nodes) if node.op == "output")
        node: Node = output.args[0][result.index]
        return node


def normal_form(module: GraphModule, examples: Sequence[Any]) -> Traced:
    """Export Dynamo's ``module``; ``examples`` are its real arguments, of which no value is read.
    Raises CaptureError for what does not become one functional graph."""
    module = _with_numbers(module)
    device = _device_type(examples)
    cast = torch.is_autocast_enabled(device) or switches(module)
    heads = [node for node in module.graph.nodes if node.op == "placeholder"]
    fakes = [_fake_of(node, example) for node, example in zip(heads, examples, strict=True)]
    with restored(device):
        exported, signature = _export(switching(module), _unaliased(fakes))
    mutated = dict(signature.user_inputs_to_mutate)
    if signature.buffers_to_mutate or signature.parameters:
        raise CaptureError(
            "the graph holds state of its own that it changes",
            found=", ".join(map(str, signature.buffers_to_mutate.values())),
        )
    graph, copies, tensors = _copy(exported)
    names = [str(node.target) for node in exported.graph.nodes if node.op == "placeholder"]
    own = [str(buffer) for buffer in signature.buffers]
    changed = set(mutated.values())
    placeholders: list[Placeholder] = []
    weights: dict[str, Weight] = {}
    constants: dict[str, Tensor] = {}
    taken: set[str] = set()
    nodes = [copies[node] for node in exported.graph.nodes if node.op == "placeholder"]
    state = dict(signature.inputs_to_buffers)
    own_tensors = {
        **dict(module.named_buffers()),
        **{name: getattr(module, name) for name in own if hasattr(module, name)},
    }
    for node, name in zip(nodes[: len(own)], names[: len(own)], strict=True):
        value = own_tensors[state.get(name, name)]
        constant = _unique(str(state.get(name, name)), taken)
        constants[constant] = value
        weights[constant] = _describe_weight(node, constant, value)
    for node, head, name, example in zip(
        nodes[len(own) :], heads, names[len(own) :], examples, strict=True
    ):
        qualified = _unique(_name_of(head), taken)
        if not isinstance(node.meta["val"], Tensor):
            kind = "size"
            node.meta.update(input=qualified, id=qualified, module="", layer=None, source=None)
        elif _is_weight(head, example) and name not in changed:
            kind = "weight"
            weights[qualified] = _describe_weight(node, qualified, node.meta["val"])
        else:
            kind = "input"
            node.meta.update(input=qualified, id=qualified, module="", layer=None, source=None)
        placeholders.append(Placeholder(qualified, kind, node))
    for node, value in tensors.items():
        constant = _unique(node.name, taken)
        constants[constant] = value
        weights[constant] = _describe_weight(node, constant, value)
    output = next(node for node in reversed(graph.nodes) if node.op == "output")
    results: tuple[Any, ...] = tuple(output.args[0])
    by_name = {placeholder.node.name: placeholder.name for placeholder in placeholders}
    examples_of_inputs = tuple(node.meta.get("example_value") for node in heads)
    handed = [None] * len(mutated) + traced_outputs(module)
    results = _keep_tensors(output, results, handed)
    written = {by_name[name]: results[index] for index, name in enumerate(mutated.values())}
    program = Program(
        graph_module(graph), weights, _shape_of(module, weights), _dtype(weights), "traced"
    )
    graph.lint()
    if cast:
        spell_autocast(program, device)
    return Traced(
        program,
        tuple(placeholders),
        results[len(mutated) :],
        written,
        constants,
        examples_of_inputs,
    )


def _with_numbers(module: GraphModule) -> GraphModule:
    """Dynamo may carry a float, such as an epsilon, as a tensor that the graph reads: it becomes
    the number that it is. Asking for the number guards it."""
    read = [
        node
        for node in module.graph.nodes
        if node.op == "call_method"
        and node.target == "item"
        and isinstance(node.meta.get("example_value"), SymFloat)
    ]
    if not read:
        return module
    graph = Graph()
    copies: dict[Node, Any] = {}
    for node in module.graph.nodes:
        if node in read:
            copies[node] = float(node.meta["example_value"])
            continue
        copies[node] = copy_node(graph, node, copies)
    return GraphModule(module, graph)


def _device_type(examples: Sequence[Any]) -> str:
    types = {item.device.type for item in examples if isinstance(item, Tensor)} - {"cpu"}
    return next(iter(types), "cpu")


def _unaliased(fakes: list[Any]) -> list[Any]:
    """The same without shared memory: whether inputs overlap is looked at in each call."""
    seen: set[int] = set()
    unaliased = []
    for fake in fakes:
        if isinstance(fake, FakeTensor):
            storage = fake.untyped_storage()._cdata
            if storage in seen:
                with fake.fake_mode:
                    fake = torch.empty_strided(
                        fake.shape, fake.stride(), dtype=fake.dtype, device=fake.device
                    )
            seen.add(storage)
        unaliased.append(fake)
    return unaliased


def _fake_of(node: Node, example: Any) -> Any:
    value = node.meta.get("example_value", node.meta.get("val"))
    return example if value is None else value


def _export(module: GraphModule, fakes: list[Any]) -> tuple[GraphModule, Any]:
    try:
        with torch.no_grad(), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            exported: Any
            exported, signature = aot_export_module(
                module, fakes, trace_joint=False, pre_dispatch=True, decompositions={}
            )
    except (RuntimeError, ValueError, NotImplementedError) as error:
        first_line = str(error).strip().splitlines()[0] if str(error).strip() else repr(error)
        raise CaptureError(
            "the graph that Dynamo made does not become functional",
            found=first_line,
            remedy="put torch.compiler.disable around what is named here, or report it",
        ) from error
    return exported, signature


def _copy(exported: GraphModule) -> tuple[Graph, dict[Node, Node], dict[Node, Tensor]]:
    """A copy of the graph, its nodes by the old ones, and the tensors that it holds itself, which
    become placeholders as well."""
    graph = Graph()
    copies: dict[Node, Node] = {}
    counts: dict[str, int] = {}
    tensors: dict[Node, Tensor] = {}
    mode = next(
        node.meta["val"].fake_mode
        for node in exported.graph.nodes
        if isinstance(node.meta.get("val"), FakeTensor)
    )
    for node in exported.graph.nodes:
        if node.op == "get_attr":
            value = getattr(exported, str(node.target))
            copy = graph.placeholder(str(node.target).strip("_"))
            copy.meta = {"val": mode.from_tensor(value, static_shapes=True)}
            copies[node], tensors[copy] = copy, value
            continue
        if is_assertion(node) or (node.op == "call_function" and _is_switch(node)):
            continue
        copy = graph.node_copy(node, lambda old: copies[old])
        copies[node] = copy
        copy.meta = {"val": node.meta.get("val")}
        if node.op == "call_function":
            describe_call(copy, node, counts, _module_of(node))
        elif node.op == "output":
            copy.meta.update(id="output", module="", layer=None, source=None)
    for copy in reversed(list(graph.nodes)):
        if not copy.users and copy.op not in ("output", "placeholder"):
            graph.erase_node(copy)
    _place_first(graph, tensors)
    return graph, copies, tensors


def _place_first(graph: Graph, placeholders: dict[Node, Tensor]) -> None:
    first = next((node for node in graph.nodes if node.op != "placeholder"), None)
    for node in placeholders:
        if first is not None:
            first.prepend(node)


def _is_switch(node: Node) -> bool:
    """Whether a node only switches gradients or autocast, whose effect is in the values."""
    return node.target in (
        torch._C._set_grad_enabled,
        torch.amp.autocast_mode._enter_autocast,
        torch.amp.autocast_mode._exit_autocast,
    )


def _module_of(node: Node) -> str:
    stack = node.meta.get("nn_module_stack") or {}
    path = str(next(reversed(stack.values()))[0]) if stack else ""
    return _OWNER.sub("", path).replace("['", ".").replace("']", "").lstrip(".")


def _name_of(head: Node) -> str:
    """The qualified name of a parameter, or the user's own words for an input."""
    source = getattr(head, "_dynamo_source", None) or getattr(
        head.meta.get("grapharg"), "source", None
    )
    text = str(getattr(source, "name", "")) if source is not None else ""
    if callable(getattr(source, "name", None)):
        text = str(source.name())  # type: ignore[union-attr]
    parts = [next(filter(None, groups)) for groups in _PART.findall(text)]
    parts = [part for part in parts if part not in _TABLES]
    first = text.startswith(("L['self']", "L['kwargs']", "L['args']"))
    return ".".join(parts[1:] if first else parts) or head.name


def _unique(name: str, taken: set[str]) -> str:
    free_name, number = name, 1
    while free_name in taken:
        free_name, number = f"{name}.{number}", number + 1
    taken.add(free_name)
    return free_name


def _is_weight(head: Node, example: Any) -> bool:
    source = str(getattr(head, "_dynamo_source", "") or "")
    named = getattr(getattr(head, "_dynamo_source", None), "name", "")
    text = str(named() if callable(named) else named) or source
    owned = "_parameters[" in text or "_buffers[" in text
    return isinstance(example, torch.nn.Parameter) or owned


def _describe_weight(node: Node, name: str, value: Tensor) -> Weight:
    """Whatever its values are, they may be others in the next call: what is made of them is made of
    the tensor itself."""
    module = name.rpartition(".")[0]
    node.meta.update(weight=name, id=name, module=module, layer=layer_of(module), source=None)
    shape = tuple(int(size) for size in value.shape)
    return Weight(name, shape, value.dtype, Source(name, shape))


def _keep_tensors(output: Node, results: tuple[Any, ...], fakes: Sequence[Any]) -> tuple[Any, ...]:
    """The graph's output holds nodes only; what the function returns besides is kept aside."""
    nodes = tuple(item for item in results if isinstance(item, Node))
    output.args = (nodes,)
    order = iter(range(len(nodes)))
    return tuple(
        Result(next(order), fake) if isinstance(item, Node) else item
        for item, fake in zip(results, fakes, strict=True)
    )


def _dtype(weights: dict[str, Weight]) -> torch.dtype:
    """Of the largest weight: frequencies and biases may be in float32 beside all others."""
    floating = [weight for weight in weights.values() if weight.dtype.is_floating_point]
    return max(floating, key=lambda weight: weight.bytes).dtype if floating else torch.float32


def _width(module: GraphModule) -> int:
    """The width of the residual stream: of the embedding, or of what a later graph begins with."""
    widths = [0]
    for node in module.graph.nodes:
        value = node.meta.get("example_value")
        if not isinstance(value, Tensor):
            continue
        if node.op == "call_function" and "embedding" in str(node.target):
            return int(value.shape[-1])
        if node.op == "placeholder" and value.dim() == 3 and value.dtype.is_floating_point:
            last = value.shape[-1]
            widths.append(int(last) if isinstance(last, int) else 0)
    return max(widths)


def _shape_of(module: GraphModule, weights: dict[str, Weight]) -> ModelShape:
    layers = {layer_of(name) for name in weights} - {None}
    hidden = _width(module)
    parameters = sum(torch.Size(weight.shape).numel() for weight in weights.values())
    return ModelShape(
        name=type(module).__name__,
        architecture="traced",
        layers=len(layers),
        vocabulary=0,
        hidden=hidden,
        query_heads=0,
        kv_heads=0,
        head_dim=0,
        maximum_positions=0,  # a graph doesn't say: no table may rely on one
        eos_token_ids=(),
        parameters=parameters,
        tied_embeddings=False,
    )
