"""docs/errors.md names every error class with its code, and its examples are what users see."""

from __future__ import annotations

import errno
import importlib
import importlib.util
import json
import os
import pkgutil
import shutil
import signal
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import h5py
import pytest
import torch
from safetensors.torch import load_file
from torch import nn
from torch.fx import Graph

import glmc
import glmc.errors
import glmc_engines.core
import glmc_runtime
import glmc_runtime.errors
from glmc.artifact.writer import write_artifact
from glmc.capture.model import decoder_layers
from glmc.check.verify.verdict import Verdict, Violation, require_verdict
from glmc.compiler import compile_model, compile_plan
from glmc.config import CompileOptions
from glmc.errors import GlmcError
from glmc.ir.match import NearMiss
from glmc.ir.ops.linear import SWIGLU
from glmc.ir.ops.registry import define
from glmc.ir.rewrite import fake_mode_of
from glmc.job import read_job
from glmc.out_of_memory import memory_errors
from glmc.passes.base import Match
from glmc.pipeline.expectations import require_matches
from glmc.pipeline.records import PassRecord
from glmc.presets.catalog import load_config
from glmc.weights.checkpoint import open_checkpoint
from glmc_engines.core.errors import EngineVersionError
from glmc_engines.core.header import Header, Sizes
from glmc_engines.core.options import Options
from glmc_engines.core.plan import artifact_for
from glmc_engines.core.wanted import Wanted
from glmc_kunlun_emulator import errors as emulator_errors
from glmc_runtime.command.output import file_error
from glmc_runtime.engine.ranks.reports import ended
from glmc_runtime.engine.sampling import Sampler, SamplingParameters, next_tokens
from glmc_runtime.format.manifest import Guards
from glmc_runtime.format.plan_json import phase_from_json
from glmc_runtime.generate.text import packages
from glmc_runtime.kernels.vendor import Vendor
from glmc_runtime.loading.guards import check_vendor_functions
from glmc_runtime.loading.loader import load_artifact
from glmc_runtime.record.h5_facts import recorded_run
from glmc_runtime.replay.cache import BlockAllocator
from tests.docs.markdown import ROOT, blocks, section, table_rows
from tests.runtime.toy import write_toy

PAGE = ROOT / "docs" / "errors.md"
TINY = ROOT / "models" / "tiny-dense"


def classes() -> list[type[GlmcError]]:
    """GlmcError and everything derived from it, wherever our packages define it."""
    for package in (glmc, glmc_runtime, glmc_engines.core):
        for module in pkgutil.walk_packages(package.__path__, f"{package.__name__}."):
            if not module.name.endswith("__main__"):
                importlib.import_module(module.name)
    found, todo = [], [GlmcError]
    while todo:
        one = todo.pop()
        found.append(one)
        todo.extend(one.__subclasses__())
    # What an adapter derives from ours is the same error, of a kind that its engine knows.
    ours = ("glmc.", "glmc_runtime.", "glmc_engines.core.")
    return sorted(
        (each for each in found if each.__module__.startswith(ours)), key=lambda c: c.code
    )


FAMILIES = {"glmc": "GLMC-1", "glmc_runtime": "GLMC-2", "glmc_engines": "GLMC-4"}
CONCRETE = [each for each in classes() if each is not GlmcError]


@dataclass
class Scene:
    """A place to go wrong in; its path is printed as CHECKPOINT."""

    path: Path
    vendor: Vendor = field(
        default_factory=lambda: Vendor(
            {"kunlun_ops": SimpleNamespace(rmsnorm=lambda x, weight, out, eps: None)},
            False,
            None,
            "installed vendor libraries",
        )
    )

    def checkpoint(self) -> Path:
        return Path(shutil.copytree(TINY, self.path, dirs_exist_ok=True))


def usage(scene: Scene) -> None:
    CompileOptions(target="xpu", decode_buckets=(4, 2))


def config(scene: Scene) -> None:
    path = scene.checkpoint() / "config.json"
    data = json.loads(path.read_text())
    path.write_text(json.dumps({**data, "quantization_config": {"quant_method": "fp8"}}))
    load_config(scene.path)


