"""The options of a request on the command line."""

from __future__ import annotations

import argparse
from typing import Any

from glmc_runtime.errors import RequestError

# Flags that hold one number each, with what their help says.
_NUMBERS: dict[str, tuple[type, str]] = {
    "max_new_tokens": (int, "tokens of an answer at most (default: 128)"),
    "min_new_tokens": (int, "no end of an answer before so many tokens"),
    "temperature": (float, "0 is greedy (default)"),
    "top_k": (int, "0 keeps all tokens (default)"),
    "top_p": (float, "keep the likeliest tokens that hold this probability (default: 1)"),
    "min_p": (float, "keep tokens with this share of the likeliest one's probability (default: 0)"),
    "typical_p": (float, "keep the most typical tokens that hold this probability (default: 1)"),
    "seed": (int, "of the random numbers"),
    "repetition_penalty": (float, "against all tokens of prompt and answer; 1 is none (default)"),
    "presence_penalty": (float, "against tokens of the answer, once (default: 0)"),
    "frequency_penalty": (float, "against tokens of the answer, for each time (default: 0)"),
    "no_repeat_ngram_size": (int, "write no so many tokens twice in the same order"),
    "logprobs": (int, "with --json: log probabilities of each token and of the N likeliest"),
    "n": (int, "answers to each prompt, sampled with different seeds (default: 1)"),
}


def add_request_flags(parser: argparse.ArgumentParser) -> None:
    """Add the group of flags; their defaults are told apart from what the user says."""
    group = parser.add_argument_group(
        "request options",
        "Where one is left out, the checkpoint's generation_config.json decides, then the default.",
    )
    for name, (kind, text) in _NUMBERS.items():
        group.add_argument(_flag(name), type=kind, help=text)
    group.add_argument(
        "--do-sample",
        action=argparse.BooleanOptionalAction,
        help="draw tokens, or be greedy; a --temperature above 0 draws too",
    )
    group.add_argument(
        "--logit-bias",
        action="append",
        metavar="ID=BIAS",
        help="add this to the logit of a token id; may be repeated",
    )
    group.add_argument(
        "--bad-words",
        action="append",
        metavar="TEXT",
        help="a word that is never written; may be repeated",
    )
    group.add_argument(
        "--stop",
        action="append",
        metavar="TEXT",
        help="end at this text, which is not printed; may be repeated",
    )
    group.add_argument(
        "--include-stop-str-in-output", action="store_true", help="print the --stop text too"
    )
    group.add_argument(
        "--stop-token-ids",
        action="append",
        type=int,
        metavar="ID",
        help="end at this token id; may be repeated",
    )
    group.add_argument("--ignore-eos", action="store_true", help="go on after an eos id")
    group.add_argument(
        "--ignore-generation-config",
        action="store_true",
        help="take nothing from the checkpoint's generation_config.json",
    )


def request_settings(options: argparse.Namespace) -> dict[str, Any]:
    """Keywords of ``Session.stream``; raises :class:`RequestError`."""
    from glmc_runtime.generate.options import options_of

    names = [*_NUMBERS, "do_sample", "bad_words", "stop", "stop_token_ids"]
    values = {name: getattr(options, name) for name in names}
    for name in ("ignore_eos", "include_stop_str_in_output"):
        values[name] = getattr(options, name) or None
    if options.logit_bias is not None:
        values["logit_bias"] = dict(map(_bias, options.logit_bias))
    if options.logprobs is not None and not options.json:
        raise RequestError("--logprobs needs --json, which shows them", remedy="add --json")
    # Checked before an artifact is read.
    return {
        "options": options_of(values),
        "generation_config": not options.ignore_generation_config,
    }


def _flag(name: str) -> str:
    return f"--{name.replace('_', '-')}"


def _bias(text: str) -> tuple[int, float]:
    token, _, bias = text.partition("=")
    try:
        return int(token), float(bias)
    except ValueError as error:
        raise RequestError(
            "--logit-bias is no bias of a token", expected="such as 15=-2.5", found=repr(text)
        ) from error
