"""bfloat16 and float16: logits are as near to Hugging Face's float32 as its own in that dtype.

Both compute on a checkpoint whose weights have been rounded to the dtype already, so that all
error is arithmetic's. Texts are forced, so every row of logits has the same context on both sides.
The measure is the root mean square over all logits of all rows: the largest single one says more
about chance than about the arithmetic. For the same reason the routers of these models never
stand between two experts: one that rounding tips over shifts a row by twenty times its error, in
Hugging Face's runs and in ours, each in other rows. Which experts are chosen is held against
Hugging Face in float32, token by token (test_same_answers.py).
"""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import Tensor

from glmc_runtime.generate.session import Session
from tests.e2e.build import PLACES, Builder
from tests.e2e.grid import GRID, Point, write_checkpoint
from tests.e2e.reference import forced_logits, load_eager, prompts

pytestmark = pytest.mark.usefixtures("shared_captures")
ALLOWED = 1.25
PROMPTS = (1, 4, 5, 15, 16, 17, 33, 40)
FORCED = 20
# A dense model and a mixture, and both dtypes.
DEFAULT = ((GRID[0], torch.float16), (GRID[14], torch.bfloat16))
CASES = [
    pytest.param(
        *(point, dtype),
        id=f"{point.name}-{dtype}".replace("torch.", ""),
        marks=pytest.mark.long if (point, dtype) in DEFAULT else pytest.mark.slow,
    )
    for point in GRID[::2]
    for dtype in (torch.bfloat16, torch.float16)
]


@pytest.mark.parametrize(("point", "dtype"), CASES)
def test_logits_are_as_near_as_hugging_face(
    point: Point, dtype: torch.dtype, tmp_path: Path
) -> None:
    checkpoint = write_checkpoint(point, tmp_path / "checkpoint", dtype, calm=True)
    texts = prompts(9, [length + FORCED for length in PROMPTS])
    exact = _eager(checkpoint, torch.float32, texts)
    own_error = _rms(_eager(checkpoint, dtype, texts) - exact)
    # Far from unrelated logits (1.4 deviations apart), which are all equally wrong.
    assert 0 < own_error < 0.1 * float(exact.std())
    builder = Builder(checkpoint, tmp_path / "artifacts")
    ratios = {
        place.name: _rms(_replayed(builder.session(place), texts) - exact) / own_error
        for place in PLACES
    }
    assert max(ratios.values()) <= ALLOWED, ratios


@pytest.mark.long
def test_the_measure_sees_a_wrong_rounding(tmp_path: Path) -> None:
    """Weights rounded once more than Hugging Face's (to 7 bits) are beyond the limit."""
    point, dtype = GRID[0], torch.float16
    checkpoint = write_checkpoint(point, tmp_path / "checkpoint", dtype, calm=True)
    texts = prompts(9, [length + FORCED for length in PROMPTS])
    exact = _eager(checkpoint, torch.float32, texts)
    own_error = _rms(_eager(checkpoint, dtype, texts) - exact)
    session = Builder(checkpoint, tmp_path / "artifacts").session(PLACES[0], "bfloat16")
    assert _rms(_replayed(session, texts) - exact) > ALLOWED * own_error


def _eager(checkpoint: Path, dtype: torch.dtype, texts: list[list[int]]) -> Tensor:
    """[texts, FORCED, vocabulary] in float32: the logits after the prompt and each forced token
    but the last."""
    model = load_eager(checkpoint, dtype)
    pairs = zip(texts, PROMPTS, strict=True)
    return torch.stack([forced_logits(model, text, length)[:FORCED] for text, length in pairs])


def _replayed(session: Session, texts: list[list[int]]) -> Tensor:
    """The same rows from one prefill and FORCED - 1 decode steps."""
    pairs = list(zip(texts, PROMPTS, strict=True))
    sequences = [session.sequence(text[:length]) for text, length in pairs]
    rows = [session.prefill(sequences).float()]
    for step in range(FORCED - 1):
        forced = [text[length + step] for text, length in pairs]
        rows.append(session.decode(sequences, forced).float().clone())
    return torch.stack(rows, 1)


def _rms(error: Tensor) -> float:
    return float(error.double().square().mean().sqrt())
