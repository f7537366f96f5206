"""Right answers on the device: Hugging Face's tokens and logits; replay against call by call."""

from __future__ import annotations

from collections.abc import Sequence as ListLike
from pathlib import Path
from typing import Any

import torch
import transformers
from torch import Tensor

from bench.gpu.gpu_decode import bitwise
from bench.gpu.gpu_ours import prepared, released, traced_logits
from bench.gpu.gpu_results import Results
from bench.gpu_sessions import MODELS, make_session
from glmc_runtime.generate.session import Session

NAMES = ("tiny-dense", "tiny-moe")
TEXTS = (
    "Return",
    "Redistribution and use in source and binary forms, with or without modification,",
    "The function returns a new list with the items of the iterable in ascending order. ",
    "class Reader:\n    Read lines from a file and decode them",
    "module heapq\n\nHeap queue algorithm",
)
ALLOWED = 1.25  # our error over Hugging Face's own in the same dtype
ALLOWED_INTERPRETED = 2.0  # Triton's interpreter cuts to bfloat16 where a device rounds
LENGTHS = (1, 4, 5, 15, 16, 17, 33, 40)
FORCED = 20


def load_eager(directory: Path, dtype: torch.dtype, device: torch.device) -> Any:
    """The stock model in eager spelling, experts as a plain loop."""
    model = transformers.AutoModelForCausalLM.from_pretrained(
        directory, dtype=dtype, attn_implementation="eager", experts_implementation="eager"
    )
    return model.to(device).requires_grad_(False).eval()


@torch.no_grad()
def eager_tokens(model: Any, prompt: ListLike[int], count: int) -> list[int]:
    """Greedy tokens of one prompt by ``generate``, whatever they are."""
    device = next(model.parameters()).device
    ids = torch.tensor([list(prompt)], device=device)
    generated = model.generate(
        ids,
        attention_mask=torch.ones_like(ids),
        pad_token_id=0,
        do_sample=False,
        max_new_tokens=count,
        eos_token_id=None,
    )
    tokens: list[int] = generated[0, len(prompt) :].tolist()
    return tokens


@torch.no_grad()
def forced_logits(model: Any, text: ListLike[int], first: int) -> Tensor:
    """float32 logits after each of ``text[first - 1:]`` from one pass over the text."""
    device = next(model.parameters()).device
    output = model(input_ids=torch.tensor([list(text)], device=device), use_cache=False)
    logits: Tensor = output.logits[0, first - 1 :]
    return logits.float()


def correct(results: Results, folder: Path, device: torch.device, target: str) -> None:
    """All checks of the shipped models."""
    from bench.soak.gpu_churn import CROWD, CROWD_QUICK, churn

    torch.set_float32_matmul_precision("highest")
    for name in NAMES:
        work = folder / name
        work.mkdir(parents=True)
        for label, check in (
            (
                "greedy tokens",
                lambda name=name, work=work: _tokens(results, name, work, device, target),
            ),
            (
                "bfloat16",
                lambda name=name, work=work: _low_precision(results, name, work, device, target),
            ),
            ("replay", lambda name=name, work=work: _replay(results, name, work, target)),
            ("churn", lambda name=name, work=work: churn(results, name, work, target)),
            (
                "crowd",
                lambda name=name, work=work: churn(
                    results, name, work, target, CROWD_QUICK if results.quick else CROWD
                ),
            ),
        ):
            results.attempt(f"{name}: {label}", check)


def _tokens(results: Results, name: str, folder: Path, device: torch.device, target: str) -> None:
    """Tokens in float32 are Hugging Face's on the same device, one by one and in one batch."""
    count = 4 if results.quick else 64
    model = load_eager(MODELS / name, torch.float32, device)
    session, _ = make_session(MODELS / name, folder / "float32", "float32", target)
    prompts = [session.text.encode(text) for text in TEXTS[: 2 if results.quick else None]]
    expected = [eager_tokens(model, prompt, count) for prompt in prompts]
    batch = session.generate(prompts, max_new_tokens=count, ignore_eos=True)
    single = [
        session.generate([prompt], max_new_tokens=count, ignore_eos=True)[0] for prompt in prompts
    ]
    for label, ours in (
        (f"batch of {len(prompts)}, ragged", [completion.tokens for completion in batch]),
        ("batch of 1", [completion.tokens for completion in single]),
        ("greedy loop", _looped(session, prompts, count)),
    ):
        problems = [
            _difference(model, prompt, expected_ids, our_ids)
            for prompt, expected_ids, our_ids in zip(prompts, expected, ours, strict=True)
            if expected_ids != our_ids
        ]
        results.check(
            f"{name}, float32: {count} greedy tokens of Hugging Face, {label}",
            not problems,
            prompts=len(prompts),
            problems=problems,
        )


