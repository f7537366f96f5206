"""docs/engines.md names what the adapters have."""

from __future__ import annotations

import ast
import os
import re
import shlex
import shutil
import subprocess
from pathlib import Path

import pytest
import tomllib

from glmc.cli.main import main
from glmc_engines.core.counters import HELP
from glmc_engines.core.header import Header
from glmc_engines.sglang.limits import LIMITS
from glmc_engines.sglang.requests import ARCHITECTURES
from tests.docs.markdown import ROOT, section, table_rows

README = ROOT / "README.md"
SERVING = "Serving with vLLM and SGLang"
PAGE = ROOT / "docs" / "engines.md"
ADAPTERS = ROOT / "runtime" / "glmc_engines"


def constant(file: Path, name: str) -> ast.expr:
    """The value of a constant, whose module can't be imported without its engine."""
    for statement in ast.parse(file.read_text(encoding="utf-8")).body:
        if isinstance(statement, ast.Assign) and ast.unparse(statement.targets[0]) == name:
            return statement.value
    raise LookupError(f"{file} has no {name}")


def test_the_metrics_are_those_of_both_adapters() -> None:
    written = {f"glmc_{name}" + "_total" * (name != "serves") for name in HELP}
    rows = table_rows(section(PAGE, "Metrics"))
    assert {row[0].strip("`") for row in rows} == written


def test_the_architectures_are_there() -> None:
    tree = ast.parse((ADAPTERS / "vllm" / "models.py").read_text(encoding="utf-8"))
    classes = {each.name for each in tree.body if isinstance(each, ast.ClassDef)}
    named = set(re.findall(r"`(\w+ForCausalLM)`", PAGE.read_text(encoding="utf-8")))
    assert named == ARCHITECTURES
    assert named <= classes


def test_the_versions_are_those_that_make_installs() -> None:
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    text = section(PAGE, "Install")
    for variable, name in (("VLLM", "vLLM"), ("SGLANG", "SGLang")):
        version = re.search(rf"^{variable} := (\S+)$", makefile, re.MULTILINE)
        assert version is not None
        assert f"{name} {version[1]}" in text


def commands(page: Path, title: str) -> list[list[str]]:
    """The words of the commands that a section shows."""
    lines = re.findall(r"^\$ (.*)$", section(page, title), re.MULTILINE)
    return [shlex.split(line, comments=True) for line in lines]


@pytest.mark.parametrize(("page", "title"), [(README, SERVING), (PAGE, "vLLM"), (PAGE, "SGLang")])
def test_make_makes_what_the_next_commands_are_in(page: Path, title: str) -> None:
    """On a fresh machine, where there is no environment yet."""
    if shutil.which("make") is None:
        pytest.skip("make is not installed")
    words = commands(page, title)
    targets = [word for each in words if each[0] == "make" for word in each[1:]]
    environment = {name: value for name, value in os.environ.items() if not name.startswith("MAKE")}
    command = ["make", "--no-print-directory", "-n", "-B", *targets]
    done = subprocess.run(
        command, cwd=ROOT, env=environment, check=True, capture_output=True, text=True
    )
    programs = [
        word
        for each in words
        if each[0] not in ("make", "curl")
        for word in [next(word for word in each if "=" not in word)]
    ]
    assert programs
    for program in programs:
        place = re.fullmatch(r"(\.[\w/]+)/bin/\w+", program)
        assert place is not None, f"{program} is in no environment that make makes"
        assert f"touch {place[1]}/.installed" in done.stdout.splitlines()
    scripts = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["scripts"]
    assert ".venv/bin/glmc" in programs and "glmc" in scripts


def test_the_readme_s_servers_are_those_of_their_pages() -> None:
    """On one port: one line asks either."""
    *_, of_vllm, of_sglang, asked = commands(README, SERVING)
    for title, line in (("vLLM", of_vllm), ("SGLang", of_sglang)):
        *_, served, curled = commands(PAGE, title)
        assert line == served and line[-2] == "--port"
        assert f"http://127.0.0.1:{line[-1]}/v1" in asked[-1]
        assert curled[1] == f"http://127.0.0.1:{line[-1]}/v1/completions"
        assert f"http://127.0.0.1:{line[-1]}/metrics" in section(PAGE, "Metrics")
    assert "--enable-metrics" in of_sglang


