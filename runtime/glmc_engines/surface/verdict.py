"""Whether a release has what a row asks for, and what changed between two releases."""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Literal

from glmc_engines.surface.bindings import Value
from glmc_engines.surface.constructor import constructor
from glmc_engines.surface.lookup import Class, Lookup, Member, Missing, Module, Thing
from glmc_engines.surface.signature import Signature
from glmc_engines.surface.uses import Use

State = Literal["there", "unknown", "missing", "moved", "other kind", "other signature"]
_MOST_PLACES = 3


@dataclass(frozen=True)
class Verdict:
    """One row in one release, ``unknown`` where it is a member of something that is of no class of
    the release.

    ``home`` is where the name is defined, ``text`` the annotation or value of what is no function,
    and ``reason`` says why it does not fit.
    """

    use: Use
    state: State
    kind: str = ""
    home: str = ""
    signature: Signature | None = None
    text: str = ""
    reason: str = ""

    @property
    def shown(self) -> str:
        """Its signature or its text."""
        return self.text if self.signature is None else str(self.signature)

    @property
    def fits(self) -> bool:
        return self.state in ("there", "unknown")


@dataclass(frozen=True)
class Change:
    """A row whose name is not what it was."""

    name: str
    what: str


def judge(lookup: Lookup, uses: Iterable[Use]) -> list[Verdict]:
    """Every row in turn."""
    return [_judge(lookup, use) for use in uses]


def lacking(verdicts: Sequence[Verdict]) -> list[Verdict]:
    """The rows without which the adapter can't work."""
    served = {each.use.either for each in verdicts if each.use.either and each.fits}
    return [
        each
        for each in verdicts
        if not each.fits and not each.use.optional and each.use.either not in served
    ]


def changes(old: Sequence[Verdict], new: Sequence[Verdict]) -> list[Change]:
    """What became of the same rows from one release to another."""
    found = []
    for before, after in zip(old, new, strict=True):
        what = _change(before, after)
        if what:
            found.append(Change(after.use.name, what))
    return found


def _judge(lookup: Lookup, use: Use) -> Verdict:
    thing = lookup.find(use.name)
    if isinstance(thing, Missing):
        if lookup.is_foreign(thing.reached):
            return Verdict(use, "unknown", reason=f"{thing.rest[0]} is a member of no class here")
        places = _elsewhere(lookup, use, thing)
        if places:
            return Verdict(use, "moved", reason=f"is now {' or '.join(places)}")
        return Verdict(use, "missing", reason=_nearest(lookup, thing))
    kind, signature = _kind(thing), _signature(lookup, thing)
    text = _annotation(thing)
    if not _is(use.kind, kind, thing):
        reason = f"is {_article(kind)}, not {_article(use.kind)}"
        return Verdict(use, "other kind", kind, thing.home, signature, text, reason)
    reason = _unfit(use, signature)
    state: State = "other signature" if reason else "there"
    return Verdict(use, state, kind, thing.home, signature, text, reason)


def _article(kind: str) -> str:
    return f"an {kind}" if kind == "attribute" else f"a {kind}"


def _kind(thing: Thing) -> str:
    if isinstance(thing, Module):
        return "module"
    if isinstance(thing, Class):
        return "class"
    if thing.is_attribute:
        return "attribute"
    return "function" if thing.owner is None else "method"


def _is(asked: str, kind: str, thing: Thing) -> bool:
    if asked in ("any", kind):
        return True
    # A name that another distribution gives may be anything.
    outside = isinstance(thing, Member) and isinstance(thing.bound, Value) and not thing.bound.line
    return outside or (asked in ("function", "method") and kind in ("function", "method"))


def _signature(lookup: Lookup, thing: Thing) -> Signature | None:
    if isinstance(thing, Class):
        return constructor(lookup, thing)
    return thing.signature() if isinstance(thing, Member) else None


def _annotation(thing: Thing) -> str:
    if not isinstance(thing, Member) or not thing.is_attribute:
        return ""
    if isinstance(thing.bound, Value):
        return thing.bound.text
    return "property"


def _unfit(use: Use, signature: Signature | None) -> str:
    if use.parameters is None:
        return ""
    if signature is None:
        return "has no signature in the sources"
    return signature.differs(use.parameters) if use.override else signature.refuses(use.parameters)


def _elsewhere(lookup: Lookup, use: Use, missing: Missing) -> list[str]:
    """Where else in the release the name, or its class, is defined."""
    if isinstance(missing.reached, (Class, Member)):
        return []
    if use.kind == "module":
        last = use.name.rpartition(".")[2]
        named = [name for name, _ in lookup.sources.release.modules() if name != use.name]
        return [name for name in named if name.rpartition(".")[2] == last][:_MOST_PLACES]
    for start in range(len(missing.rest)):
        head, tail = missing.rest[start], missing.rest[start + 1 :]
        homes: list[str] = []
        for module, _ in lookup.sources.defining(head):
            thing = lookup.follow(Module(module), (head, *tail))
            # An import of it leads to the same home as the definition.
            if not isinstance(thing, Missing) and thing.home not in homes:
                homes.append(thing.home)
        own = [home for home in homes if home.endswith(missing.rest[-1])]
        if own:
            return own[:_MOST_PLACES]
    return []


def _nearest(lookup: Lookup, missing: Missing) -> str:
    """The module or class that lacks it, and the names there that are like it."""
    if missing.reached is None:
        return "is of another package"
    names: set[str] = set()
    if isinstance(missing.reached, Class):
        names = lookup.names(missing.reached)
    elif isinstance(missing.reached, Module):
        scope = lookup.sources.scope(missing.reached.name)
        names = set(scope.names) if scope is not None else set()
    near = difflib.get_close_matches(missing.rest[0], sorted(names), n=2, cutoff=0.75)
    like = f", which has {', '.join(near)}" if near else ""
    return f"{missing.rest[0]} is not in {missing.reached.home}{like}"


def _change(before: Verdict, after: Verdict) -> str:
    if before.home and not after.home:
        return f"gone: {after.reason}"
    if after.home and not before.home:
        return "new"
    if not before.home:
        return ""
    parts = []
    if before.home != after.home:
        parts.append(f"moved: {before.home} -> {after.home}")
    if before.kind != after.kind:
        parts.append(f"kind: {before.kind} -> {after.kind}")
    if before.signature is not None and after.signature is not None:
        changed = after.signature.changed(before.signature)
        parts += [f"signature: {changed}"] if changed else []
    elif before.shown != after.shown:
        parts.append(f"{before.shown or 'none'} -> {after.shown or 'none'}")
    return "; ".join(parts)