def checkpoint(scene: Scene) -> None:
    with (scene.checkpoint() / "model.safetensors").open("r+b") as file:
        file.truncate(100_000)
    open_checkpoint(scene.path, load_config(scene.path).fields)


def capture(scene: Scene) -> None:
    class GlmWithAnotherTrunk(nn.Module):
        pass

    decoder_layers(GlmWithAnotherTrunk())


def match_count(scene: Scene) -> None:
    gates = [f"model.layers.{layer}.mlp.gate" for layer in (1, 2, 3)]
    matches = tuple(Match(f"{gate}#gather", gate, layer) for layer, gate in enumerate(gates[:2], 1))
    miss = NearMiss(
        "moe_gate",
        anchor=f"{gates[2]}#gather",
        node=f"{gates[2]}#sigmoid",
        module=gates[2],
        layer=3,
        condition="the router must be computed in float32",
        source="modeling_glm4_moe.py:301",
    )
    record = PassRecord("moe_gate", "bitwise", 0.1, 301, 260, matches, (miss,))
    require_matches((record,), {"moe_gate": 3})


def lowering(scene: Scene) -> None:
    compile_plan(read_job(TINY, CompileOptions(target="xpu", block_size=48)))


def abi(scene: Scene) -> None:
    compile_plan(read_job(TINY, CompileOptions(target="xpu", abi_profile="P-D")))


def pack(scene: Scene) -> None:
    nothing: Any = None
    write_artifact(scene.checkpoint(), parts=nothing, plans={}, weights=[], source=None)


def verification(scene: Scene) -> None:
    gate = "model.layers.2.mlp.gate"
    violation = Violation(
        "moe_gate",
        "bitwise",
        f"{gate}#gather",
        f"{gate}#mul",
        2,
        "ties in scores",
        0.25,
        0.0,
        "modeling_glm4_moe.py:301 forward",
    )
    require_verdict(Verdict("moe_gate", "bitwise", "", (violation,)))


def out_of_memory(scene: Scene) -> None:
    with memory_errors(lambda: "capture"):
        raise RuntimeError("can't allocate memory: you tried to allocate 68719476736 bytes")


def internal(scene: Scene) -> None:
    fake_mode_of(Graph())


def artifact(scene: Scene) -> None:
    load_artifact(scene.checkpoint())


def guard(scene: Scene) -> None:
    keywords = {"kunlun_ops.rmsnorm": ("eps", "output", "weight", "x")}
    check_vendor_functions(Guards("0.1", "2.5", "xpu", keywords), scene.vendor)


def plan(scene: Scene) -> None:
    phase_from_json({"schema_version": 1})


def request(scene: Scene) -> None:
    SamplingParameters(temperature=0.7, top_p=1.5)


def capacity(scene: Scene) -> None:
    BlockAllocator(4).allocate(9)


def vendor(scene: Scene) -> None:
    scene.vendor.function("kunlun_ops.swiglu")


def missing_package(scene: Scene) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(importlib.util, "find_spec", lambda name: None)
        packages.require("tokenizers", "text prompts")


def numerics(scene: Scene) -> None:
    next_tokens([Sampler(SamplingParameters())], torch.full((1, 4), float("nan")))


def file(scene: Scene) -> None:
    raise file_error(OSError(errno.ENOSPC, os.strerror(errno.ENOSPC)))


def extension(scene: Scene) -> None:
    define(SWIGLU.schema, SWIGLU.numerics, SWIGLU.reference, SWIGLU.reference, SWIGLU.facts)


def rank(scene: Scene) -> None:
    raise ended(1, 2, 4711, -signal.SIGKILL, ()).error


def weights(scene: Scene) -> None:
    compile_model(TINY, scene.path, CompileOptions(weights="from-engine"))
    tensors = load_file(TINY / "model.safetensors")
    del tensors["model.norm.weight"]
    glmc_runtime.load_model(scene.path, tensors=tensors)


