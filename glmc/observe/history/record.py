"""The history of a compile: every step with its nodes, and the kernel calls that came of them.

Plain data, kept in the artifact as ``history.json`` (glmc/observe/history/encode.py), so that
nothing has to be compiled again to answer who did what. Layers that read the same are held once: a
block has the ``layer`` that it was taken from and the later layers ``like`` it. Ids in a block are
relative to its layer, as glmc/observe/dump/blocks.py writes them: ``mlp.gate#topk``,
``previous:mlp#add``; whole outside the layers. glmc/observe/history/ids.py finds a node by such an
id and gives the whole one.
"""

from __future__ import annotations

from dataclasses import dataclass

FORMAT = 4
REPLAY = "replayed plan"
"""The name of the verdict that a replay of the plans gave."""


@dataclass(frozen=True)
class NodeHistory:
    """One node as a step left it.

    ``arguments`` is the text of all arguments, ``operands`` the nodes among them, ``value`` shape
    and dtype. ``source`` is a line of the model's file ('' where there is none). ``origins`` are
    the ids at capture that the node came from, ``passes`` those that made or changed it.
    """

    id: str
    op: str
    arguments: str
    operands: tuple[str, ...]
    value: str
    module: str
    source: str
    origins: tuple[str, ...]
    passes: tuple[str, ...]


@dataclass(frozen=True)
class BlockHistory:
    """A layer, or what is outside the layers (``layer`` None)."""

    layer: int | None
    like: tuple[int, ...]
    nodes: tuple[NodeHistory, ...]


@dataclass(frozen=True)
class MatchHistory:
    """One rewrite that a pass did, by the id of its anchor, relative to ``layer``."""

    id: str
    layer: int | None


@dataclass(frozen=True)
class MissHistory:
    """What a pass almost did. ``anchor`` and ``node`` are whole ids, ``source`` as in a node.

    ``held`` counts the conditions that held before ``condition`` failed: the most is the nearest.
    """

    anchor: str
    node: str
    module: str
    layer: int | None
    condition: str
    source: str
    held: int


@dataclass(frozen=True)
class StepHistory:
    """One step: a pass, ``capture``, or a phase (``prefill``, ``decode``) of its own shapes.

    ``label`` is ``007_fuse_rope``; ``numerics`` and ``verdict`` are None where nothing is claimed
    or proved; ``seconds`` is wall time, of which ``history.json`` has none (times.py). ``anchors``
    are the ops where the pass starts to look, empty for a pass that looks at all nodes.
    ``expected`` is the number of matches that the model must have.
    """

    number: int
    stage: str
    name: str
    label: str
    numerics: str | None
    verdict: str | None
    seconds: float | None
    phase: str
    nodes_before: int | None
    nodes_after: int
    anchors: tuple[str, ...]
    expected: int | None
    matches: tuple[MatchHistory, ...]
    near_misses: tuple[MissHistory, ...]
    blocks: tuple[BlockHistory, ...]


@dataclass(frozen=True)
class CallHistory:
    """One kernel call. ``writes`` are arguments, ``host`` keeps it out of device graphs.

    ``node``, ``origins``, ``passes``, ``module`` and ``source`` are those of the node that it was
    lowered from, ``op`` is its semantic op. ``weight_bytes`` and ``buffer_bytes`` are those of the
    weights and of the arena's buffers that it names, each once, at the largest bucket. ``operands``
    are what the op is computed of, in the order of its arguments, a tensor as shape and dtype; of
    what is no semantic op the results, too.
    """

    function: str
    arguments: str
    writes: tuple[str, ...]
    host: bool
    op: str
    node: str
    module: str
    source: str
    origins: tuple[str, ...]
    passes: tuple[str, ...]
    weight_bytes: int
    buffer_bytes: int
    operands: tuple[str, ...]


@dataclass(frozen=True)
class CallBlock:
    """The calls of a layer; ``indices`` has their places in the plan, for the layer itself first
    and then for each of ``like``."""

    layer: int | None
    like: tuple[int, ...]
    calls: tuple[CallHistory, ...]
    indices: tuple[tuple[int, ...], ...]


@dataclass(frozen=True)
class BufferHistory:
    """A buffer of the arena: ``shape`` and ``offset`` (bytes) follow the step, as text.

    ``start`` and ``bytes`` are numbers at the largest bucket; calls ``first`` to ``last`` use it.
    ``name`` is a whole id.
    """

    name: str
    dtype: str
    shape: str
    offset: str
    start: int
    bytes: int
    first: int
    last: int


@dataclass(frozen=True)
class PlanHistory:
    """The plan of a phase. ``tokens`` and ``sequences`` are the largest bucket's, where the arena
    takes ``arena_bytes``; ``arena`` is the same for every bucket, as text.

    ``segments`` are (first call, last call, captured as a device graph). ``verdict`` is that of a
    replay of the plans, None where none was done; ``seconds`` are those of the lowering, as in a
    step.
    """

    phase: str
    tokens: int
    sequences: int
    arena: str
    arena_bytes: int
    blocks: tuple[CallBlock, ...]
    buffers: tuple[BufferHistory, ...]
    segments: tuple[tuple[int, int, bool], ...]
    verdict: str | None
    seconds: float | None


@dataclass(frozen=True)
class History:
    """A compile. ``target`` is '' and ``plans`` is empty when only the front end ran.

    ``prefix`` stands before a layer's number in whole ids, such as ``model.layers``.
    """

    format: int
    model: str
    target: str
    prefix: str
    versions: dict[str, str]
    expected_matches: dict[str, int]
    steps: tuple[StepHistory, ...]
    plans: tuple[PlanHistory, ...]
