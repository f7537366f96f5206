"""Options of a compile, with defaults."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, fields
from difflib import get_close_matches
from typing import Any

from glmc.errors import AbiError, UsageError
from glmc_runtime.arguments import flag, integer, items_of, path, text, texts
from glmc_runtime.command.nearest import did_you_mean
from glmc_runtime.errors import GlmcError
from glmc_runtime.format.manifest import MOST_RANKS, PROMISES
from glmc_runtime.format.phases import DECODE, PREFILL, phase_of
from glmc_runtime.package.entry_points import entries

TARGETS = ("cpu", "cuda", "xpu")
DTYPES = ("float32", "bfloat16", "float16")
AUTO = "auto"
"""A dtype that is chosen when the weights are known (glmc/range_check)."""
WEIGHED = ("xpu",)
"""Targets on which ``auto`` is a choice: elsewhere float16 has no lead over bfloat16."""
ALIKE = (1, 2, 4, 8)
"""Numbers of ranks that ``deterministic="ranks"`` gives the same bits on."""
FROM_CHECKPOINT = "from-checkpoint"
FROM_ENGINE = "from-engine"
WEIGHTS = ("checkpoint", FROM_CHECKPOINT, FROM_ENGINE, "random", "none")
PROFILES = ("P-A", "P-B", "P-C")
DEFAULT_PROFILE = PROFILES[0]
# What other tools call them: not taken, but the name that is meant is said.
ALIASES = {
    **{"fp32": "float32", "float": "float32", "f32": "float32"},
    **{"bf16": "bfloat16", "fp16": "float16", "half": "float16", "f16": "float16"},
    **{"gpu": "cuda", "nvidia": "cuda", "kunlun": "xpu", "p800": "xpu", "host": "cpu"},
}


@dataclass(frozen=True)
class CompileOptions:
    """``dtype`` None takes the checkpoint's. ``max_context`` None takes the model's, at most 8192.

    ``dtype`` "auto" is float16 or bfloat16 on xpu, by a range check of the weights and of the
    activations on ``calibration_prompt`` (None: a text of ours); elsewhere the checkpoint's.
    ``decode_buckets`` are batch sizes, ``prefill_buckets`` numbers of packed tokens.
    ``capture_attention``, ``capture_experts`` and ``marked`` choose how the model is spelled while
    it is traced; the plan must not depend on it. ``full_capture`` traces every layer.
    ``weights`` are packed from the "checkpoint", or made when the artifact is loaded, by recipes
    that it has in their place: "from-checkpoint", or "from-engine" of the tensors that the loader
    of an engine hands over, where no file of weights need be there now; "random" or "none".
    ``pipeline`` is a file that lists the passes, ``passes_on`` names installed passes of others to
    run too, ``passes_off`` passes to leave out. ``deterministic`` is "batch" for bits that do not
    depend on batch, bucket or chunk, "ranks" for bits that do not depend on the number of ranks
    either. ``tensor_parallel`` is the number of ranks that the
    model is dealt to; with ``expert_parallel`` each has some of the experts whole, and
    ``collectives`` is the text of the table that they add by.
    """

    target: str = "cpu"
    dtype: str | None = None
    abi_profile: str | None = None
    max_context: int | None = None
    block_size: int = 128
    deterministic: str | None = None
    decode_buckets: tuple[int, ...] = (1, 2, 4, 8, 16, 32)
    prefill_buckets: tuple[int, ...] = (16, 64, 256, 512)
    weights: str = "checkpoint"
    seed: int = 0
    allow_missing: bool = False
    force: bool = False
    full_capture: bool = False
    capture_attention: str = "sdpa"
    capture_experts: str = "batched_mm"
    marked: bool = False
    passes_on: tuple[str, ...] = ()
    passes_off: tuple[str, ...] = ()
    pipeline: str | None = None
    calibration_prompt: str | None = None
    tensor_parallel: int = 1
    expert_parallel: bool = False
    collectives: str | None = None

    def __post_init__(self) -> None:
        for name, kind in _KINDS.items():
            value = getattr(self, name)
            if value is not None or name not in _OPTIONAL:
                object.__setattr__(self, name, kind(name, value, refuse=UsageError))
        if self.target not in TARGETS and self.target not in entries("glmc.targets"):
            raise UsageError(
                f"there is no target '{self.target}'",
                expected=", ".join((*TARGETS, *entries("glmc.targets"))),
                remedy=did_you_mean(self.target, (*TARGETS, *entries("glmc.targets")), ALIASES)
                or "name one of these, or install the distribution that brings it",
            )
        if self.dtype is not None and self.dtype not in (*DTYPES, AUTO):
            raise UsageError(
                f"there is no dtype '{self.dtype}'",
                expected=", ".join((*DTYPES, AUTO)),
                remedy=did_you_mean(self.dtype, (*DTYPES, AUTO), ALIASES) or f"--dtype {DTYPES[1]}",
            )
        self._require_weighable()
        if self.abi_profile is not None and self.target != "xpu":
            require_profile(self.abi_profile)
            raise UsageError(
                "an ABI profile only exists for the xpu target",
                found=f"--target {self.target} --abi-profile {self.abi_profile}",
                remedy="drop --abi-profile, or compile with --target xpu",
            )
        for name, buckets in self.buckets.items():
            ascending = list(buckets) == sorted(set(buckets))
            if not buckets or not ascending or buckets[0] < 1:
                raise UsageError(
                    f"the {name} buckets must be positive and ascend",
                    found=", ".join(map(str, buckets)) or "none",
                    remedy=f"--{name}-buckets 1,2,4",
                )
        if self.deterministic is not None and self.deterministic not in PROMISES:
            raise UsageError(
                f"there is no way to be deterministic called '{self.deterministic}'",
                expected=", ".join(PROMISES),
                remedy=did_you_mean(self.deterministic, PROMISES) or "--deterministic",
            )
        if not 1 <= self.tensor_parallel <= MOST_RANKS:
            raise UsageError(
                f"a model can't be dealt to {self.tensor_parallel} ranks",
                expected=f"1 to {MOST_RANKS}",
                found=str(self.tensor_parallel),
                remedy="--tensor-parallel 8",
            )
        if self.collectives is not None and self.tensor_parallel == 1:
            raise UsageError(
                "one rank has no collectives",
                found="--collectives without --tensor-parallel",
                remedy="add --tensor-parallel 8, say",
            )
        if self.expert_parallel and self.tensor_parallel == 1:
            raise UsageError(
                "experts are dealt to several ranks",
                found="--expert-parallel without --tensor-parallel",
                remedy="add --tensor-parallel 8, say",
            )
        if self.deterministic == "ranks" and self.tensor_parallel not in ALIKE:
            raise UsageError(
                "so many ranks can't add up in the order of eight",
                expected=", ".join(map(str, ALIKE)),
                found=f"--deterministic=ranks --tensor-parallel {self.tensor_parallel}",
                remedy="choose another --tensor-parallel, or --deterministic without =ranks",
            )
        if self.deterministic == "ranks" and self.expert_parallel:
            raise UsageError(
                "experts that are dealt whole are added in an order that follows the ranks",
                found="--deterministic=ranks --expert-parallel",
                remedy="drop one; --deterministic alone is kept with --expert-parallel",
            )
        if self.block_size < 1:
            raise UsageError(
                "a block must hold at least one token",
                found=str(self.block_size),
                remedy="--block-size 128",
            )
        if self.max_context is not None and self.max_context < 1:
            raise UsageError(
                "the context must hold a token",
                found=str(self.max_context),
                remedy="choose a larger --max-context",
            )
        if self.weights not in WEIGHTS:
            raise UsageError(
                f"weights are {', '.join(WEIGHTS[:-1])} or {WEIGHTS[-1]}",
                found=self.weights,
                remedy=did_you_mean(self.weights, WEIGHTS) or f"--weights {WEIGHTS[0]}",
            )

    def _require_weighable(self) -> None:
        """What ``auto`` needs, and what is only of use with it."""
        weighed = self.dtype == AUTO and self.target in WEIGHED
        if weighed and self.weights in ("none", FROM_ENGINE):
            raise UsageError(
                f"--dtype {AUTO} can't be decided without weights",
                expected="weights whose range can be checked against that of float16",
                found="--no-weights" if self.weights == "none" else f"--weights {FROM_ENGINE}",
                remedy="--dtype float16 or --dtype bfloat16",
            )
        if self.calibration_prompt is not None and not weighed:
            raise UsageError(
                f"a calibration prompt is only run to decide --dtype {AUTO} on {WEIGHED[0]}",
                found=f"--target {self.target}"
                + (f" --dtype {self.dtype}" if self.dtype is not None else ""),
                remedy=f"drop --calibration-prompt, or add --target {WEIGHED[0]} --dtype {AUTO}",
            )

    @property
    def buckets(self) -> Mapping[str, tuple[int, ...]]:
        """The buckets of each phase, by its name."""
        return {DECODE.name: self.decode_buckets, PREFILL.name: self.prefill_buckets}

    def largest(self, phase: str, bucket: int) -> dict[str, int]:
        """The largest value of each symbol in a step of a bucket."""
        return phase_of(phase).largest(bucket, {"sequences": self.decode_buckets[-1]})

    @property
    def supplied(self) -> Mapping[str, Any]:
        """Fields of config.json that these options give when the file does not have them."""
        dtype = None if self.dtype == AUTO else self.dtype
        return {"dtype": dtype, "max_position_embeddings": self.max_context}


def require_profile(profile: str) -> None:
    """Raises :class:`AbiError` for a profile that there is not."""
    if profile not in PROFILES:
        raise AbiError(
            "unknown ABI profile",
            expected=", ".join(PROFILES),
            found=profile,
            remedy=did_you_mean(profile, PROFILES)
            or "choose the profile of the wheels on the target machine",
        )


def require_named_dtype(dtype: str | None, command: str) -> None:
    """Raises :class:`UsageError` for ``auto`` where no weights are read to decide it."""
    if dtype == AUTO:
        raise UsageError(
            f"{command} does not decide --dtype {AUTO}",
            expected=", ".join(DTYPES),
            remedy="name the dtype that 'glmc compile' reports, such as --dtype float16",
        )


def compile_options(options: Mapping[str, object]) -> CompileOptions:
    """Options by name; raises :class:`UsageError` for a name that is none."""
    known = [each.name for each in fields(CompileOptions)]
    for name in options:
        if name not in known:
            raise UsageError(
                f"glmc.compile has no option '{name}'",
                expected=", ".join(get_close_matches(str(name), known) or known),
                remedy=did_you_mean(str(name), known) or "see help(glmc.compile)",
            )
    return CompileOptions(**options)  # type: ignore[arg-type]


def _numbers(name: str, value: object, refuse: type[GlmcError]) -> tuple[int, ...]:
    if isinstance(value, int):
        return (integer(name, value, refuse=refuse),)
    items = items_of(name, value, "numbers", refuse=refuse)
    return tuple(
        integer(f"{name}[{place}]", item, refuse=refuse) for place, item in enumerate(items)
    )


def _dtype(name: str, value: object, refuse: type[GlmcError]) -> str:
    """A dtype by its name, or as torch has it."""
    if type(value).__module__ == "torch" and type(value).__name__ == "dtype":
        return str(value).removeprefix("torch.")
    return text(name, value, refuse=refuse)


_OPTIONAL = (
    "dtype",
    "abi_profile",
    "max_context",
    "deterministic",
    "pipeline",
    "calibration_prompt",
    "collectives",
)
_KINDS: dict[str, Callable[..., object]] = {
    "target": text,
    "dtype": _dtype,
    "abi_profile": text,
    "max_context": integer,
    "block_size": integer,
    "deterministic": text,
    "decode_buckets": _numbers,
    "prefill_buckets": _numbers,
    "weights": text,
    "seed": integer,
    "allow_missing": flag,
    "force": flag,
    "full_capture": flag,
    "capture_attention": text,
    "capture_experts": text,
    "marked": flag,
    "passes_on": texts,
    "passes_off": texts,
    "pipeline": path,
    "calibration_prompt": text,
    "tensor_parallel": integer,
    "expert_parallel": flag,
    "collectives": text,
}
