"""The commands of ``glmc-runtime``, all of which ``glmc`` has too: a row each.

A command's module is imported when it is called; its options are declared here.
"""

from __future__ import annotations

from glmc_runtime.command.options import LOADING, OUTPUT, Command, Option
from glmc_runtime.constants import GUARD_STEPS
from glmc_runtime.generate.chat_flags import ONE_TURN_OPTIONS
from glmc_runtime.generate.request_flags import REQUEST_OPTIONS

_PLACE_OPTIONS = (
    Option("--no-verify", "Do not compare file hashes.", bool, default=False, group=LOADING),
    Option(
        "--emulate", "Force or refuse the vendor emulator.", bool, negatable=True, group=LOADING
    ),
    Option(
        "--device",
        "Where an emulated artifact runs (default: cpu).",
        metavar="cpu|cuda",
        group=LOADING,
    ),
)
_JSON = Option("--json", "One JSON object on stdout.", bool, default=False, group=OUTPUT)
_MACHINE_OPTIONS = (
    *_PLACE_OPTIONS,
    Option(
        "--kv-blocks",
        "Blocks of the KV cache, scratch included.",
        int,
        metavar="N",
        group=LOADING,
    ),
    Option(
        "--guard-steps",
        "Check what vendor calls return and write in the first N steps of each phase.",
        int,
        default=GUARD_STEPS,
        metavar="N",
        group=LOADING,
    ),
)

RUN = Command(
    "run",
    "Generate text from prompts.",
    "glmc_runtime.cli.run:run",
    (
        Option("--prompt", "A prompt; repeatable.", many=True, metavar="TEXT", group="Prompts"),
        Option(
            "--token-ids",
            "A prompt as ids, such as 1,2,3; repeatable.",
            many=True,
            metavar="IDS",
            group="Prompts",
        ),
        *ONE_TURN_OPTIONS,
        *REQUEST_OPTIONS,
        *_MACHINE_OPTIONS,
        Option(
            "--statistics", "Print counts and times at the end.", bool, default=False, group=OUTPUT
        ),
        Option(
            "--profile",
            "Write a timeline with a range for each kernel call, for Perfetto (ui.perfetto.dev).",
            metavar="FILE",
            group=OUTPUT,
        ),
        _JSON,
    ),
)
DOCTOR = Command(
    "doctor",
    "Check each vendor call on this machine.",
    "glmc_runtime.cli.doctor:doctor",
    (
        Option("--seed", "Of the random operands.", int, default=0, metavar="N"),
        *_PLACE_OPTIONS,
        _JSON,
    ),
)
FIT_OPTIONS = (
    Option(
        "--device-memory",
        "Memory of a card, such as 96GiB or 96GB; repeatable.",
        many=True,
        metavar="SIZE",
    ),
    Option("--batch", "Sequences that must fit; 1 unless given.", int, metavar="N"),
    Option("--context", "Tokens of each of them; at most 8192 unless given.", int, metavar="N"),
    Option(
        "--cache-memory",
        "Give the KV cache so much, and not all that is left.",
        metavar="SIZE",
    ),
    _JSON,
)
FIT = Command(
    "fit",
    "Say what fits into cards of several sizes, and how many are needed.",
    "glmc_runtime.cli.fit:fit",
    FIT_OPTIONS,
)
COMMANDS = {command.name: command for command in (RUN, DOCTOR, FIT)}
