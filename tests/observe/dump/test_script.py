"""Every dumped script runs, and computes what the graph computes."""

from __future__ import annotations

import runpy
from pathlib import Path
from typing import Any

import pytest
import torch

from glmc.errors import InternalError
from glmc.ir.program import Program
from glmc.observe.dump.parts import part_of
from glmc.observe.dump.script import script
from tests.observe.dump.steps import cut, steps


def written(program: Program, path: Path, *, fold: bool = True) -> dict[str, Any]:
    values, made = cut(program, fold=fold)
    path.write_text(script(["header"], program, made, values))
    return runpy.run_path(str(path))


@pytest.mark.parametrize(
    "family",
    ["glm4_moe", *(pytest.param(each, marks=pytest.mark.slow) for each in ("glm", "glm4"))],
)
def test_scripts_of_all_steps_run(family: str, tmp_path: Path, capsys: Any) -> None:
    for name, program in steps(family).items():
        written(program, tmp_path / f"{name}.py")["main"]([])
        assert "layer_0 [" in capsys.readouterr().out


@pytest.mark.parametrize("name", ["capture", "attention", "moe_ffn", "prefill", "decode"])
def test_a_script_computes_what_its_graph_does(name: str, tmp_path: Path) -> None:
    """The parts, given each other's values, against the interpreted graph on the same inputs."""
    program = steps("glm4_moe")[name]
    _, made = cut(program, fold=False)
    module = written(program, tmp_path / "step.py", fold=False)
    parts = [part for block in made if (part := part_of(block)).calls]
    given: dict[Any, Any] = {}
    for part in parts:
        for node, value in zip(part.inputs, module[f"example_{part.name}"](), strict=True):
            if node.op == "placeholder":
                given.setdefault(node, value)
    leaves = [given.get(node, torch.zeros(())) for node in program.placeholders()]
    found: dict[Any, Any] = {}

    class Keep(torch.fx.Interpreter):
        def run_node(self, n: torch.fx.Node) -> Any:
            found[n] = super().run_node(n)
            return found[n]

    with torch.no_grad():
        Keep(program.graph_module).run(*leaves)
    compared = 0
    for part in parts:
        with torch.no_grad():
            results = module[part.name](*(found[node] for node in part.inputs))
        tensors = [node for node in part.outputs if isinstance(found[node], torch.Tensor)]
        for node, result in zip(tensors, results, strict=True):
            torch.testing.assert_close(result, found[node], rtol=0, atol=0, equal_nan=True)
            compared += 1
    assert compared > len(parts) - 1 and found[list(found)[-1]][0].isfinite().all()


def test_another_shape_than_recorded_fails(tmp_path: Path) -> None:
    program = steps("glm4_moe")["decode"]
    module = written(program, tmp_path / "step.py")
    run, example, expected = module["PARTS"]["layer_0"]
    module["PARTS"]["layer_0"] = (run, example, ["[1] torch.float32", *expected[1:]])
    with pytest.raises(SystemExit, match="layer_0: expected"):
        module["main"](["layer_0"])
    with pytest.raises(SystemExit, match="no part layer_9"):
        module["main"](["layer_9"])


def test_a_graph_with_other_than_calls_is_refused() -> None:
    program = steps("glm4_moe")["clean"].copy()
    node = next(node for node in program.graph.nodes if node.op == "call_function")
    node.op, node.target = "call_method", "abs"
    values, made = cut(program)
    with pytest.raises(InternalError, match="call_method"):
        script([], program, made, values)
