"""``manifest.json``: what an artifact is, what it needs, and the hash of each of its files.

Layout of an artifact directory::

    manifest.json
    plans/prefill.json  plans/decode.json  ...    a file for each of ``phases``
    weights/*.safetensors           names and shapes as in ``weights`` below; of several ranks
    weights/rank-N/*.safetensors    each has a folder
    weights/recipes.json            how others are made of a checkpoint (may be absent)
    tokenizer/                      tokenizer.json, tokenizer_config.json, ... (may be absent)
    report.json                     what the compiler did; not read by the runtime
    times.json                      how long it took; neither listed nor read (may be absent)
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

from glmc_runtime.errors import ArtifactError, PlanError
from glmc_runtime.format.cache import CacheSpec, CacheTensor, impossible
from glmc_runtime.format.extent import Extent
from glmc_runtime.format.phases import DECODE, PHASES, PREFILL, PhaseKey, phase_of
from glmc_runtime.format.records import misfit

FORMAT = "glmc-artifact"
SCHEMA_VERSION = 5
MOST_RANKS = 1024
PROMISES = ("batch", "ranks")
"""What bits do not depend on: the rest of a batch; that and the number of ranks."""


@dataclass(frozen=True)
class ModelFacts:
    """What the runtime must know of the model; ``maximum_positions`` is the published limit."""

    name: str
    architecture: str
    layers: int
    vocabulary: int
    hidden: int
    query_heads: int
    kv_heads: int
    head_dim: int
    parameters: int
    maximum_positions: int
    eos_token_ids: tuple[int, ...]


@dataclass(frozen=True)
class Limits:
    """``max_context`` is the longest sequence in tokens."""

    max_context: int


@dataclass(frozen=True)
class CollectiveCalls:
    """The calls of one collective in a step of ``phase``: ``calls`` times ``function`` with
    messages of ``dtype``, each of ``message`` bytes on a rank, such as ``"8192*tokens"``."""

    phase: str
    function: str
    dtype: str
    message: str
    calls: int


@dataclass(frozen=True)
class Ranks:
    """The ``count`` devices that one model is dealt to, each run by a process, in one group.

    With ``expert_parallel`` each has some of the experts whole, else a part of each expert.
    ``collectives`` are what they tell each other in a step.
    """

    count: int = 1
    expert_parallel: bool = False
    collectives: tuple[CollectiveCalls, ...] = ()


ONE_RANK = Ranks()


@dataclass(frozen=True)
class PhaseEntry:
    """A plan of the artifact: its ``phase``, and the ``ranks`` that run it, ascending. Ranks whose
    plans are equal share one.

    ``buckets`` are values of the phase's bucket symbol, ascending; the last is the largest step.
    ``largest`` has the largest value of each symbol: memory is laid out for it.
    """

    phase: str
    ranks: tuple[int, ...]
    buckets: tuple[int, ...]
    largest: dict[str, int]

    @property
    def key(self) -> PhaseKey:
        """The key of the plan: that of the first of its ranks."""
        return PhaseKey(self.phase, self.ranks[0])


@dataclass(frozen=True)
class WeightEntry:
    """``files``, one for each rank, are relative to the artifact; each holds that rank's tensor
    under the entry's name. ``dtype`` and ``shape`` are the same on all ranks."""

    files: tuple[str, ...]
    dtype: str
    shape: tuple[int, ...]


@dataclass(frozen=True)
class FileEntry:
    sha256: str
    size: int


@dataclass(frozen=True)
class Guards:
    """What must hold where the artifact is loaded.

    ``minimum_torch`` and ``minimum_runtime`` are dotted versions. ``vendor_functions`` maps each
    vendor function that a plan calls to the keywords it is called with: the installed library
    must accept them all.
    """

    minimum_runtime: str
    minimum_torch: str
    target: str
    vendor_functions: dict[str, tuple[str, ...]] = field(default_factory=dict)


