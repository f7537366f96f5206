"""The command line as a user meets it: compile, run, inspect, presets, on the shipped models."""

from __future__ import annotations

import json
import os
import re
import resource
import shutil
import time
from contextlib import redirect_stderr, redirect_stdout
from io import StringIO
from pathlib import Path

import pytest
from torch.export import ExportedProgram

from glmc.capture.export import capture
from glmc.cli.main import main
from glmc.weights.random_checkpoint import write_random_checkpoint
from tests.e2e.reference import greedy, load_eager
from tests.support.checked_functional import TRACE
from tests.support.command import ROOT, SMALL, Command, Outcome, command_of, in_a_process
from tests.support.thinned import thinned

pytestmark = [pytest.mark.long, pytest.mark.usefixtures("shared_captures")]
DENSE, MOE = ROOT / "models" / "tiny-dense", ROOT / "models" / "tiny-moe"
PROMPT = "Return a new"
OPTIONS = ("--target", "xpu", "--json", *SMALL)


@pytest.fixture
def run(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Command:
    """Nobody says how wide the output is, as in a pipe."""
    monkeypatch.delenv("COLUMNS", raising=False)
    return command_of(capsys)


@pytest.fixture(scope="module")
def compiled(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Outcome]:
    """tiny-moe for the emulated vendor."""
    path = tmp_path_factory.mktemp("moe") / "tiny-moe.xpu"
    return path, compile_quietly(MOE, "-o", path)


def compile_quietly(*arguments: object) -> Outcome:
    """In this process, outside of a test."""
    out, err = StringIO(), StringIO()
    with redirect_stdout(out), redirect_stderr(err):
        status = main(["compile", *map(str, arguments), *OPTIONS])
    assert status == 0, err.getvalue()
    return Outcome(status, out.getvalue(), err.getvalue())


def test_compile_json_is_the_report(compiled: tuple[Path, Outcome]) -> None:
    path, done = compiled
    report = json.loads(done.out)
    assert report["artifact"] == str(path)
    assert report["options"]["abi_profile"] == "P-A"
    counts = {entry["name"]: entry["matches"] for entry in report["passes"]}
    assert report["expected_matches"].items() <= counts.items()
    assert {"capture", "passes", "write"} <= set(report["seconds"])
    assert json.loads((path / "report.json").read_text())["phases"] == report["phases"]


# In the normal suite both processes are without torch's second trace, which is half of a capture.
QUICKLY = """
import sys
import pytest
from glmc.cli.main import main
from tests.support.quick_functional import quick_functional
quick_functional(pytest.MonkeyPatch())
sys.exit(main())
"""


@pytest.mark.parametrize("own_trace", thinned([False, True], [True]))
def test_a_process_of_its_own_makes_the_same_bytes(
    own_trace: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """And prints the report alone. Sets of strings have another order in it."""
    model = tmp_path / "model"
    config = json.loads((MOE / "config.json").read_text())
    write_random_checkpoint(model, {**config, "num_hidden_layers": 1, "first_k_dense_replace": 0})
    for file in MOE.glob("*token*"):
        shutil.copy(file, model)
    if own_trace:
        monkeypatch.setattr(ExportedProgram, "run_decompositions", TRACE)
        monkeypatch.setattr("glmc.compiler.capture", capture)
    ours, others = tmp_path / "ours", tmp_path / "others"
    compile_quietly(model, "-o", ours / "artifact", "--dump", ours / "dump")
    seed = "2" if os.environ.get("PYTHONHASHSEED") == "1" else "1"
    arguments = ("compile", model, "-o", others / "artifact", "--dump", others / "dump", *OPTIONS)
    done = in_a_process(
        *arguments,
        before=("env", f"PYTHONHASHSEED={seed}"),
        program=("-m", "glmc.cli.main") if own_trace else ("-c", QUICKLY),
    )
    assert done.status == 0, done.err
    assert json.loads(done.out)["artifact"] == str(others / "artifact")
    for name in ("artifact", "dump"):
        files, same = files_below(ours / name), files_below(others / name)
        assert len(files) > 9 and files.keys() == same.keys()
        assert [file for file in files if files[file] != same[file]] == ["times.json"]


def files_below(folder: Path) -> dict[str, bytes]:
    return {
        path.relative_to(folder).as_posix(): path.read_bytes()
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }


def test_a_second_compile_of_the_same_does_nothing(
    compiled: tuple[Path, Outcome], run: Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    path, first = compiled
    done = run("compile", MOE, *OPTIONS, "-o", path, "--if-changed")
    answer = json.loads(done.out)
    assert answer.pop("up_to_date") is True and done.err == ""
    assert answer["passes"] == json.loads(first.out)["passes"]
    monkeypatch.setattr("glmc.compiler.compile_job", pytest.fail)
    text = ("compile", MOE, *OPTIONS, "--if-changed", "-o", path, "--verify")
    assert run(*text).status == 2


def test_diff_of_a_dump_and_its_model_without_a_pass(tmp_path: Path, run: Command) -> None:
    """The model takes the options that the dump has recorded; numbers shift, names pair."""
    dump = tmp_path / "dump"
    done = run("compile", DENSE, *SMALL, "--no-weights", "-o", tmp_path / "plan", "--dump", dump)
    assert done.status == 0, done.err
    done = run("diff", dump, f"{DENSE} --passes-off add_rms_norm", "--json", "--exit-code")
    assert done.status == 1, done.err
    data = json.loads(done.out)
    assert [each["name"] for each in data["changes"]] == ["passes_off"]
    labels = {step["name"]: (step["a"], step["b"]) for step in data["steps"]}
    assert labels["add_rms_norm"] == ("013_fuse_add_rms_norm", None)
    assert labels["decode"] == ("016_phase_decode", "015_phase_decode")
    assert next(step["name"] for step in data["steps"] if step["nodes"]) == "add_rms_norm"
    kernels = {each["name"]: (each["a"], each["b"]) for each in data["plans"][1]["kernels"]}
    assert kernels["cpu.add_rms_norm"] == ("6", "0")


def test_compile_report_is_text(
    tmp_path: Path, run: Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "dense"
    monkeypatch.setenv("GLMC_LOGS", "capture,passes,lowering,+weights")
    done = run("compile", DENSE, "-o", path, "--report", *SMALL)
    assert done.status == 0
    for word in ("rms_norm", "attention", "kernel calls", "tiny-dense", "written in", "'glmc fit "):
        assert word in done.out, word
    logged = [line for line in done.err.splitlines() if line.startswith("glmc[")]
    passes = [line for line in logged if line.startswith("glmc[passes]: ")]
    assert len(passes) == 16  # the last pass makes two phases
    assert logged[0].startswith("glmc[capture]: ") and " nodes in 3 layers" in logged[0]
    assert [line for line in logged if line.startswith("glmc[lowering]: decode: 36 calls, ")]
    tensors = re.findall(r"glmc\[weights\]: (\d+) of 31: ", done.err)
    assert tensors == [str(number) for number in range(1, 32)]
    assert [line for line in logged if re.match(r"glmc.weights.: 31 tensors, .*packed in ", line)]
    shown = (ROOT / "docs" / "logging.md").read_text().splitlines()
    for line in (line for line in shown if line.startswith("glmc[passes]: ")):
        assert _without_time(line) in map(_without_time, logged)
    others = [line for line in done.err.splitlines() if line not in logged]
    stages = [line.partition(" s: ")[2] for line in others]
    assert stages[0].startswith("importing ") and stages[1].startswith("capture of ")
    assert stages[2:5] == ["15 passes", "lower prefill", "lower decode"]
    assert stages[5].startswith("packing of ") and len(stages) == 6
    needs, last = done.out.splitlines()[-2:]
    assert needs.startswith("needs ") and needs.endswith(" says what fits")
    assert re.search(r" written in .*: .*compile .*, packing .*; peak memory", last)
    assert run("run", path, "--prompt", PROMPT, "--max-new-tokens", "4").status == 0


def _without_time(line: str) -> str:
    return re.sub(r"\d+ ms$|[\d.]+ s$", "", line)


def test_run_json_says_that_it_is_emulated(compiled: tuple[Path, Outcome], run: Command) -> None:
    arguments = ("--prompt", PROMPT, "--max-new-tokens", "12", "--ignore-eos", "--json")
    done = run("run", compiled[0], "--emulate", *arguments)
    assert done.status == 0
    result = json.loads(done.out)
    assert result["emulated"] is True
    (completion,) = result["completions"]
    assert len(completion["tokens"]) == 12 and completion["text"].strip()
    assert completion["finish_reason"] == "length"
    assert result["statistics"]["vendor_calls"]


def test_run_chat_goes_through_the_template(tmp_path: Path, run: Command) -> None:
    """The completion is Hugging Face's for the tokens that its own template makes."""
    import torch
    from transformers import AutoTokenizer

    path = tmp_path / "dense"
    assert run("compile", DENSE, "-o", path, "--dtype", "float32", *SMALL).status == 0
    arguments = ("--prompt", PROMPT, "--chat", "--max-new-tokens", "8", "--ignore-eos", "--json")
    (completion,) = json.loads(run("run", path, *arguments).out)["completions"]
    tokenizer = AutoTokenizer.from_pretrained(DENSE)
    ids = tokenizer.apply_chat_template(
        [{"role": "user", "content": PROMPT}], add_generation_prompt=True, return_dict=True
    )["input_ids"]
    assert [completion["tokens"]] == greedy(load_eager(DENSE, torch.float32), [ids], 8)


def test_the_text_is_alone_on_stdout_and_stderr_says_that_it_is_emulated(
    compiled: tuple[Path, Outcome], run: Command
) -> None:
    arguments = ("--emulate", "--prompt", PROMPT, "--max-new-tokens", "4", "--ignore-eos")
    done = run("run", compiled[0], *arguments)
    assert done.status == 0
    (completion,) = json.loads(run("run", compiled[0], *arguments, "--json").out)["completions"]
    assert done.out == completion["text"] + "\n"
    assert "(emulated); stopped: length of 4" in done.err


def test_inspect(compiled: tuple[Path, Outcome], run: Command) -> None:
    path, _ = compiled
    text = run("inspect", path)
    assert text.status == 0
    for word in ("tiny-moe", "Glm4MoeForCausalLM", "kunlun_ops.moe_fc", "ABI profile P-A"):
        assert word in text.out, word
    data = json.loads(run("inspect", path, "--json").out)
    assert data["manifest"]["target"] == "xpu"
    assert data["weight_bytes"] > 1_000_000
    assert data["report"]["phases"]["decode"]["calls"] > 50
    layer = run("inspect", path, "--layer", "1")
    assert layer.status == 0 and "moe_fc" in layer.out
    assert "moe_fc" not in run("inspect", path, "--layer", "0").out
    small = run("inspect", path, "--device-memory", "1MiB").out
    assert "does not fit into 1.0 MiB: " in small and "'glmc fit " in small
    assert "What fits" not in small and "What fits into 96.0 GiB" in text.out
    limit = data["manifest"]["limits"]["max_context"]
    assert f"fits into 96.0 GiB with one sequence of {limit:,} tokens" in " ".join(text.out.split())
    missing = run("inspect", path, "--layer", "9")
    assert missing.status == 2 and "GLMC-1001" in missing.err and "remedy:" in missing.err


def test_fit(compiled: tuple[Path, Outcome], run: Command) -> None:
    path, _ = compiled
    data = json.loads(run("fit", path, "--json", "--device-memory", "4MiB").out)
    assert data["weight_bytes"] == json.loads(run("inspect", path, "--json").out)["weight_bytes"]
    (card,) = data["cards"]
    assert card["memory"] == 4 << 20 and card["left"] > 0
    text = run("fit", path)
    assert text.status == 0 and "24GB" in text.out and "a plain division" in text.out
    assert run("fit", path, "--target", "cpu").status == 2


def test_presets(run: Command) -> None:
    text, data = run("presets"), json.loads(run("presets", "--json").out)
    assert text.status == 0 and "glm-4.7" in text.out
    assert "glm-4.7" in json.dumps(data)


def test_help_and_unknown_commands(run: Command) -> None:
    assert run("--help").status == 0
    assert "compile" in run("--help").out
    wrong = run("compyle")
    assert wrong.status == 2 and "Traceback" not in wrong.err


@pytest.mark.slow
def test_the_largest_preset_compiles_within_its_time_and_memory(tmp_path: Path) -> None:
    """Without weights, imports included: at most 90 s and 4 GB."""
    start = time.monotonic()
    arguments = ("compile", "glm-4.7", "--target", "xpu", "--no-weights", "-o", tmp_path / "glm")
    done = in_a_process(*arguments)
    seconds = time.monotonic() - start
    assert done.status == 0, done.err
    assert seconds <= 90
    # The largest child process so far; in KiB on Linux.
    assert resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss * 1024 <= 4e9
