"""An artifact's manifest against what an engine may ask for."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch

from glmc_engines.core.errors import NoArtifactError, UnsupportedError
from glmc_engines.core.header import Header, Sizes
from glmc_runtime.errors import ArtifactError, GlmcError
from tests.runtime.toy import DECODE_BUCKETS, MAX_CONTEXT, PREFILL_BUCKETS, write_toy

FITS = Sizes(
    tokens=PREFILL_BUCKETS[-1],
    sequences=DECODE_BUCKETS[-1],
    context=MAX_CONTEXT,
    dtype=torch.float32,
)


@pytest.fixture
def header(tmp_path: Path) -> Header:
    return Header.of(write_toy(tmp_path / "toy"))


def test_what_fits_is_served(header: Header) -> None:
    header.check(FITS)
    assert (header.tokens, header.sequences) == (FITS.tokens, FITS.sequences)
    assert header.context == FITS.context


@pytest.mark.parametrize(
    ("changes", "kind", "text"),
    [
        ({"tokens": 17}, UnsupportedError, "--prefill-buckets"),
        ({"sequences": 5}, UnsupportedError, "--decode-buckets"),
        ({"context": 61}, UnsupportedError, "--max-context"),
        ({"dtype": torch.bfloat16}, NoArtifactError, "--dtype bfloat16"),
        ({"ranks": 2}, NoArtifactError, "--tensor-parallel 2"),
    ],
)
def test_what_does_not_fit_is_refused_with_what_helps(
    header: Header, changes: dict[str, object], kind: type[GlmcError], text: str
) -> None:
    with pytest.raises(kind) as caught:
        header.check(replace(FITS, **changes))  # type: ignore[arg-type]
    assert text in caught.value.remedy


def test_a_folder_that_is_no_artifact_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ArtifactError):
        Header.of(tmp_path)


def test_the_first_line_says_what_serves(header: Header) -> None:
    line = header.first_line("toy", "named", emulated=False)
    assert line == (
        f"glmc serves toy: {header.path} (named), cpu, float32, 1 rank, "
        "buckets: prefill 4/8/16, decode 1/2/4"
    )
    phases = tuple(
        replace(entry, buckets=tuple(range(4, 60, 4))) if entry.phase == "prefill" else entry
        for entry in header.manifest.phases
    )
    many = replace(header, manifest=replace(header.manifest, phases=phases))
    assert "prefill 14 of 4 to 56, decode 1/2/4" in many.first_line("toy", "named", emulated=False)
    assert "cpu, emulated" in header.first_line("toy", "named", emulated=True)