@dataclass(frozen=True)
class Manifest:
    """``target`` is cpu, xpu or cuda. ``weights_included`` is False for a compile without weights:
    such an artifact can be inspected but not run. ``abi_profile`` is P-A, P-B or P-C on xpu.
    ``deterministic`` is the promise that was asked for, one of ``PROMISES``."""

    target: str
    dtype: str
    abi_profile: str | None
    versions: dict[str, str]
    model: ModelFacts
    cache: CacheSpec
    limits: Limits
    guards: Guards
    weights: dict[str, WeightEntry]
    weights_included: bool
    files: dict[str, FileEntry]
    phases: tuple[PhaseEntry, ...]
    ranks: Ranks = ONE_RANK
    deterministic: str | None = None

    def phases_of(self, rank: int) -> dict[PhaseKey, PhaseEntry]:
        """The entries of the plans that a rank runs, by phase alone: a process has one rank."""
        return {PhaseKey(entry.phase): entry for entry in self.phases if rank in entry.ranks}

    def files_of_others(self, rank: int) -> set[str]:
        """Files that other ranks alone read."""
        entries = self.weights.values()
        mine = {entry.files[rank] for entry in entries}
        return {file for entry in entries for file in entry.files} - mine

    def phase(self, key: PhaseKey) -> PhaseEntry:
        """The entry of a plan; raises :class:`ArtifactError` for one that is not there."""
        found = (each for each in self.phases if each.phase == key.phase and key.rank in each.ranks)
        entry = next(found, None)
        if entry is None:
            names = ", ".join(str(entry.key) for entry in self.phases)
            raise ArtifactError(f"the artifact has no phase '{key}'", found=names)
        return entry


def phase_entry(
    key: PhaseKey, buckets: tuple[int, ...], most: Mapping[str, int], ranks: int = 1
) -> PhaseEntry:
    """The entry of a plan for these buckets, run by as many ``ranks`` from the key's on; ``most``
    has bounds of other symbols."""
    largest = phase_of(key.phase).largest(buckets[-1], most)
    return PhaseEntry(key.phase, tuple(range(key.rank, key.rank + ranks)), buckets, largest)


def manifest_to_json(manifest: Manifest) -> dict[str, Any]:
    """The manifest as JSON data; :func:`manifest_from_json` reads it back to an equal value."""
    return {"format": FORMAT, "schema_version": SCHEMA_VERSION, **asdict(manifest)}


def manifest_from_json(data: Any) -> Manifest:
    """Read a manifest; raises :class:`ArtifactError` for another format, a lost field, or one that
    holds something else than its annotation says."""
    if not isinstance(data, dict) or data.get("format") != FORMAT:
        raise ArtifactError(
            "this is no glmc artifact",
            expected=f"format '{FORMAT}' in manifest.json",
            found=repr(data.get("format") if isinstance(data, dict) else type(data).__name__),
            remedy="pass a directory written by 'glmc compile'",
        )
    if data.get("schema_version") != SCHEMA_VERSION:
        raise ArtifactError(
            "the artifact has another schema version",
            expected=str(SCHEMA_VERSION),
            found=str(data.get("schema_version")),
            remedy="make it anew with this runtime's glmc: glmc compile MODEL --output DIR",
        )
    try:
        model, cache, limits, guards = (
            data["model"],
            data["cache"],
            data["limits"],
            data["guards"],
        )
        manifest = Manifest(
            target=data["target"],
            dtype=data["dtype"],
            abi_profile=data["abi_profile"],
            versions=dict(data["versions"]),
            model=ModelFacts(**{**model, "eos_token_ids": tuple(model["eos_token_ids"])}),
            cache=CacheSpec(**{**cache, "tensors": tuple(map(_cache_tensor, cache["tensors"]))}),
            limits=Limits(**limits),
            guards=Guards(
                **{
                    **guards,
                    "vendor_functions": {
                        name: tuple(keywords)
                        for name, keywords in guards["vendor_functions"].items()
                    },
                }
            ),
            weights={
                name: WeightEntry(tuple(item["files"]), item["dtype"], tuple(item["shape"]))
                for name, item in data["weights"].items()
            },
            weights_included=data["weights_included"],
            files={name: FileEntry(**item) for name, item in data["files"].items()},
            phases=tuple(map(_phase_entry, data["phases"])),
            ranks=_ranks(data["ranks"]),
            deterministic=data["deterministic"],
        )
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise _not_well_formed(repr(error)) from error
    problem = misfit(manifest, Manifest, "manifest") or _impossible(manifest)
    if problem is not None:
        raise _not_well_formed(problem)
    return manifest


def _cache_tensor(data: Any) -> CacheTensor:
    return CacheTensor(**{**data, "shape": tuple(data["shape"]), "layers": tuple(data["layers"])})


