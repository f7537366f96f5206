"""The last proof: the artifact is written, loaded and replayed, and its logits compared.

Ragged sequences are prefilled in one batch and decoded step by step, all with given tokens; the
captured graph computes the same rows from whole sequences. For ``xpu`` the vendor's functions are
emulated, and several ranks are threads of this process. The rule depends on the dtype of the plan:

* float32: every row is within the reordered bound of the whole captured graph (tolerance.py).
* bfloat16 and float16: both, the plan and the captured graph, are compared with the captured graph
  in float32 on the same rounded weights. A row's error is its root mean square; the median over the
  rows may be ``ALLOWED`` times the captured graph's own. A median, since a router that rounding
  tips over chooses another expert, rightly, and shifts its row by far more than its error. No row
  may be further off than ``WORST`` times the worst of the captured graph, or half of how much
  logits deviate, where that is more.
"""

from __future__ import annotations

import math
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from glmc.check.verify.lockstep import machines_of
from glmc.check.verify.verdict import Verdict, Violation, off_by
from glmc.check.verify.weights import ModelWeights
from glmc.compiled import Compiled
from glmc.compiler import write_compiled
from glmc.errors import GlmcError
from glmc.ir.ops import Numerics
from glmc.ir.program import Program
from glmc.ir.tolerance import Tolerance, reduction_terms, stored_values
from glmc.observe.history.record import REPLAY
from glmc_runtime.command.out_of_memory import shortage_behind
from glmc_runtime.engine.options import LoadOptions
from glmc_runtime.errors import GuardError, RankError
from glmc_runtime.format.phases import DECODE, PREFILL
from glmc_runtime.generate.session import Session

NAME = REPLAY
ALLOWED = 1.25
WORST = 4.0
STEPS = 8
LENGTHS = (17, 1, 5, 33, 8, 3, 12, 2)
# Targets that every machine can replay.
_EVERYWHERE = ("cpu", "xpu")


@dataclass(frozen=True)
class Reference:
    """The captured graph of what was compiled, and the same in float32."""

    captured: Program
    exact: Program
    weights: ModelWeights


@dataclass(frozen=True)
class _Rows:
    """Logits float32 [rows, vocabulary], and what each row is."""

    logits: Tensor
    names: tuple[str, ...]


def verify_replay(
    compiled: Compiled, reference: Reference, texts: Sequence[Sequence[int]], weights: str = ""
) -> Verdict:
    """Whether the plan of ``compiled`` answers as the captured graph; ``texts`` are token ids,
    ``weights`` says what is special about the weights.

    What the text says before its first colon is of the replay, what comes after it of this one.
    """
    dtype = compiled.job.lowering.dtype
    numerics = Numerics.REORDERED if dtype is torch.float32 else Numerics.APPROXIMATE
    prompts = _prompts(compiled, texts)
    exact = _expected(reference.exact, reference.weights, prompts)
    try:
        rows, emulated = _replayed(compiled, reference.weights, prompts)
    except GuardError as error:
        if compiled.job.target.name in _EVERYWHERE:
            return _failed(numerics, compiled, error)
        text = f"not replayed: {error.message}"
        return Verdict(NAME, numerics.value, text)
    except (GlmcError, RuntimeError, TypeError, ValueError) as error:
        if shortage_behind(error) is not None:
            raise
        return _failed(numerics, compiled, error)
    target = f"{compiled.job.target.name}{' (emulated)' if emulated else ''}"
    what = f"{target}, {len(prompts)} sequences, {len(rows.names)} rows"
    where = f"in {str(dtype).removeprefix('torch.')}{weights and f' with {weights}'}"
    if numerics is Numerics.REORDERED:
        bound = _bound(reference, exact)
        errors = (rows.logits - exact.logits).abs().nan_to_num(nan=math.inf)
        shares = (errors / bound).amax(1)
        worst = int(shares.argmax())
        place = int((errors / bound)[worst].argmax())
        limit = float(bound.expand_as(errors)[worst, place])
        violation = _violation(numerics, rows.names[worst], float(errors[worst, place]), limit)
        text = f"{what}: {where} off by at most {off_by(float(shares.max()))}"
        return _verdict(numerics, text, [violation] if float(shares.max()) > 1 else [])
    own = _row_errors(_expected(reference.captured, reference.weights, prompts), exact)
    ours = _row_errors(rows, exact)
    ratio = float(ours.median() / own.median())
    limit = max(WORST * float(own.max()), 0.5 * float(exact.logits.std()))
    worst = int(ours.argmax())
    violations = []
    if not ratio <= ALLOWED:
        median, allowed = float(ours.median()), ALLOWED * float(own.median())
        violations.append(_violation(numerics, "the median row", median, allowed))
    if not float(ours.max()) <= limit:
        violations.append(_violation(numerics, rows.names[worst], float(ours.max()), limit))
    text = (
        f"{what}: {where} {ratio:.2f} times the captured graph's own error ({ALLOWED} is allowed)"
    )
    return _verdict(numerics, text, violations)


