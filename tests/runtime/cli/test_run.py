"""``run``: what goes to stdout and to stderr, errors without tracebacks, exit codes."""

from __future__ import annotations

import io
import json
import os
import signal
import sys
from pathlib import Path

import pytest

import glmc_runtime
from glmc_runtime.cli import main
from glmc_runtime.command.ending import ENDING
from glmc_runtime.errors import ArtifactError
from glmc_runtime.replay.statistics import Statistics
from tests.runtime.toy import MAX_CONTEXT, reference_greedy
from tests.support.forked import in_a_fork

IDS = ["--token-ids", "3,14,15", "--ignore-eos"]


def test_json(toy_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["run", str(toy_path), *IDS, "--max-new-tokens", "5", "--json"]) == 0
    result = json.loads(capsys.readouterr().out)
    assert result["emulated"] is False
    assert result["completions"][0]["tokens"] == reference_greedy([3, 14, 15], 5)
    assert result["completions"][0]["finish_reason"] == "length"
    assert result["statistics"]["finished"] == {"length": 1}


def test_a_stream_of_ids_without_a_tokenizer(
    toy_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["run", str(toy_path), *IDS, "--max-new-tokens", "3", "--statistics"]) == 0
    captured = capsys.readouterr()
    assert captured.out.split() == [str(token) for token in reference_greedy([3, 14, 15], 3)]
    assert "3 tokens in" in captured.err
    assert "padding" in captured.err