def record(scene: Scene) -> None:
    with h5py.File(scene.path, "w") as file:
        file.attrs["tool"] = "another"
    recorded_run(scene.path)


def engine_asks(scene: Scene, **changes: Any) -> None:
    sizes = Sizes(tokens=4, sequences=1, context=60, dtype=torch.float32)
    Header.of(write_toy(scene.path)).check(replace(sizes, **changes))


def unsupported(scene: Scene) -> None:
    engine_asks(scene, context=512)


def no_artifact(scene: Scene) -> None:
    engine_asks(scene, dtype=torch.bfloat16)


def engine_version(scene: Scene) -> None:
    raise EngineVersionError.missing("vLLM", "ModelRegistry.models")


def engine_compile(scene: Scene) -> None:
    sizes = Sizes(tokens=4, sequences=1, context=60, dtype=torch.float32)
    options = Options(compiler=str(scene.path / "python"))
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("GLMC_CACHE", str(scene.path / "cache"))
        artifact_for(scene.checkpoint(), Wanted("cpu", sizes), options)


EXAMPLES: dict[str, Callable[[Scene], None]] = {
    "UsageError": usage,
    "ConfigError": config,
    "CheckpointError": checkpoint,
    "CaptureError": capture,
    "MatchCountError": match_count,
    "LoweringError": lowering,
    "AbiError": abi,
    "PackError": pack,
    "VerificationError": verification,
    "OutOfMemoryError": out_of_memory,
    "InternalError": internal,
    "ArtifactError": artifact,
    "GuardError": guard,
    "PlanError": plan,
    "RequestError": request,
    "CapacityError": capacity,
    "VendorError": vendor,
    "MissingPackageError": missing_package,
    "NumericsError": numerics,
    "FileError": file,
    "ExtensionError": extension,
    "RankError": rank,
    "WeightsError": weights,
    "RecordError": record,
    "UnsupportedError": unsupported,
    "NoArtifactError": no_artifact,
    "EngineVersionError": engine_version,
    "CompileError": engine_compile,
}


def test_codes_are_unique_and_of_their_package() -> None:
    codes = [each.code for each in CONCRETE]
    assert len(codes) == len(set(codes)) >= 17
    assert GlmcError.code not in codes
    for each in CONCRETE:
        family = FAMILIES[each.__module__.split(".")[0]]
        assert each.code.startswith(family), each
        assert each.__doc__ and each.exit_status in (1, 2), each


def test_the_table_lists_each_class_with_code_and_exit_status() -> None:
    rows = [tuple(row[:3]) for row in table_rows(section(PAGE, "All codes"))]
    assert rows == [(each.code, f"`{each.__name__}`", str(each.exit_status)) for each in CONCRETE]


def test_the_sections_are_the_classes() -> None:
    titles = [line[3:] for line in PAGE.read_text().splitlines() if line.startswith("## GLMC")]
    assert titles == [f"{each.code} {each.__name__}" for each in CONCRETE]


@pytest.mark.parametrize("kind", CONCRETE, ids=lambda kind: kind.__name__)
def test_the_example_is_what_is_raised(kind: type[GlmcError], tmp_path: Path) -> None:
    scene = Scene(tmp_path / "given")
    with pytest.raises(kind) as caught:
        EXAMPLES[kind.__name__](scene)
    assert type(caught.value) is kind
    shown = str(caught.value).replace(str(scene.path), "CHECKPOINT")
    heading = f"## {kind.code} {kind.__name__}"
    lines = PAGE.read_text().splitlines()
    start = lines.index(heading) + 1
    example = next(block for block in blocks(PAGE, "text") if block.line > start)
    assert example.text.rstrip("\n") == shown
    body = section(PAGE, heading[3:])
    assert "**Raised when**" in body
    assert "**What to do**" in body


def test_the_emulators_errors_are_listed() -> None:
    body = section(PAGE, "Errors of the emulator")
    for each in (
        emulator_errors.VendorCheckError,
        emulator_errors.GuardError,
        emulator_errors.UnmodelledError,
    ):
        assert f"| {each.code} | `{each.__name__}` |" in body