def _verdict(numerics: Numerics, text: str, violations: list[Violation]) -> Verdict:
    if violations:
        text = f"VIOLATED: {text}; {violations[0]}"
    return Verdict(NAME, numerics.value, text, tuple(violations))


def _violation(
    numerics: Numerics, row: str, error: float, bound: float, failure: str = ""
) -> Violation:
    return Violation(NAME, numerics.value, None, "logits", None, row, error, bound, "", failure)


def _failed(numerics: Numerics, compiled: Compiled, error: Exception) -> Verdict:
    first = str(error).strip().partition("\n")[0]
    failure = f"{type(error).__name__}: {first}"
    violation = _violation(numerics, compiled.job.target.name, math.inf, 0.0, failure)
    return _verdict(numerics, f"{compiled.job.target.name} fails", [violation])


def _prompts(compiled: Compiled, texts: Sequence[Sequence[int]]) -> list[tuple[list[int], int]]:
    """Tokens and the length of the prompt: real texts, then random ones; all that fits."""
    options, vocabulary = compiled.job.options, compiled.job.source.shape.vocabulary
    generator = torch.Generator().manual_seed(3)
    prompts: list[tuple[list[int], int]] = []
    for number, length in enumerate(LENGTHS[: options.decode_buckets[-1]]):
        steps = min(STEPS, compiled.job.lowering.max_context - 1)
        length = max(1, min(length, compiled.job.lowering.max_context - steps))
        tokens = list(texts[number]) if number < len(texts) else []
        missing = max(0, length + steps - len(tokens))
        tokens += torch.randint(0, vocabulary, (missing,), generator=generator).tolist()
        prompts.append((tokens[: length + steps], length))
    return prompts


def _replayed(
    compiled: Compiled, weights: ModelWeights, prompts: Sequence[tuple[list[int], int]]
) -> tuple[_Rows, bool]:
    """The rows of the loaded artifact, of all its ranks in this process, and whether it is
    emulated. Every rank must have the same."""
    ranks = compiled.job.lowering.ranks
    options = LoadOptions(
        emulate=True if compiled.job.target.name == "xpu" else None,
        kv_blocks=compiled.job.lowering.blocks_per_sequence * len(prompts) + 1,
    )
    with tempfile.TemporaryDirectory(prefix="glmc-verify-") as folder:
        path = Path(folder) / "artifact"
        write_compiled(compiled, path, weights=weights)
        with machines_of(path, ranks, options) as (threads, machines):
            sessions = [Session(*each) for each in machines]
            (rows, names), *others = threads.each(lambda rank: _run(sessions[rank], prompts))
    for rank, (other, _) in enumerate(others, 1):
        if not torch.equal(other, rows):
            raise RankError(
                f"rank {rank} has other logits than rank 0",
                found=f"a difference of {float((other - rows).abs().max()):.3g}",
            )
    return _Rows(rows, names), sessions[0].emulated


def _run(
    session: Session, prompts: Sequence[tuple[list[int], int]]
) -> tuple[Tensor, tuple[str, ...]]:
    sequences = [session.sequence(tokens[:length]) for tokens, length in prompts]
    steps = len(prompts[0][0]) - prompts[0][1]
    rows = [session.prefill(sequences).float()]
    for step in range(steps):
        next_tokens = [tokens[length + step] for tokens, length in prompts]
        rows.append(session.decode(sequences, next_tokens).float())
    return torch.cat(rows), _names(prompts, steps)


def _names(prompts: Sequence[tuple[list[int], int]], steps: int) -> tuple[str, ...]:
    kinds = [PREFILL.name, *(f"{DECODE.name} step {step}" for step in range(1, steps + 1))]
    return tuple(f"{kind} of a prompt of {length}" for kind in kinds for _, length in prompts)


def _expected(
    program: Program, weights: ModelWeights, prompts: Sequence[tuple[list[int], int]]
) -> _Rows:
    """The same rows from the stateless program, one whole sequence at a time."""
    table = weights.table(program)
    by_sequence = []
    for tokens, length in prompts:
        token_ids = torch.tensor([tokens])
        inputs = {
            "token_ids": token_ids,
            "positions": torch.arange(len(tokens)).unsqueeze(0),
        }
        logits = program.run(inputs, table)[0][0]
        by_sequence.append(logits[length - 1 :].float())
    rows = torch.stack(by_sequence, 1)
    return _Rows(rows.flatten(0, 1), _names(prompts, rows.shape[0] - 1))


def _bound(reference: Reference, exact: _Rows) -> Tensor:
    """The reordered bound of all logits: every reduction and every stored value of the graph."""
    nodes = list(reference.exact.graph.nodes)
    tolerance = Tolerance(Numerics.REORDERED, reduction_terms(nodes), stored_values(nodes))
    return tolerance.bound(exact.logits).float()


def _row_errors(actual: _Rows, exact: _Rows) -> Tensor:
    error = (actual.logits - exact.logits).double().square().mean(1).sqrt()
    return error.nan_to_num(nan=math.inf)
