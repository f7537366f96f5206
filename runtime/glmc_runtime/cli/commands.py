"""The commands of ``glmc-runtime``, all of which ``glmc`` has too: a row each.

A command's module is imported when it is called; its options are declared here.
"""

from __future__ import annotations

from glmc_runtime.cli.artifact_runs import ARTIFACT_OPTIONS
from glmc_runtime.cli.prompts import PROMPT_OPTIONS
from glmc_runtime.cli.sessions import PLACE_OPTIONS, SESSION_OPTIONS
from glmc_runtime.command.options import OUTPUT, Command, Option
from glmc_runtime.generate.chat_flags import CHAT_OPTIONS, ONE_TURN_OPTIONS
from glmc_runtime.generate.request_flags import CONVERSATION_OPTIONS, REQUEST_OPTIONS
from glmc_runtime.record.flags import RECORD_OPTIONS

_JSON = Option("--json", "One JSON object on stdout.", bool, default=False, group=OUTPUT)
RUN = Command(
    "run",
    "Generate text from prompts.",
    "glmc_runtime.cli.run:run",
    (
        *PROMPT_OPTIONS,
        *ONE_TURN_OPTIONS,
        *REQUEST_OPTIONS,
        *SESSION_OPTIONS,
        Option(
            "--statistics", "Print counts and times at the end.", bool, default=False, group=OUTPUT
        ),
        Option(
            "--timeline",
            "Time each kernel call and write a trace for Perfetto (ui.perfetto.dev).",
            metavar="FILE",
            group=OUTPUT,
        ),
        _JSON,
    ),
)
CHAT = Command(
    "chat",
    "Talk with a model: a conversation through its chat template.",
    "glmc_runtime.cli.chat:chat",
    (*CHAT_OPTIONS, *CONVERSATION_OPTIONS, *SESSION_OPTIONS),
)
_RANKS = "Ranks"
DOCTOR = Command(
    "doctor",
    "Check each vendor call on this machine, and what several ranks need of it.",
    "glmc_runtime.cli.doctor:doctor",
    (
        Option("--seed", "Of the random operands.", int, default=0, metavar="N"),
        Option(
            "--ranks",
            "Probe this machine for N ranks (default: those of the artifact).",
            int,
            metavar="N",
            group=_RANKS,
        ),
        Option(
            "--backend",
            "gloo or nccl, behind which is BKCL (default: the artifact's, or as there are cards).",
            metavar="NAME",
            group=_RANKS,
        ),
        Option(
            "--probe-limit",
            "Seconds after which a probe that runs on the ranks is killed, imports aside.",
            float,
            default=60.0,
            metavar="SECONDS",
            group=_RANKS,
        ),
        *PLACE_OPTIONS,
        _JSON,
    ),
    "optional",
)
_CARDS = "Cards and requests"
FIT_OPTIONS = (
    Option(
        "--device-memory",
        "Memory of a card, such as 96GiB or 96GB; repeatable.",
        many=True,
        metavar="SIZE",
        group=_CARDS,
    ),
    Option("--batch", "Sequences that must fit (default: 1).", int, metavar="N", group=_CARDS),
    Option(
        "--context",
        "Tokens of each of them (default: 8192, or all of a shorter plan).",
        int,
        metavar="N",
        group=_CARDS,
    ),
    Option(
        "--cache-memory",
        "Give the KV cache so much, and not all that is left.",
        metavar="SIZE",
        group=_CARDS,
    ),
    _JSON,
)
FIT = Command(
    "fit",
    "Say what fits into cards of several sizes, and how many are needed.",
    "glmc_runtime.cli.fit:fit",
    FIT_OPTIONS,
)
RECORD = Command(
    "record",
    "Record the tensors of a run: what its kernel calls complete.",
    "glmc_runtime.cli.record:record",
    (*RECORD_OPTIONS, *ARTIFACT_OPTIONS),
)
TUNE_COLLECTIVES = Command(
    "tune-collectives",
    "Measure the all-reduces of a group of ranks and write the table that chooses among them.",
    "glmc_runtime.cli.tune_collectives:tune_collectives",
    (
        Option(
            "--ranks", "How many to start on this host; under torchrun its own.", int, metavar="N"
        ),
        Option(
            "--any-order",
            "Let algorithms compete that add in other orders: bits follow the message's size.",
            bool,
            default=False,
        ),
        Option(
            "--rank-order",
            "Let those compete that add in the order of the ranks: kernels over the memory of "
            "peers, with --backend nccl.",
            bool,
            default=False,
        ),
        Option(
            "--topology",
            "What the group is called in the table.",
            default="one-host",
            metavar="NAME",
        ),
        Option("--backend", "gloo, or nccl for a card each.", default="gloo", metavar="NAME"),
        Option(
            "--output",
            "Write the table here, not to stdout; bands of a table that is there stay where they "
            "are good enough.",
            metavar="FILE",
            group=OUTPUT,
        ),
    ),
    artifact="none",
)
COMMANDS = {command.name: command for command in (RUN, CHAT, DOCTOR, FIT, RECORD, TUNE_COLLECTIVES)}
