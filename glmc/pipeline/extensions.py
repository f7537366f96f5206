"""Passes of other installed distributions: how they register and what they must be.

A pass joins through an entry point of the group ``glmc.passes``. It does not run because it is
installed: it runs when ``--passes-on`` or ``--pipeline`` names it, and is not imported otherwise. A
command so says all that shapes its artifact, and a broken package breaks nobody else's compile.
"""

from __future__ import annotations

import operator
from collections.abc import Mapping
from dataclasses import dataclass, field, replace

import torch
from torch.fx import Graph

from glmc.backends.installed import are_rules
from glmc.ir.ops import Numerics, semantic_op
from glmc.lowering.target import Rule, Target
from glmc.passes.base import Pass
from glmc_runtime.errors import ExtensionError
from glmc_runtime.package.entry_points import Entry, entries, find

PASSES = "glmc.passes"


@dataclass(frozen=True)
class PassExtension:
    """What an entry point of ``glmc.passes`` gives: a pass, its place and how its ops are lowered.

    ``after`` and ``before`` name passes; with neither, the pass runs after all others.
    ``rules`` maps a target's name to rules for ops that the target doesn't know. ``takes`` names
    passes whose matches it may take away, so that their counts are not held against the model's.
    """

    body: Pass
    after: str | None = None
    before: str | None = None
    rules: Mapping[str, Mapping[str, Rule]] = field(default_factory=dict)
    takes: tuple[str, ...] = ()

    @property
    def name(self) -> str:
        return self.body.name


@dataclass(frozen=True)
class AddedPass:
    """A pass extension and where it came from."""

    extension: PassExtension
    entry: Entry

    @property
    def name(self) -> str:
        return self.entry.name


def installed_passes() -> tuple[str, ...]:
    """Names of the passes that installed distributions bring; nothing is imported."""
    return tuple(entries(PASSES))


def load_pass(name: str, reserved: tuple[str, ...]) -> AddedPass | None:
    """The installed pass of that name, or None; raises ExtensionError for one that can't be used.

    ``reserved`` are the names that glmc's own steps have.
    """
    entry = find(PASSES, name, reserved)
    if entry is None:
        return None
    loaded = entry.load()
    extension = loaded if isinstance(loaded, PassExtension) else PassExtension(loaded)
    for problem, expected in _problems(extension, entry):
        raise ExtensionError(
            f"'{name}' can't be used as a pass: {problem}", place=entry.place, expected=expected
        )
    return AddedPass(extension, entry)


def _problems(extension: PassExtension, entry: Entry) -> list[tuple[str, str]]:
    """(what is wrong, what is expected) of an object that should be a pass."""
    body, problems = extension.body, []
    if not callable(getattr(body, "run", None)) or isinstance(body, type):
        kind = body.__name__ if isinstance(body, type) else type(body).__name__
        return [(f"{kind} is no pass", "an AnchorPass, or an object with name, numerics and run")]
    if getattr(body, "name", None) != entry.name:
        name = getattr(body, "name", None)
        problems.append((f"its name is {name!r}", f"'{entry.name}', the name of the entry point"))
    if not isinstance(getattr(body, "numerics", None), Numerics):
        numerics = getattr(body, "numerics", None)
        problems.append((f"its numerics class is {numerics!r}", "a member of glmc.ir.ops.Numerics"))
    for side in (extension.after, extension.before):
        if side is not None and not isinstance(side, str):
            wrong = f"'after' and 'before' must be pass names, not {side!r}"
            problems.append((wrong, "the name of a pass, or None"))
    names = isinstance(extension.takes, tuple)
    if not names or not all(isinstance(taken, str) for taken in extension.takes):
        problems.append((f"it takes {extension.takes!r}", "a tuple of names of passes"))
    if not are_rules(extension.rules):
        problems.append(("its rules are no rules", "{target: {op: function(op, emit)}}"))
    return problems


def with_rules(target: Target, added: tuple[AddedPass, ...]) -> Target:
    """``target`` with the rules that added passes bring; raises ExtensionError for a rule that
    is there already."""
    rules: dict[str, Rule] = dict(target.rules)
    for extension in added:
        for op, rule in extension.extension.rules.get(target.name, {}).items():
            if op in rules:
                raise ExtensionError(
                    f"'{extension.name}' brings a rule that {target.name} already has",
                    place=extension.entry.place,
                    expected="rules for ops of its own",
                    found=op,
                )
            rules[op] = rule
    return replace(target, rules=rules) if added else target


def targets_of(graph: Graph) -> set[object]:
    """What the nodes of a graph call."""
    return {node.target for node in graph.nodes if node.op == "call_function"}


def require_references(name: str, graph: Graph, before: set[object]) -> None:
    """Raise ExtensionError if the pass ``name`` made calls without a reference implementation.

    ATen's own are their reference; ``glmc::`` ops have one when ``define`` made them.
    """
    for made in targets_of(graph) - before:
        aten = isinstance(made, torch._ops.OpOverload) and made.namespace == "aten"
        if aten or made is operator.getitem or semantic_op(made) is not None:
            continue
        raise ExtensionError(
            f"pass '{name}' put a call without a reference implementation into the graph",
            place=name,
            expected="aten ops, and ops made by glmc.ir.ops.registry.define",
            found=str(made),
        )
