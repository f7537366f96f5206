"""The artifact that serves a model of SGLang, and the engine's options made to fit it."""

from __future__ import annotations

import logging
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch

from glmc_engines.core import plan
from glmc_engines.core.checkpoint import directory_of
from glmc_engines.core.errors import CompileError, UnsupportedError
from glmc_engines.core.header import Header, Sizes
from glmc_engines.core.options import Options
from glmc_engines.core.wanted import Wanted, target_of
from glmc_engines.sglang import compat
from glmc_engines.sglang.limits import refuse_manifest, refuse_options
from glmc_runtime.errors import GlmcError

_LOG = logging.getLogger("glmc.engines")
_REQUESTS = 256


@dataclass(frozen=True)
class Found:
    """An artifact for a model, and where it came from; ``limits`` are options that were lowered to
    what it has buckets for, in words."""

    header: Header
    origin: str
    limits: tuple[str, ...] = ()


def artifact_for(config: Any, quant_config: Any) -> Found | None:
    """The artifact of a model, with the options of this process limited to it and SGLang's own
    graphs off; None where the model is left to SGLang.

    It is looked for while SGLang makes the model: its dtype is torch's default then. A model is
    left to SGLang only where no artifact is named and nobody requires plans.
    """
    options = Options.from_environment()
    try:
        refuse_options(compat.option, torch.get_default_dtype())
        if quant_config is not None:
            raise UnsupportedError(
                "compiled plans do not have quantised weights",
                place="the checkpoint",
                found=type(quant_config).__name__,
                remedy="serve the checkpoint in bfloat16 or float16",
            )
        header, origin = _found(int(config.context_len), options)
        refuse_manifest(header.manifest, compat.option)
        limits = _limits(header)
        header.check(_sizes(int(config.context_len)))
    except GlmcError as error:
        named = options.require or options.artifact is not None
        if named or isinstance(error, CompileError):
            raise
        _LOG.warning("glmc leaves %s to SGLang: %s", compat.option("served_model_name"), error)
        return None
    compat.switch_graphs_off()
    return Found(header, origin, limits)


def _found(context: int, options: Options) -> tuple[Header, str]:
    page = _page_size()
    wanted = Wanted(
        target_of(compat.option("device")),
        _sizes(context),
        block_size=page if page > 1 else None,  # pages of one token fit any artifact
        expert_parallel=(compat.option("ep_size") or 1) > 1,
        smaller_steps=True,  # the scheduler's options are lowered to the artifact's
    )
    # Where a model comes from ModelScope, SGLang has put the folder in place of its name by now.
    names = ("model_path", "revision", "download_dir")
    checkpoint = directory_of(*map(compat.option, names))
    if options.artifact is not None or compat.tensor_parallel().count == 1:
        found = plan.artifact_for(checkpoint, wanted, options)
        return found.header, found.origin
    return _of_first_rank(checkpoint, wanted, options)


def _of_first_rank(checkpoint: Path, wanted: Wanted, options: Options) -> tuple[Header, str]:
    """What the first rank has compiled, or was kept of an earlier start: it alone starts the
    compiler, and the others read its artifact or raise its error. One on another host, where that
    folder is not, has to compile as well."""
    found: plan.Found | None = None
    failure: Exception | None = None
    outcome: tuple[Path, str] | GlmcError | None = None
    if compat.tensor_parallel().rank == 0:
        try:
            found = plan.artifact_for(checkpoint, wanted, options)
            outcome = found.path, found.origin
        except GlmcError as error:
            outcome = failure = error
        except Exception as error:  # noqa: BLE001 - the other ranks wait for whatever comes of this
            outcome, failure = _of_another_rank(error), error
    outcome = compat.of_first_rank(outcome)
    if failure is not None:
        raise failure
    if isinstance(outcome, GlmcError):
        raise outcome
    path, origin = outcome
    if found is None and not path.is_dir():
        found = plan.artifact_for(checkpoint, wanted, options)
    if found is not None:
        return found.header, found.origin
    return plan.artifact_for(checkpoint, wanted, replace(options, artifact=path)).header, origin


def _of_another_rank(error: Exception) -> CompileError:
    """What the other ranks raise for an error of the first rank that is none of ours: it may not
    survive pickling."""
    return CompileError(
        "the first tensor parallel rank has no plan",
        place="rank 0",
        found=f"{type(error).__name__}: {error}",
        remedy="read the traceback in the log of rank 0",
    )


def _sizes(context: int) -> Sizes:
    """What SGLang may ask for; as many requests as that where nobody has said how many."""
    tokens: int = compat.option("chunked_prefill_size")
    if tokens <= 0:  # no chunks, so that a prompt is one step
        tokens = max(compat.option("max_prefill_tokens") or 0, context)
    return Sizes(
        tokens=tokens,
        sequences=compat.option("max_running_requests") or _REQUESTS,
        context=context,
        dtype=torch.get_default_dtype(),
        ranks=compat.option("tp_size"),
    )


def _largest_chunk(header: Header) -> int:
    """What the artifact's largest step has of whole pages, at which SGLang splits prompts: of less
    than one page it would make no chunk, and the request would wait for ever."""
    page = _page_size()
    if header.tokens < page:
        raise UnsupportedError(
            "a page of the KV pool is larger than the artifact's largest step",
            place="--page-size of SGLang",
            expected=f"at most {header.tokens}",
            found=str(page),
            remedy="start the server with smaller pages, or compile with larger --prefill-buckets",
        )
    return header.tokens // page * page


def _page_size() -> int:
    """Tokens in a page of the KV pool, which is what blocks are."""
    return int(compat.option("page_size") or 1)


def _limits(header: Header) -> tuple[str, ...]:
    """Lower the scheduler's options to the artifact's largest step, before it reads them."""
    said = []
    for option, most in (
        ("chunked_prefill_size", _largest_chunk(header)),
        ("max_running_requests", header.sequences),
    ):
        asked: int | None = compat.option(option)
        if asked is None or asked > most:
            compat.set_option(**{option: most})
            was = "" if asked is None else f", not {asked}"
            said.append(f"--{option.replace('_', '-')} is {most}{was}: the artifact's largest step")
    return tuple(said)