def test_several_prompts_are_a_line_each(
    toy_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = ["run", str(toy_path), *IDS, "--token-ids", "1", "--max-new-tokens", "2"]
    assert main(arguments) == 0
    captured = capsys.readouterr()
    expected = [reference_greedy(prompt, 2) for prompt in ([3, 14, 15], [1])]
    assert captured.out.splitlines() == [" ".join(map(str, tokens)) for tokens in expected]
    assert captured.err.splitlines()[0] == "--- prompt 0: 2 tokens, stopped: length of 2"


@pytest.mark.parametrize("longest", ["8", "999"])
def test_the_end_of_the_context_is_said_before_and_after(
    toy_path: Path, capsys: pytest.CaptureFixture[str], longest: str
) -> None:
    prompt = ",".join(["3"] * (MAX_CONTEXT - 9))
    arguments = ["run", str(toy_path), "--token-ids", prompt, "--ignore-eos"]
    assert main([*arguments, "--max-new-tokens", longest]) == 0
    captured = capsys.readouterr()
    cut = longest == "999"
    assert len(captured.out.split()) == (10 if cut else 8)
    assert (f"at most 10 new tokens fit the context of {MAX_CONTEXT}" in captured.err) == cut
    ending = f"end of the context of {MAX_CONTEXT}" if cut else "length of 8"
    assert captured.err.endswith(f"; stopped: {ending}\n")


def test_the_quiet_hear_the_text_alone(toy_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    arguments = ["run", str(toy_path), *IDS, "--max-new-tokens", "3"]
    for words in (["-q", *arguments], [*arguments, "--quiet"]):
        assert main(words) == 0
        captured = capsys.readouterr()
        assert captured.err == "" and len(captured.out.split()) == 3


def test_a_ctrl_c_has_a_word_and_a_status(
    toy_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def stopped(*values: object, **named: object) -> None:
        signal.raise_signal(signal.SIGINT)

    monkeypatch.setattr("glmc_runtime.cli.sessions.load", stopped)
    assert main(["run", str(toy_path), *IDS]) == 130
    assert capsys.readouterr().err == "stopped\n"


@pytest.mark.parametrize("number", ENDING)
def test_a_signal_unwinds_a_run(
    number: signal.Signals, toy_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    cleaned: list[int] = []

    def ended(*values: object, **named: object) -> None:
        try:
            signal.raise_signal(number)
        finally:
            cleaned.append(number)

    monkeypatch.setattr("glmc_runtime.cli.sessions.load", ended)
    with pytest.raises(SystemExit) as caught:
        main(["run", str(toy_path), *IDS])
    assert caught.value.code == 128 + number and cleaned == [number]
    assert signal.getsignal(number) is signal.SIG_DFL


@pytest.mark.parametrize(
    ("arguments", "code"),
    [
        ([], "GLMC-2004"),
        (["--token-ids", "1,x"], "GLMC-2004"),
        (["--token-ids", "999"], "GLMC-2004"),
        (["--prompt", "text"], "GLMC-2004"),
        (["--token-ids", "1", "--temperature", "-1"], "GLMC-2004"),
        (["--token-ids", "1", "--kv-blocks", "1"], "GLMC-2005"),
        (["--token-ids", "1", "--kv-blocks", "3"], "GLMC-2005"),
        (["--token-ids", "1", "--kv-blocks", "-5"], "GLMC-2005"),
        (["--token-ids", "1", "--kv-blocks", "9" * 30], "GLMC-2005"),
    ],
)
def test_errors_are_text_and_an_exit_status(
    toy_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    arguments: list[str],
    code: str,
) -> None:
    monkeypatch.setattr(sys, "stdin", io.StringIO())
    assert main(["run", str(toy_path), *arguments]) == 2
    captured = capsys.readouterr()
    assert captured.err.startswith(f"[{code}]")
    assert "Traceback" not in captured.err
    assert captured.out == ""


def test_debug_shows_the_traceback(tmp_path: Path) -> None:
    with pytest.raises(ArtifactError):
        main(["run", str(tmp_path / "none"), "--token-ids", "1", "--debug"])


@pytest.mark.parametrize("chat", [False, True])
def test_text_in_and_out(worded: Path, capsys: pytest.CaptureFixture[str], chat: bool) -> None:
    arguments = ["run", str(worded), "--prompt", "w3 w14", "--max-new-tokens", "4", "--ignore-eos"]
    if chat:
        pytest.importorskip("jinja2")
        arguments.append("--chat")
    assert main(arguments) == 0
    prompt = [9, 3, 14, 8] if chat else [3, 14]
    words = [f"w{token}" for token in reference_greedy(prompt, 4)]
    assert capsys.readouterr().out.split() == words
    assert main([*arguments, "--json"]) == 0
    completion = json.loads(capsys.readouterr().out)["completions"][0]
    assert completion["text"].split() == words


@pytest.mark.parametrize("options", [[], ["--json"]])
def test_a_reader_that_has_seen_enough_is_no_error(toy_path: Path, options: list[str]) -> None:
    arguments = ["run", str(toy_path), *IDS, "--max-new-tokens", "5", *options]
    reader, writer = os.pipe()
    os.close(reader)
    ended = in_a_fork(lambda: main(arguments), writer)
    os.close(writer)
    assert ended == (141, "")


@pytest.mark.parametrize("options", [[], ["--json"]])
def test_a_full_disk_behind_the_output_is_an_error_with_a_code(
    toy_path: Path, options: list[str]
) -> None:
    """What comes after ``main`` is in tests/runtime/test_imports.py."""
    arguments = ["run", str(toy_path), *IDS, "--max-new-tokens", "5", *options]
    with open("/dev/full", "w") as full:
        status, err = in_a_fork(lambda: main(arguments), full.fileno())
    assert status == 1
    assert err.startswith("[GLMC-2009]")
    assert "Traceback" not in err


def test_statistics_show_times_and_guard_steps() -> None:
    statistics = Statistics(timing=True)
    statistics.count_step("decode", 4, 3)
    statistics.count_segment("decode", 4, 0, 1.5)
    statistics.count_segment("decode", 4, 1, 0.25)
    statistics.count_segment("decode", 8, 0, 7.0)
    statistics.count_guard_step("prefill")
    header, decode, guarded = statistics.summary().splitlines()
    assert header.split() == ["phase", "bucket", "steps", "rows", "padding", "seconds"]
    assert decode.split() == ["decode", "4", "1", "4", "25.0%", "1.750"]
    assert guarded.startswith("1 guard steps")
    statistics.timing = False
    assert "seconds" not in statistics.summary()


def test_a_path_too_long_is_no_artifact(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["run", "a" * 5000, "--token-ids", "1"]) == 2
    assert capsys.readouterr().err.startswith("[GLMC-2001]")


def test_the_doctor_refuses_a_seed_of_too_many_bits(
    toy_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["doctor", str(toy_path), "--seed", str(1 << 63)]) == 2
    assert capsys.readouterr().err.startswith("[GLMC-2004]")


def test_options_of_requests_are_flags(toy_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    flags = ["--temperature", "1.2", "--seed", "3", "--n", "2", "--min-p", "0.01", "--top-p", "0.9"]
    flags += ["--repetition-penalty", "1.1", "--logit-bias", "5=-1.5", "--logit-bias", "6=2"]
    flags += ["--presence-penalty", "0.1", "--frequency-penalty", "0.1", "--max-new-tokens", "6"]
    flags += ["--stop-token-ids", "9", "--min-new-tokens", "2", "--ignore-generation-config"]
    assert main(["run", str(toy_path), *IDS, *flags, "--json", "--logprobs", "1"]) == 0
    completions = json.loads(capsys.readouterr().out)["completions"]
    expected = glmc_runtime.load(toy_path).generate(
        [3, 14, 15],
        n=2,
        temperature=1.2,
        seed=3,
        min_p=0.01,
        top_p=0.9,
        repetition_penalty=1.1,
        logit_bias={5: -1.5, 6: 2},
        presence_penalty=0.1,
        frequency_penalty=0.1,
        max_new_tokens=6,
        stop_token_ids=[9],
        min_new_tokens=2,
        ignore_eos=True,
    )
    assert [item["tokens"] for item in completions] == [item.tokens for item in expected]
    assert [(item["prompt"], item["choice"]) for item in completions] == [(0, 0), (0, 1)]
    assert [len(item["logprobs"]) for item in completions] == [
        len(item.tokens) for item in expected
    ]
    assert main(["run", str(toy_path), *IDS, *flags]) == 0
    captured = capsys.readouterr()
    assert "--- prompt 0, answer 1: " in captured.err
    assert len(captured.out.splitlines()) == 2


@pytest.mark.parametrize(
    "flags",
    [
        ["--logit-bias", "5"],
        ["--logit-bias", "a=1"],
        ["--logit-bias", "5=nan"],
        ["--logprobs", "1"],
        ["--n", "2"],
        ["--temperature", "nan"],
        ["--stop", ""],
        ["--do-sample", "--temperature", "0"],
        ["--seed", "9" * 30],
        ["--max-new-tokens", "0"],
    ],
    ids=" ".join,
)
def test_flags_that_can_not_be_meant(
    toy_path: Path, capsys: pytest.CaptureFixture[str], flags: list[str]
) -> None:
    assert main(["run", str(toy_path), *IDS, *flags]) == 2
    captured = capsys.readouterr()
    assert captured.err.startswith("[GLMC-2004]") and captured.out == ""


def test_a_stop_string_is_not_printed(worded: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = [f"w{token}" for token in reference_greedy([3, 14], 8)]
    stop = " ".join(words[3:6])
    arguments = ["run", str(worded), "--prompt", "w3 w14", "--ignore-eos", "--stop", stop]
    assert main(arguments) == 0
    assert capsys.readouterr().out.split() == words[:3]
    assert main([*arguments, "--include-stop-str-in-output"]) == 0
    assert capsys.readouterr().out.split() == words[:6]
