from __future__ import annotations

import pytest

from bench.cpu.deterministic import arguments


def test_what_is_measured_unless_told() -> None:
    options = arguments([])
    assert options.models == ["tiny-dense", "tiny-moe"]
    assert options.dtypes == ["float32", "bfloat16"]
    assert options.batches == (1, 16)


def test_a_clock_of_the_process_counts_one_thread(capsys: pytest.CaptureFixture[str]) -> None:
    assert arguments(["--cpu-clock", "--threads", "1"]).cpu_clock
    with pytest.raises(SystemExit):
        arguments(["--cpu-clock", "--threads", "2"])
    assert "--cpu-clock counts all threads together" in capsys.readouterr().err
