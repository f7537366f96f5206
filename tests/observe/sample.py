"""A history made by hand: a gate that a pass fuses in three layers, two of which read the same."""

from __future__ import annotations

from dataclasses import replace

from glmc.observe.history.record import (
    FORMAT,
    BlockHistory,
    BufferHistory,
    CallBlock,
    CallHistory,
    History,
    MatchHistory,
    MissHistory,
    NodeHistory,
    PlanHistory,
    StepHistory,
)
from glmc.observe.page.artifact import ArtifactFacts
from glmc_runtime.format.cache import LAYOUTS, CacheSpec, CacheTensor
from glmc_runtime.format.manifest import Guards, Limits, ModelFacts, phase_entry
from glmc_runtime.format.phases import DECODE, PREFILL

GUARDS = Guards("0.1.0", "2.5", "xpu", {"kunlun_ops.gate": ("logits", "out")})
LIMITS = Limits(64)
PHASES = (
    phase_entry(DECODE.key, (1, 2), {}),
    phase_entry(PREFILL.key, (16,), {"sequences": 2}),
)
FACTS = ArtifactFacts(
    dtype="float32",
    abi_profile="P-A",
    model=ModelFacts("toy-moe", "ToyForCausalLM", 3, 16, 8, 1, 1, 8, 1_400_000, 64, ()),
    cache=CacheSpec((CacheTensor("key", (1, 8), "float32", (0, 1, 2)),), 16, 4, LAYOUTS[0]),
    limits=LIMITS,
    guards=GUARDS,
    phases=PHASES,
    weight_bytes=4096,
)
SOURCE = "modeling_glm4_moe.py:283 forward"


def node(own: str, op: str, operands: tuple[str, ...] = (), **more: object) -> NodeHistory:
    """A node of a layer; its arguments are its operands."""
    made = NodeHistory(
        *(own, op, ", ".join(operands), operands, "[tokens, 8] float32"),
        *(own.partition("#")[0], SOURCE, (own,), ()),
    )
    return replace(made, **more)  # type: ignore[arg-type]


WEIGHT = node("mlp.gate.weight", "weight", source="")
SCORE = node("mlp.gate#linear", "aten.linear", ("previous:mlp#add", "mlp.gate.weight"))
SIGMOID = node("mlp.gate#sigmoid", "aten.sigmoid", ("mlp.gate#linear",))
PICKED = node("mlp.gate#topk", "aten.topk", ("mlp.gate#sigmoid",))
ADDED = node("mlp#add", "aten.add", ("mlp.gate#topk", "previous:mlp#add"))
GATE = node(
    "mlp.gate#topk",
    "glmc.moe_gate",
    ("previous:mlp#add", "mlp.gate.weight"),
    origins=("mlp.gate#topk", "mlp.gate#linear", "mlp.gate#sigmoid"),
    passes=("moe_gate",),
)
TOKENS = node("token_ids", "input", value="[tokens] int64", source="")
EMBEDDED = node("model.embed_tokens#embedding", "glmc.embedding", ("token_ids",))

BEFORE = (WEIGHT, SCORE, SIGMOID, PICKED, ADDED)
AFTER = (WEIGHT, GATE, ADDED)


def step(number: int, name: str, layer: tuple[NodeHistory, ...], **more: object) -> StepHistory:
    """A step over three layers, of which the last two read the same."""
    first = tuple(
        replace(one, operands=tuple(_first(each) for each in one.operands)) for one in layer
    )
    made = StepHistory(
        *(number, "fuse", name, f"{number:03d}_fuse_{name}", None, None, None, "stateless"),
        *(None, 2 + 3 * len(layer), (), None, (), ()),
        (
            BlockHistory(None, (), (TOKENS, EMBEDDED)),
            BlockHistory(0, (), first),
            BlockHistory(1, (2,), layer),
        ),
    )
    return replace(made, **more)  # type: ignore[arg-type]


def _first(operand: str) -> str:
    return EMBEDDED.id if operand.startswith("previous:") else operand


def call(function: str, arguments: str, of: NodeHistory, *writes: str) -> CallHistory:
    op = of.op.partition(".")[2]
    return CallHistory(
        *(function, arguments, writes, False, op, of.id, of.module, of.source),
        *(of.origins, of.passes, 64 if "logits" in arguments else 0, 128),
        ("[tokens, 4] bfloat16", "[tokens, 8] bfloat16"),
    )


def plan(phase: str) -> PlanHistory:
    calls = (
        call(
            "kunlun_ops.gate",
            "logits=previous:mlp#add, sizes=[8, 2], out=mlp.gate#topk",
            GATE,
            "out",
        ),
        call("aten.add", "x=mlp.gate#topk, out=mlp#add", ADDED, "out"),
    )
    outside = (call("aten.embedding", "ids=token_ids, out=embedded", EMBEDDED, "out"),)
    return PlanHistory(
        *(phase, 2, 2, "64*tokens", 128),
        (
            CallBlock(None, (), outside, ((0,),)),
            CallBlock(0, (), calls, ((1, 2),)),
            CallBlock(1, (2,), calls, ((3, 4), (5, 6))),
        ),
        tuple(
            BufferHistory(name, "float32", "[tokens, 8]", offset, start, 64, first, last)
            for name, offset, start, first, last in (
                ("model.embed_tokens#embedding", "0", 0, 0, 2),
                ("model.layers.0.mlp.gate#topk", "32*tokens", 64, 1, 2),
                ("model.layers.1.mlp.gate#topk", "32*tokens", 64, 3, 4),
                ("model.layers.2.mlp.gate#topk", "32*tokens", 64, 5, 6),
            )
        ),
        ((0, 4, True), (5, 6, False)),
        *(None, None),
    )


def history() -> History:
    """Capture, a pass without and one with matches, both phases, and their plans."""
    miss = MissHistory(
        *("model.layers.2.mlp.gate#topk", "model.layers.2.mlp.gate#sigmoid"),
        *("model.layers.2.mlp.gate", 2, "the scores have one reader", SOURCE, 3),
    )
    fused = step(
        2,
        "moe_gate",
        AFTER,
        numerics="bitwise",
        seconds=0.25,
        nodes_before=17,
        expected=3,
        matches=tuple(MatchHistory("mlp.gate#topk", layer) for layer in range(3)),
        near_misses=(miss,),
    )
    steps = (
        step(0, "capture", BEFORE, stage="capture"),
        step(1, "clean", BEFORE, numerics="bitwise", verdict="bitwise: equal on 6 inputs"),
        fused,
        step(3, "prefill", AFTER, stage="phase", phase="prefill"),
        step(4, "decode", AFTER, stage="phase", phase="decode"),
    )
    return History(
        *(FORMAT, "toy-moe", "xpu", "model.layers", {"glmc": "0.1.0"}, {"moe_gate": 3}),
        *(steps, (plan("prefill"), plan("decode"))),
    )
