"""Passes of a compile: the pipeline, a ``--pipeline`` file, ``--passes-on``, ``--passes-off``.

Every built-in pass runs unless it is switched off by name, be it in the file or by the flag; a
pass of another distribution runs only if it is named.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from glmc.config import CompileOptions
from glmc.errors import GlmcError, UsageError
from glmc.passes.base import Pass
from glmc.passes.specialise import PHASE_NAMES
from glmc.pipeline import stages
from glmc.pipeline.extensions import AddedPass, installed_passes, load_pass
from glmc.pipeline.names import unknown_pass
from glmc.pipeline.yaml_file import Named, PipelineFile, read_pipeline
from glmc_runtime.errors import ExtensionError

# Names that dumps and reports give to steps that are no pass.
STEPS = ("capture", *PHASE_NAMES, "lower", "match")


@dataclass(frozen=True)
class Selection:
    """``passes`` run in this order; ``off`` are the built-in ones that were switched off."""

    passes: tuple[Pass, ...]
    off: tuple[str, ...] = ()
    added: tuple[AddedPass, ...] = ()

    @property
    def uncounted(self) -> frozenset[str]:
        """Passes that a user's pass may take matches from."""
        return frozenset(name for each in self.added for name in each.extension.takes)

    def remarks(self) -> Iterator[str]:
        """What was asked for that shapes the plan, for whoever meets the artifact later."""
        if self.off:
            yield f"switched off: {', '.join(self.off)}"
        for each in self.added:
            yield f"pass {each.name} comes from {each.entry.distribution}"
        if self.uncounted:
            names = ", ".join(sorted(self.uncounted))
            yield f"matches of {names} are not counted: an added pass may take them"