def _phase_entry(data: Any) -> PhaseEntry:
    lists = {name: tuple(data[name]) for name in ("buckets", "ranks")}
    return PhaseEntry(**{**data, **lists})


def _ranks(data: Any) -> Ranks:
    calls = tuple(CollectiveCalls(**each) for each in data["collectives"])
    return Ranks(**{**data, "collectives": calls})


def _impossible(manifest: Manifest) -> str | None:
    """A size that divides or multiplies something later must be at least 1, and some bucket the
    largest. The target says which kernels may be named, and that of the guards where they run."""
    if manifest.target != manifest.guards.target:
        return f"target is {manifest.target!r}, and guards.target is {manifest.guards.target!r}"
    if manifest.deterministic is not None and manifest.deterministic not in PROMISES:
        return f"deterministic is {manifest.deterministic!r:.80}, and none of {', '.join(PROMISES)}"
    sizes = {
        "limits.max_context": manifest.limits.max_context,
        "model.vocabulary": manifest.model.vocabulary,
    }
    problem = next((f"{name} is {size}" for name, size in sizes.items() if size < 1), None)
    return (
        problem
        or impossible(manifest.cache)
        or _impossible_ranks(manifest)
        or _impossible_phases(manifest.phases, manifest.ranks.count)
    )


def _impossible_ranks(manifest: Manifest) -> str | None:
    """Each rank has a file of each weight, and what is said in a step is of a known phase."""
    count = manifest.ranks.count
    if not 1 <= count <= MOST_RANKS:
        return f"ranks.count is {count}"
    for name, entry in manifest.weights.items():
        if len(entry.files) != count:
            return f"weights.{name}.files is of {len(entry.files)} ranks, and ranks.count {count}"
    for number, each in enumerate(manifest.ranks.collectives):
        place = f"ranks.collectives[{number}]"
        if each.phase not in PHASES:
            return f"{place}.phase is {each.phase!r}, and none of {', '.join(PHASES)}"
        if each.calls < 1:
            return f"{place}.calls is {each.calls}"
        try:
            Extent.parse(each.message, PHASES[each.phase].symbols)
        except PlanError as error:
            return f"{place}.message is {each.message!r}: {error}"
    return None


def _impossible_phases(entries: tuple[PhaseEntry, ...], count: int) -> str | None:
    """Buckets ascend, the largest step is one of the phase, and all ranks run the same phases."""
    seen: dict[PhaseKey, PhaseEntry] = {}
    for number, entry in enumerate(entries):
        place, buckets = f"phases[{number}]", entry.buckets
        if not buckets or buckets[0] < 1 or list(buckets) != sorted(set(buckets)):
            return f"{place}.buckets is {str(buckets)[:80]}, and not ascending from 1"
        if entry.phase not in PHASES:
            return f"{place}.phase is {entry.phase!r}, and none of {', '.join(PHASES)}"
        phase = PHASES[entry.phase]
        whole = set(entry.largest) == set(phase.symbols) and phase.allows(entry.largest)
        if not whole or entry.largest[phase.bucket] != buckets[-1]:
            largest = str(entry.largest)[:80]
            return f"{place}.largest is {largest}, and no largest step of {entry.phase}"
        ranks = entry.ranks
        if not ranks or list(ranks) != sorted(set(ranks)) or ranks[0] < 0 or ranks[-1] >= count:
            return f"{place}.ranks is {str(ranks)[:80]}, and not ascending within {count} ranks"
        for key in (PhaseKey(entry.phase, rank) for rank in ranks):
            if key in seen:
                return f"{place} is of rank {key.rank}, as another"
            seen[key] = entry
    for name in sorted({key.phase for key in seen}):
        rank = next((rank for rank in range(count) if PhaseKey(name, rank) not in seen), None)
        if rank is not None:
            return f"phases has no plan of {name} for rank {rank}"
    for key, decode in seen.items():
        prefill = seen.get(PhaseKey(PREFILL.name, key.rank))
        if key.phase == DECODE.name and prefill is not None:
            # Whatever decodes together may be packed into one step of prefill.
            most = min(prefill.buckets[-1], decode.buckets[-1])
            if prefill.largest["sequences"] < most:
                return f"the largest step of {prefill.key} has fewer than {most} sequences"
    return None


def _not_well_formed(problem: str) -> ArtifactError:
    return ArtifactError(
        f"manifest.json is not well formed: {problem}", remedy="compile the model again"
    )
