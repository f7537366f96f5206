"""Options that several commands have, the headings of their help, and what completes them.

A shell completes at every press of its key, so nothing here imports what computes.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Annotated, Any

import typer

from glmc.config import AUTO, DTYPES, PROFILES, TARGETS, WEIGHTS
from glmc.pipeline.names import GROUP, PASSES, STEPS
from glmc.presets.names import preset_names
from glmc_runtime.package.entry_points import entries

MODEL_GROUP = "Model and target"
PLAN_GROUP = "Plan"
PASSES_GROUP = "Passes"
RANKS_GROUP = "Many cards"
DUMP_GROUP = "Proofs and dumps"
OUTPUT_GROUP = "Output"

ALONE = {"--deterministic": "batch"}
"""What options mean that may stand without a value; typer has none of those."""

Complete = Callable[[str], list[str]]


def complete(names: Callable[[], Iterable[str]]) -> Complete:
    """Completes with those of the names that begin with what was typed."""

    def completed(incomplete: str) -> list[str]:
        return [name for name in names() if name.startswith(incomplete)]

    return completed


def option(
    text: str, group: str, *flags: str, metavar: str = "", names: Complete | None = None
) -> Any:
    """An option with its help under a heading; ``metavar`` stands for the value that it takes."""
    return typer.Option(
        *flags, help=text, rich_help_panel=group, metavar=metavar or None, autocompletion=names
    )


def models(incomplete: str) -> list[str]:
    """Presets and folders."""
    head, slash, tail = incomplete.rpartition("/")
    folders = Path(head or ("/" if slash else "."))
    presets = [name for name in preset_names() if name.startswith(incomplete)]
    try:
        below = sorted(each.name for each in folders.iterdir() if each.is_dir())
    except OSError:
        return presets
    hidden = tail.startswith(".")
    names = [name for name in below if name.startswith(tail) and name.startswith(".") == hidden]
    return presets + [f"{head}{slash}{name}/" for name in names]


all_targets = complete(lambda: (*TARGETS, *entries("glmc.targets")))
all_dtypes = complete(lambda: DTYPES)
compile_dtypes = complete(lambda: (*DTYPES, AUTO))
all_weights = complete(lambda: WEIGHTS)
all_profiles = complete(lambda: PROFILES)
all_passes = complete(lambda: (*PASSES, *entries(GROUP)))
all_steps = complete(lambda: (*STEPS, *entries(GROUP)))
installed_passes = complete(lambda: entries(GROUP))

Model = Annotated[
    str,
    typer.Argument(
        help="A checkpoint directory or a preset's name.", metavar="MODEL", autocompletion=models
    ),
]
Target = Annotated[
    str,
    option("cpu, cuda, xpu or an installed one.", MODEL_GROUP, metavar="NAME", names=all_targets),
]
Dtype = Annotated[
    str | None,
    option(
        "float32, bfloat16 or float16; default: the checkpoint's.",
        MODEL_GROUP,
        metavar="NAME",
        names=all_dtypes,
    ),
]
CompileDtype = Annotated[
    str | None,
    option(
        "float32, bfloat16, float16 or auto; default: the checkpoint's. auto on xpu: float16 where "
        "weights and activations stay within its range, else bfloat16 (needs weights); elsewhere: "
        "the checkpoint's.",
        MODEL_GROUP,
        metavar="NAME",
        names=compile_dtypes,
    ),
]
CalibrationPrompt = Annotated[
    str | None,
    option(
        "What --dtype auto runs to see activations; default: a text of ours.",
        MODEL_GROUP,
        metavar="TEXT|FILE",
    ),
]
AbiProfile = Annotated[
    str | None,
    option(
        "P-A, P-B or P-C: which vendor wheel will be called.",
        MODEL_GROUP,
        metavar="NAME",
        names=all_profiles,
    ),
]
RandomWeights = Annotated[bool, option("Make random weights.", MODEL_GROUP, "--random-weights")]
Weights = Annotated[
    str | None,
    option(
        "checkpoint: packed; from-checkpoint: made of it at each load, nothing is copied; "
        "from-engine: made of what vLLM or SGLang loads, only config.json is read; random; none.",
        MODEL_GROUP,
        metavar="NAME",
        names=all_weights,
    ),
]
Seed = Annotated[int, option("Seed of the random weights.", MODEL_GROUP, metavar="N")]
TensorParallel = Annotated[
    int,
    option("Deal the model to this many ranks, a device each.", RANKS_GROUP, metavar="N"),
]
ExpertParallel = Annotated[
    bool,
    option(
        "Each rank has some of the experts whole, not a part of each.",
        RANKS_GROUP,
        "--expert-parallel",
    ),
]
Collectives = Annotated[
    Path | None,
    option(
        "Table of collectives, as glmc tune-collectives writes it; default: the target's.",
        RANKS_GROUP,
        metavar="FILE",
    ),
]
PassesOff = Annotated[
    list[str] | None,
    option(
        "Leave this pass out; repeatable. What nothing else computes, such as moe_gate, can't be "
        "left out.",
        PASSES_GROUP,
        metavar="PASS",
        names=all_passes,
    ),
]
PassesOn = Annotated[
    list[str] | None,
    option(
        "Also run this pass of an installed distribution; repeatable.",
        PASSES_GROUP,
        metavar="PASS",
        names=installed_passes,
    ),
]
Pipeline = Annotated[
    Path | None,
    option("YAML file: which passes run, in which order.", PASSES_GROUP, metavar="FILE"),
]
Json = Annotated[bool, option("Print JSON.", OUTPUT_GROUP, "--json")]
