"""The options of a request on the command line, as data, and what they come to."""

from __future__ import annotations

from dataclasses import replace
from types import SimpleNamespace
from typing import Any

from glmc_runtime.command.options import Kind, Option
from glmc_runtime.errors import RequestError

# Left out, the checkpoint's generation_config.json decides, then the default.
GROUP = "Request"

# Options that hold one number each, with what their help says.
_NUMBERS: dict[str, tuple[Kind, str]] = {
    "max_new_tokens": (int, "Tokens of an answer at most (default: 128)."),
    "min_new_tokens": (int, "No end of an answer before so many tokens."),
    "temperature": (float, "0 is greedy (default)."),
    "top_k": (int, "0 keeps all tokens (default)."),
    "top_p": (float, "Keep the likeliest tokens that hold this probability (default: 1)."),
    "min_p": (
        float,
        "Keep tokens with this share of the highest probability (default: 0).",
    ),
    "typical_p": (float, "Keep the most typical tokens that hold this probability (default: 1)."),
    "seed": (int, "Of the random numbers."),
    "repetition_penalty": (float, "Against all tokens of prompt and answer; 1 is none (default)."),
    "presence_penalty": (float, "Against tokens of the answer, once (default: 0)."),
    "frequency_penalty": (float, "Against tokens of the answer, for each time (default: 0)."),
    "no_repeat_ngram_size": (int, "Write no so many tokens twice in the same order."),
    "logprobs": (int, "With --json: log probabilities of each token and of the N likeliest."),
    "n": (int, "Answers to each prompt, sampled with different seeds (default: 1)."),
}
# Of a request whose answers are collected: a conversation has one answer at a time.
_OF_MANY = ("logprobs", "n")


def _numbers() -> tuple[Option, ...]:
    return tuple(
        Option(f"--{name.replace('_', '-')}", text, kind, metavar="N", group=GROUP)
        for name, (kind, text) in _NUMBERS.items()
    )


# Their defaults are told apart from what the user says: None is left out.
REQUEST_OPTIONS: tuple[Option, ...] = (
    *_numbers(),
    Option(
        "--do-sample",
        "Draw tokens, or be greedy; a --temperature above 0 draws too.",
        bool,
        negatable=True,
        group=GROUP,
    ),
    Option(
        "--logit-bias",
        "Add this to the logit of a token id; repeatable.",
        many=True,
        metavar="ID=BIAS",
        group=GROUP,
    ),
    Option(
        "--bad-words",
        "A word that is never written; repeatable.",
        many=True,
        metavar="TEXT",
        group=GROUP,
    ),
    Option(
        "--stop",
        "End at this text, which is not printed; repeatable.",
        many=True,
        metavar="TEXT",
        group=GROUP,
    ),
    Option(
        "--include-stop-str-in-output",
        "Print the --stop text too.",
        bool,
        default=False,
        group=GROUP,
    ),
    Option(
        "--stop-token-ids",
        "End at this token id; repeatable.",
        int,
        many=True,
        metavar="ID",
        group=GROUP,
    ),
    Option("--ignore-eos", "Go on after an eos id.", bool, default=False, group=GROUP),
    Option(
        "--ignore-generation-config",
        "Take nothing from the checkpoint's generation_config.json.",
        bool,
        default=False,
        group=GROUP,
    ),
)
_IN_TURN = {"max_new_tokens": "Tokens of an answer at most (default: all that the context holds)."}
CONVERSATION_OPTIONS = tuple(
    replace(each, help=_IN_TURN.get(each.name, each.help))
    for each in REQUEST_OPTIONS
    if each.name not in _OF_MANY
)
"""Those of one answer."""


def request_settings(options: SimpleNamespace) -> dict[str, Any]:
    """Keywords of ``Session.stream``; raises :class:`RequestError`."""
    from glmc_runtime.generate.options import options_of

    names = [*_NUMBERS, "do_sample", "bad_words", "stop", "stop_token_ids"]
    values = {name: getattr(options, name, None) for name in names}
    for name in ("ignore_eos", "include_stop_str_in_output"):
        values[name] = getattr(options, name) or None
    if options.logit_bias is not None:
        values["logit_bias"] = dict(map(_bias, options.logit_bias))
    if values["logprobs"] is not None and not options.json:
        raise RequestError("--logprobs needs --json, which shows them", remedy="add --json")
    # Checked before an artifact is read.
    return {
        "options": options_of(values),
        "generation_config": not options.ignore_generation_config,
    }


def _bias(text: str) -> tuple[int, float]:
    token, _, bias = text.partition("=")
    try:
        return int(token), float(bias)
    except ValueError as error:
        raise RequestError(
            "--logit-bias is no bias of a token", expected="such as 15=-2.5", found=repr(text)
        ) from error
