"""Lines of ours are seen in the log of vLLM."""

from __future__ import annotations

import logging

import pytest

from glmc_engines.vllm.log import show_log


def test_lines_of_ours_are_shown_where_those_of_vllm_are(monkeypatch: pytest.MonkeyPatch) -> None:
    ours, theirs = logging.getLogger("glmc.of_a_test"), logging.getLogger("vllm")
    handler = logging.NullHandler()
    monkeypatch.setattr(theirs, "handlers", [handler])
    monkeypatch.setattr(theirs, "level", logging.INFO)
    for _ in range(2):
        show_log("glmc.of_a_test")
    assert ours.handlers == [handler] and ours.level == logging.INFO
