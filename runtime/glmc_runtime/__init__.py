"""The thin runtime: loads an artifact that glmc compiled and replays it.

``load(path)`` returns a :class:`Session`. Nothing here traces, compiles or imports glmc or
transformers. Read the folders in this order: ``format``, ``kernels``, ``replay``, ``loading``,
``engine``, ``generate``.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from importlib import import_module
from os import PathLike
from time import perf_counter
from typing import TYPE_CHECKING, Any

from glmc_runtime.command.logs import configure_library
from glmc_runtime.package.constants import GUARD_STEPS, __version__
from glmc_runtime.package.moved import RUNTIME, MovedModules

if TYPE_CHECKING:
    import torch

    from glmc_runtime.engine.async_decode import GreedySteps as GreedySteps
    from glmc_runtime.engine.engine import Engine as Engine
    from glmc_runtime.engine.outer.kv_tensors import KVTensors as KVTensors
    from glmc_runtime.engine.outer.model import AttachedModel as AttachedModel
    from glmc_runtime.engine.outer.model import Model as Model
    from glmc_runtime.engine.outer.step import OuterStep as OuterStep
    from glmc_runtime.engine.sampling import SamplingParameters as SamplingParameters
    from glmc_runtime.engine.sequences import Sequence as Sequence
    from glmc_runtime.engine.sequences import SequenceStep as SequenceStep
    from glmc_runtime.errors import GlmcError as GlmcError
    from glmc_runtime.generate.events import Completion as Completion
    from glmc_runtime.generate.events import Event as Event
    from glmc_runtime.generate.options import RequestOptions as RequestOptions
    from glmc_runtime.generate.session import Session as Session

# Names of the package, imported when they are first asked for: torch is not needed to read a plan.
_MODULES = {
    "AttachedModel": "engine.outer.model",
    "Completion": "generate.events",
    "Engine": "engine.engine",
    "Event": "generate.events",
    "GlmcError": "errors",
    "GreedySteps": "engine.async_decode",
    "KVTensors": "engine.outer.kv_tensors",
    "Model": "engine.outer.model",
    "OuterStep": "engine.outer.step",
    "SequenceStep": "engine.sequences",
    "RequestOptions": "generate.options",
    "SamplingParameters": "engine.sampling",
    "Sequence": "engine.sequences",
    "Session": "generate.session",
}
__all__ = ["GUARD_STEPS", "__version__", "load", "load_model", *_MODULES]


MovedModules(__name__, RUNTIME).install()
configure_library()


def __getattr__(name: str) -> object:
    if name not in _MODULES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_MODULES[name]}"), name)


def __dir__() -> list[str]:
    return sorted(__all__)


def load(
    path: str | PathLike[str],
    *,
    verify_hashes: bool = True,
    kv_blocks: int | None = None,
    kv_memory_bytes: int | None = None,
    emulate: bool | None = None,
    device: str | torch.device | None = None,
    timing: bool = False,
    guard_steps: int = GUARD_STEPS,
    profile_ranges: bool = False,
    prefill_graphs: bool = False,
    progress: Callable[[int, int], object] | None = None,
    weights: Mapping[str, torch.Tensor] | None = None,
    process_group: Any = None,
    backend: str | None = None,
    checkpoint: str | PathLike[str] | None = None,
) -> Session:
    """Load an artifact directory and make it ready to generate.

    ``verify_hashes`` reads every file once and compares its sha256 with the manifest; ``progress``
    is called with the bytes that were read and those of all files. ``kv_blocks`` or
    ``kv_memory_bytes`` set the size of the KV cache (scratch block included); the default holds
    the largest decode bucket at full context, up to 2 GiB on a CPU and half of the free memory on
    a device. On a CPU its memory is taken as contexts grow, not at the start.

    ``emulate`` forces the vendor emulator on (True) or refuses it (False); None takes
    the vendor's library where it is installed. ``device`` ("cpu" or "cuda") says where an emulated
    artifact runs, in host memory unless given; all others run on their target's device. ``timing``
    measures each segment. ``guard_steps`` is how many steps of each phase check what vendor calls
    return and write, before they are replayed unchecked (:mod:`glmc_runtime.replay.guard_steps`).
    ``profile_ranges`` names each replayed call in the timeline of a profiler that runs around the
    session (:mod:`glmc_runtime.replay.profile`), for several microseconds a call.
    ``prefill_graphs`` also captures device graphs of the prefill buckets up to 1024 tokens, each
    from one attention to the next: a short prompt waits less for the host, and loading takes
    longer. ``weights`` are
    the caller's own tensors by the names of the manifest, in place of the artifact's, which may
    then have none. ``checkpoint`` is the directory that the weights of an artifact compiled with
    ``weights="from-checkpoint"`` are made of, if it is not where it was then.

    An artifact of several ranks runs in as many processes (docs/many_cards.md): on this host they
    are started here and end with the session, which is a controller of theirs. Where torchrun has
    started this process it is one of the ranks, and on those other than 0 :meth:`Session.follow`
    takes the steps. With a ``process_group`` of torch.distributed this process is the rank that it
    has there, and the caller takes the same steps on each. ``backend`` ("gloo" or "nccl") is that
    of the ranks' group, in place of the one that suits the device.

    Raises ArtifactError, GuardError, PlanError, VendorError, CapacityError, RequestError (an option
    out of range or of another kind) or RankError.
    """
    from glmc_runtime import arguments as kinds
    from glmc_runtime.engine.machines import machine_of, rank_of
    from glmc_runtime.engine.options import LoadOptions
    from glmc_runtime.generate.session import Session
    from glmc_runtime.loading.loader import load_artifact

    started = perf_counter()
    place = kinds.path("path", path)
    verify = kinds.flag("verify_hashes", verify_hashes)
    shown = kinds.optional(kinds.function, "progress", progress)
    tensors = kinds.optional(kinds.tensors, "weights", weights)
    options = LoadOptions(
        kinds.optional(kinds.flag, "emulate", emulate),
        kinds.optional(kinds.device_name, "device", device),
        kinds.optional(kinds.integer, "kv_blocks", kv_blocks),
        kinds.optional(kinds.integer, "kv_memory_bytes", kv_memory_bytes),
        kinds.flag("timing", timing),
        kinds.integer("guard_steps", guard_steps),
        kinds.flag("profile_ranges", profile_ranges),
        kinds.optional(kinds.text, "backend", backend),
        kinds.optional(kinds.path, "checkpoint", checkpoint),
        kinds.flag("prefill_graphs", prefill_graphs),
    )
    rank = rank_of(process_group)
    artifact = load_artifact(place, verify_hashes=verify, progress=shown, rank=rank)
    machine = machine_of(artifact, options, process_group, tensors, verify, shown)
    machine.statistics.load_seconds = perf_counter() - started
    return Session(artifact, machine)


def load_model(
    path: str | PathLike[str],
    *,
    verify_hashes: bool = True,
    emulate: bool | None = None,
    device: str | torch.device | None = None,
    timing: bool = False,
    guard_steps: int = GUARD_STEPS,
    profile_ranges: bool = False,
    progress: Callable[[int, int], object] | None = None,
    weights: Mapping[str, torch.Tensor] | None = None,
    process_group: Any = None,
    checkpoint: str | PathLike[str] | None = None,
    tensors: Iterable[tuple[str, torch.Tensor]] | None = None,
) -> Model:
    """Load an artifact directory for an outer engine, without a KV cache: see
    :meth:`Model.attach`. Options and errors are those of :func:`load`; one of several ranks is
    loaded by each process of the engine's ``process_group``, which takes the same steps.

    ``tensors`` are what the engine's loader reads of the checkpoint, pairs of a name and a tensor
    in any order, for an artifact that was compiled with ``weights="from-engine"``: each is put
    into the weights of this rank at once and not kept (docs/artifact.md#from-an-engine). Raises
    WeightsError for one that does not fit, and for those that are missing at the end.
    """
    from glmc_runtime import arguments as kinds
    from glmc_runtime.engine.machines import loaded_for_engine, rank_of
    from glmc_runtime.engine.options import LoadOptions
    from glmc_runtime.engine.outer.model import Model
    from glmc_runtime.errors import RequestError
    from glmc_runtime.loading.loader import load_artifact

    started = perf_counter()
    place = kinds.path("path", path)
    artifact = load_artifact(
        place,
        verify_hashes=kinds.flag("verify_hashes", verify_hashes),
        progress=kinds.optional(kinds.function, "progress", progress),
        rank=rank_of(process_group),
    )
    options = LoadOptions(
        emulate=kinds.optional(kinds.flag, "emulate", emulate),
        device=kinds.optional(kinds.device_name, "device", device),
        timing=kinds.flag("timing", timing),
        guard_steps=kinds.integer("guard_steps", guard_steps),
        profile_ranges=kinds.flag("profile_ranges", profile_ranges),
        checkpoint=kinds.optional(kinds.path, "checkpoint", checkpoint),
    )
    given = kinds.optional(kinds.tensors, "weights", weights)
    handed = kinds.optional(kinds.pairs, "tensors", tensors)
    if given is not None and handed is not None:
        raise RequestError("weights and tensors exclude each other", remedy="pass one of them")
    loaded = loaded_for_engine(artifact, options, process_group, given, handed)
    loaded.statistics.load_seconds = perf_counter() - started
    return Model(loaded)