def _looped(session: Session, prompts: list[list[int]], count: int) -> list[list[int]]:
    """Tokens of the loop that runs a step ahead, where the target has it."""
    sequences = [session.sequence(prompt) for prompt in prompts]
    tokens = session.prefill(sequences).argmax(-1).tolist()
    rows = [tokens]
    if session.greedy:
        with session.greedy_steps(sequences, tokens) as steps:
            rows += [steps.step() for _ in range(count - 1)]
    else:
        for _ in range(count - 1):
            rows.append(session.decode(sequences, rows[-1]).argmax(-1).tolist())
    released(session, sequences)
    return [list(row) for row in zip(*rows, strict=True)]


def _difference(
    model: Any, prompt: list[int], expected: list[int], tokens: list[int]
) -> dict[str, Any]:
    """Where two continuations part, and how near the two tokens are to each other there."""
    pairs = zip(expected, tokens, strict=False)
    place = next((at for at, (wanted, token) in enumerate(pairs) if wanted != token), None)
    if place is None:
        return {"expected": len(expected), "found": len(tokens)}
    logits = forced_logits(model, [*prompt, *expected[:place]], len(prompt) + place)[-1]
    gap = float(logits[expected[place]] - logits[tokens[place]])
    return {
        "prompt_tokens": len(prompt),
        "new_token": place,
        "expected": expected[place],
        "found": tokens[place],
        "logits_apart": gap,
        "logits_deviate": float(logits.std()),
    }


def calm_checkpoint(name: str, folder: Path) -> Path:
    """The shipped model whose routers no rounding can sway: correction biases 1 apart.

    A router between two experts that rounding tips over shifts a row by far more than its error, in
    Hugging Face's runs and in ours, each in other rows.
    """
    if name != "tiny-moe":
        return MODELS / name
    path = folder / "calm"
    model = load_eager(MODELS / name, torch.bfloat16, torch.device("cpu"))
    generator = torch.Generator().manual_seed(0)
    for buffer, tensor in model.named_buffers():
        if buffer.endswith("e_score_correction_bias"):
            tensor.copy_(torch.randperm(len(tensor), generator=generator))
    model.save_pretrained(path)
    return path


def _low_precision(
    results: Results, name: str, folder: Path, device: torch.device, target: str
) -> None:
    """bfloat16 logits are as near to float32 ones as Hugging Face's own, by a factor of 1.25."""
    checkpoint = calm_checkpoint(name, folder)
    generator = torch.Generator().manual_seed(9)
    lengths = LENGTHS[:2] if results.quick else LENGTHS
    forced = 3 if results.quick else FORCED
    session, _ = make_session(checkpoint, folder / "bfloat16", "bfloat16", target)
    vocabulary = session.manifest.model.vocabulary
    texts = [
        torch.randint(4, vocabulary, (length + forced,), generator=generator).tolist()
        for length in lengths
    ]

    def eager(dtype: torch.dtype) -> Tensor:
        model = load_eager(checkpoint, dtype, device)
        pairs = zip(texts, lengths, strict=True)
        rows = [forced_logits(model, text, length)[:forced] for text, length in pairs]
        return torch.stack(rows)

    exact = eager(torch.float32)
    own = _rms(eager(torch.bfloat16) - exact)
    sequences = [
        session.sequence(text[:length]) for text, length in zip(texts, lengths, strict=True)
    ]
    rows = [session.prefill(sequences).float()]
    for step in range(forced - 1):
        tokens = [text[length + step] for text, length in zip(texts, lengths, strict=True)]
        rows.append(session.decode(sequences, tokens).float())
    ours = _rms(torch.stack(rows, 1).to(exact.device) - exact)
    spread = float(exact.std())
    allowed = ALLOWED_INTERPRETED if session.interpreted else ALLOWED
    results.check(
        f"{name}, bfloat16: error at most {allowed} of Hugging Face's own",
        own > 0 and own < 0.1 * spread and ours <= allowed * own,
        ratio=ours / own if own else None,
        own_error=own,
        logits_deviate=spread,
    )


def _rms(error: Tensor) -> float:
    return float(error.double().square().mean().sqrt())


def _replay(results: Results, name: str, folder: Path, target: str) -> None:
    """A replayed device graph gives the bits of the same plan executed call by call."""
    for dtype in ("float32", "bfloat16"):
        path = folder / dtype
        checkpoint = MODELS / name if dtype == "float32" else calm_checkpoint(name, folder)
        session, _ = make_session(checkpoint, path, dtype, target)
        for count in (1, 3, 8):
            if results.quick and count == 8:
                continue
            prompts = [list(range(5, 5 + 9 * row + 7)) for row in range(count)]
            sequences = [session.sequence(prompt) for prompt in prompts]
            session.prefill(sequences)
            ready = prepared(session, sequences, [100 + row for row in range(count)])
            traced, _ = traced_logits(session, ready)
            label = f"{name}, {dtype}: replay of {count} against the plan call by call"
            bitwise(results, label, ready.logits, traced)
            released(session, sequences)