@dataclass(frozen=True)
class Selector:
    """``pipeline`` is glmc's order; ``fixed`` says of some steps why none of them can be left
    out."""

    pipeline: tuple[Pass, ...]
    fixed: Mapping[str, str]

    def select(self, options: CompileOptions) -> Selection:
        """Raises UsageError for names and files, ExtensionError for a pass that can't be used."""
        file = read_pipeline(options.pipeline) if options.pipeline is not None else None
        if file is not None or options.passes_on:
            self._require_own_names()
        order, off = self._listed(file)
        loaded: dict[str, AddedPass] = {}
        for named in order:
            if named.name not in self._own:
                loaded[named.name] = self._load(named)
        names = [named.name for named in order]
        for name in options.passes_on:
            named = Named(name, "--passes-on")
            if name in options.passes_off:
                raise _contradiction(f"'{name}' is switched on and off", "--passes-on")
            if name in names:
                raise _contradiction(f"'{name}' runs already", "--passes-on")
            loaded[name] = self._load(named)
            self._insert(names, loaded)
        off |= self._switched_off(options.passes_off)
        bodies: dict[str, Pass] = {each.name: each for each in self.pipeline}
        bodies |= {name: each.extension.body for name, each in loaded.items()}
        running = [name for name in names if name not in off]
        return Selection(
            tuple(bodies[name] for name in running),
            tuple(name for name in self._own if name in off),
            tuple(loaded[name] for name in running if name in loaded),
        )

    @property
    def _own(self) -> tuple[str, ...]:
        return tuple(each.name for each in self.pipeline)

    @property
    def _reserved(self) -> tuple[str, ...]:
        return (*dict.fromkeys((*self._own, *self.fixed, *STEPS)),)

    def _require_own_names(self) -> None:
        """A name in the file or after --passes-on must mean one pass."""
        for name in set(installed_passes()) & set(self._reserved):
            load_pass(name, self._reserved)

    def _listed(self, file: PipelineFile | None) -> tuple[list[Named], set[str]]:
        """The order of the file, or the pipeline's, and what the file switches off."""
        pipeline = [Named(name, "the pipeline") for name in self._own]
        if file is None:
            return pipeline, set()
        off = {each.name for each in file.off}
        for each in file.off:
            self._require_droppable(each)
        if file.passes is None:
            return pipeline, off
        listed = {each.name for each in file.passes}
        for each in file.passes:
            if each.name in self.fixed and each.name not in self._own:
                raise UsageError(
                    f"'{each.name}' always runs last; remove it from 'passes'",
                    place=each.place,
                    expected=", ".join(self._own),
                    remedy="list the passes before it only",
                )
            if each.name in off:
                raise _contradiction(f"'{each.name}' is in 'passes' and in 'off'", each.place)
        forgotten = [name for name in self._own if name not in listed | off]
        if forgotten:
            raise UsageError(
                "the pipeline file must list or disable every built-in pass",
                place=file.path,
                expected="every pass of glmc in 'passes' or in 'off'",
                found=f"neither has {', '.join(forgotten)}",
                remedy="put them where they should run, or into 'off'",
            )
        return list(file.passes), off

    def _load(self, named: Named) -> AddedPass:
        if named.name in self._own or named.name in self.fixed:
            raise _contradiction(f"'{named.name}' is glmc's own and runs already", named.place)
        extension = load_pass(named.name, self._reserved)
        if extension is None:
            raise self._unknown(named)
        self._require_neighbours(extension)
        return extension

    def _require_neighbours(self, extension: AddedPass) -> None:
        known = (*self._own, *installed_passes())
        sides = (extension.extension.after, extension.extension.before, *extension.extension.takes)
        for name in sides:
            if name is not None and name not in known:
                raise ExtensionError(
                    f"'{extension.name}' refers to a pass that it can't stand by",
                    place=extension.entry.place,
                    expected=", ".join(known),
                    found=name,
                )

    def _insert(self, names: list[str], loaded: Mapping[str, AddedPass]) -> None:
        """Put the pass that was loaded last where it wants to stand."""
        added = loaded[list(loaded)[-1]]
        after, before = added.extension.after, added.extension.before
        for side in (after, before):
            if side is not None and side not in names:
                raise ExtensionError(
                    f"'{added.name}' must run beside '{side}', which is not in the list",
                    place=added.entry.place,
                    expected=", ".join(names),
                    remedy="name it in the 'passes' of the --pipeline file, in its place",
                )
        place = len(names) if before is None else names.index(before)
        if after is not None:
            first = names.index(after)
            place = first + 1
            # After those that were put here before, and those that stand after these.
            while place < len(names) and _after(loaded.get(names[place])) in names[first:place]:
                place += 1
        if before is not None and place > names.index(before):
            raise ExtensionError(
                f"'{added.name}' wants to stand after '{after}' and before '{before}'",
                place=added.entry.place,
                expected=", ".join(names),
                remedy="name it in the 'passes' of the --pipeline file, in its place",
            )
        names.insert(place, added.name)

    def _switched_off(self, names: tuple[str, ...]) -> set[str]:
        for name in names:
            self._require_droppable(Named(name, "--passes-off"))
        return set(names)

    def _require_droppable(self, named: Named) -> None:
        reason = self.fixed.get(named.name)
        if reason is not None:
            raise UsageError(
                f"'{named.name}' can't be switched off: {reason}",
                place=named.place,
                expected=", ".join(name for name in self._own if name not in self.fixed),
                remedy="switch off a fusion",
            )
        if named.name not in self._own and named.name not in installed_passes():
            raise self._unknown(named)

    def _unknown(self, named: Named) -> GlmcError:
        return unknown_pass(named.name, named.place, (*self._own, *installed_passes()))


def selection(options: CompileOptions) -> Selection:
    """What these options choose; raises UsageError and ExtensionError."""
    return Selector(stages.PASSES, stages.FIXED).select(options)


def _after(extension: AddedPass | None) -> str | None:
    return None if extension is None else extension.extension.after


def _contradiction(message: str, place: str) -> UsageError:
    return UsageError(message, place=place, remedy="name it once")