def test_the_readme_s_line_of_the_log_begins_that_of_the_page() -> None:
    (line,) = re.findall(r"```log\n(.*)\n```", section(PAGE, "What serves"))
    (begun,) = re.findall(r'"(glmc serves [^"]*)\.\.\."', section(README, SERVING))
    assert line.startswith(begun) and begun.endswith("(named)")


def test_what_the_readme_s_client_prints_is_what_make_demo_shows() -> None:
    """The same prompt and model; the servers' answer is 32 tokens of the 48."""
    shown = section(README, SERVING).partition("# from another terminal\n")[2].partition("\n```")[0]
    assert shown and shown in section(README, "Two commands")


def test_the_refusal_is_of_an_option_that_vllm_s_adapter_has() -> None:
    """All of the text is held inside vLLM, by tests/engines/vllm/test_readme.py."""
    rows = constant(ADAPTERS / "vllm" / "limits.py", "LIMITS")
    assert isinstance(rows, ast.Tuple)
    limits = [
        tuple(map(ast.literal_eval, row.args[:2])) for row in rows.elts if isinstance(row, ast.Call)
    ]
    pattern = r"^\[GLMC-4001\] compiled plans have no (.*)\n  where: +vLLM, (--\S+)$"
    (refused,) = re.findall(pattern, section(PAGE, "Limits"), re.MULTILINE)
    assert refused in limits


@pytest.mark.long
@pytest.mark.usefixtures("shared_captures")
def test_the_line_of_the_log_is_what_the_commands_give(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    _, _, compiled, served, _ = commands(PAGE, "vLLM")
    (line,) = re.findall(r"```log\n(.*)\n```", section(PAGE, "What serves"))
    (tmp_path / "models").symlink_to(ROOT / "models")
    monkeypatch.chdir(tmp_path)
    assert main(compiled[1:]) == 0
    header = Header.of(Path(compiled[-1]))
    assert header.first_line(served[served.index("serve") + 1], "named", emulated=False) == line


def test_all_that_sglang_s_environment_has_is_pinned() -> None:
    folder = ROOT / "tools" / "engine_environments"
    required, pinned = (
        [line for line in (folder / name).read_text().splitlines() if line and line[0] not in "#-"]
        for name in ("sglang.txt", "sglang-constraints.txt")
    )
    assert "--constraint sglang-constraints.txt\n" in (folder / "sglang.txt").read_text()
    versions = dict(line.lower().replace("_", "-").split("==") for line in pinned)
    named = [line.lower().replace("_", "-").partition("==") for line in required]
    assert named and all(name in versions for name, _, _ in named)
    assert all(version in ("", versions[name]) for name, _, version in named)


FLAG = re.compile(r"`((?:--|VLLM_)[\w-]+)(?:=1)?`")
OF_ARTIFACTS = {"--page-size", "--model-impl", "--hf-overrides", "--kv-cache-dtype"}
"""Refused by a look at more than the option."""


def told(column: int) -> dict[str, str]:
    """What becomes of each option of an engine: refused, taken or no effect."""
    cells = [row[column] for row in table_rows(section(PAGE, "Limits"))]
    return {
        flag: words.strip().partition(",")[0].partition(";")[0]
        for options, _, words in (cell.partition(": ") for cell in cells)
        for flag in FLAG.findall(options)
    }


def test_what_becomes_of_options_of_vllm() -> None:
    rows = constant(ADAPTERS / "vllm" / "limits.py", "LIMITS")
    assert isinstance(rows, ast.Tuple)
    limits = {ast.literal_eval(row.args[1]) for row in rows.elts if isinstance(row, ast.Call)}
    becomes = told(1)
    assert set(becomes.values()) == {"refused", "taken", "no effect"}
    refused = {flag for flag, word in becomes.items() if word == "refused"}
    assert limits <= refused <= limits | OF_ARTIFACTS


def test_what_becomes_of_options_of_sglang() -> None:
    limits = {limit.flag for limit in LIMITS}
    becomes = told(2)
    assert set(becomes.values()) == {"refused", "taken", "no effect"}
    for flag, word in becomes.items():
        assert (word == "refused") == (flag in limits | OF_ARTIFACTS), flag
