"""A small history by hand: two steps, three layers of which two are alike, one plan."""

from __future__ import annotations

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

SOURCE = "modeling_glm4_moe.py:40 forward"


def node(own: str, op: str, operands: tuple[str, ...] = (), **more: tuple[str, ...]) -> NodeHistory:
    return NodeHistory(
        own,
        op,
        ", ".join(operands),
        operands,
        "[batch, length, 64] bfloat16",
        "",
        SOURCE,
        more.get("origins", (own,)),
        more.get("passes", ()),
    )


def step(number: int, name: str, *blocks: BlockHistory, **more: object) -> StepHistory:
    fields: dict[str, object] = {
        "numerics": None,
        "verdict": None,
        "seconds": 0.25,
        "nodes_before": None,
        "anchors": (),
        "expected": None,
        "matches": (),
        "near_misses": (),
        **more,
    }
    count = sum(len(block.nodes) * (1 + len(block.like)) for block in blocks)
    label = f"{number:03d}_{name}"
    return StepHistory(
        number, "fuse", name, label, phase="stateless", nodes_after=count, blocks=blocks, **fields
    )


def history() -> History:
    outside = BlockHistory(None, (), (node("model.embed_tokens#embedding", "glmc.embedding"),))
    power = node("norm#pow", "aten.pow", ("model.embed_tokens#embedding",))
    before = BlockHistory(
        0, (1,), (power, node("norm#mul", "aten.mul", ("norm#pow",)), node("#add", "aten.add"))
    )
    odd = BlockHistory(2, (), (power, node("#add", "aten.add")))
    norm = node(
        "norm#mul",
        "glmc.rms_norm",
        ("model.embed_tokens#embedding",),
        origins=("norm#pow", "norm#mul"),
        passes=("rms_norm",),
    )
    miss = MissHistory(
        "model.layers.2.norm#pow",
        "model.layers.2.norm#pow",
        "model.layers.2.norm",
        2,
        "expected one user but found 0",
        SOURCE,
        12,
    )
    call = CallHistory(
        *("cpu.rms_norm", "x=token_ids, out*=norm#mul", ("out",), False, "rms_norm", "norm#mul"),
        *("norm", SOURCE, ("norm#pow", "norm#mul"), ("rms_norm",)),
    )
    return History(
        FORMAT,
        "toy",
        "cpu",
        "model.layers",
        {"glmc": "0"},
        {"rms_norm": 3},
        (
            step(0, "capture", outside, before, odd),
            step(
                1,
                "rms_norm",
                outside,
                BlockHistory(0, (1,), (norm, before.nodes[2])),
                odd,
                numerics="bitwise",
                anchors=("aten.pow",),
                expected=3,
                nodes_before=9,
                matches=(MatchHistory("norm#pow", 0), MatchHistory("norm#pow", 1)),
                near_misses=(miss,),
            ),
        ),
        (
            PlanHistory(
                "decode",
                8,
                8,
                "128*tokens",
                1024,
                (CallBlock(0, (1,), (call,), ((0,), (1,))),),
                (
                    BufferHistory(
                        "model.layers.0.norm#mul", "bfloat16", "tokens, 64", "0", 0, 1024, 0, 1
                    ),
                ),
                ((0, 1, True),),
            ),
        ),
    )
