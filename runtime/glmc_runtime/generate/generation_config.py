"""``generation_config.json``: what a checkpoint's publisher wants where a request says nothing.

Values mean what they mean in transformers. One that this runtime has no way to follow is refused by
name as soon as a request would depend on it, since leaving it out would change the answer.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from glmc_runtime.arguments import flag, integer, shown
from glmc_runtime.engine.sampling.parameters import SamplingParameters, check_ids
from glmc_runtime.errors import ArtifactError, GlmcError, RequestError
from glmc_runtime.generate.bad_words import spelled
from glmc_runtime.generate.options import (
    MAX_NEW_TOKENS,
    OTHER_NAMES,
    RequestOptions,
    Settings,
    contradiction,
)

FILE = "generation_config.json"
_TOP_K = 50  # of transformers, where sampling is asked for and top_k is not
_DRAWING = ("temperature", "top_k", "top_p", "min_p", "typical_p")
_FOLLOWED = (
    "max_new_tokens",
    "min_new_tokens",
    "do_sample",
    *_DRAWING,
    "repetition_penalty",
    "no_repeat_ngram_size",
    "suppress_tokens",
    "bad_words_ids",
    "stop_strings",
    "num_return_sequences",
)
# What would change an answer and is not done here, with the values that change nothing.
_NOT_DONE: dict[str, tuple[Any, ...]] = {
    "num_beams": (1,),
    "num_beam_groups": (1,),
    "penalty_alpha": (0, 0.0),
    "guidance_scale": (1, 1.0),
    "sequence_bias": (),
    "begin_suppress_tokens": (),
    "forced_bos_token_id": (),
    "forced_eos_token_id": (),
    "forced_decoder_ids": (),
    "force_words_ids": (),
    "constraints": (),
    "exponential_decay_length_penalty": (),
    "watermarking_config": (),
    "dola_layers": (),
    "top_h": (),
    "epsilon_cutoff": (0, 0.0),
    "eta_cutoff": (0, 0.0),
    "encoder_repetition_penalty": (1, 1.0),
    "encoder_no_repeat_ngram_size": (0,),
    "token_healing": (False,),
    "max_time": (),
}


@dataclass(frozen=True)
class Defaults:
    """What holds where a request says nothing. ``max_length`` and ``min_length`` count the prompt,
    and give way to ``max_new_tokens`` and ``min_new_tokens``."""

    options: RequestOptions = field(default_factory=RequestOptions)
    max_length: int | None = None
    min_length: int = 0


def read_defaults(files: Mapping[str, bytes]) -> Defaults:
    """The defaults among the files beside the tokenizer; none where there is no such file.

    Raises :class:`ArtifactError` for a file that is no JSON object and :class:`RequestError` for a
    value that can't be followed.
    """
    if FILE not in files:
        return Defaults()
    try:
        data = json.loads(files[FILE].decode("utf-8"))
    except (ValueError, RecursionError) as error:
        raise ArtifactError(f"{FILE} is not valid JSON: {error}") from error
    if not isinstance(data, dict):
        raise ArtifactError(f"{FILE} is no JSON object")
    try:
        return _defaults(data)
    except GlmcError as error:
        raise RequestError(
            f"{FILE}: {error.message}",
            place=error.place or FILE,
            expected=error.expected,
            found=error.found,
            remedy="say the option in the request, or generate without this file "
            "(generation_config=False, --ignore-generation-config)",
        ) from error


def _defaults(data: Mapping[str, Any]) -> Defaults:
    for name, harmless in _NOT_DONE.items():
        value = data.get(name)
        if value is not None and value != [] and value not in harmless:
            raise RequestError(f"'{name}' is not done by this runtime", found=shown(value))
    values = {name: data[name] for name in _FOLLOWED if data.get(name) is not None}
    if "do_sample" in values and not flag("do_sample", values["do_sample"]):
        del values["do_sample"]  # so that a temperature beside it is for requests that draw
    if "do_sample" in values:
        values = {"top_k": _TOP_K, **values}
    options = RequestOptions(
        **{OTHER_NAMES.get(name, name): value for name, value in values.items()}
    )
    longest, shortest = data.get("max_length"), data.get("min_length")
    return Defaults(
        options,
        None if longest is None else integer("max_length", longest, least=1),
        0 if shortest is None else integer("min_length", shortest, least=0),
    )


def settle(
    options: RequestOptions,
    defaults: Defaults,
    prompt: int,
    eos: tuple[int, ...],
    vocabulary: int,
    spell: Callable[[str], list[list[int]]],
) -> Settings:
    """The settings of a request with a prompt of so many tokens; raises :class:`RequestError`.

    ``spell`` gives the token ids of a bad word that is a text.
    """
    said = options.said()
    known = {**defaults.options.said(), **said}
    if "temperature" in said and "do_sample" not in said:
        known["do_sample"] = said["temperature"] > 0
    drawing = bool(known.get("do_sample"))
    temperature = known.get("temperature", 1.0) if drawing else 0.0
    if drawing and temperature == 0:
        raise contradiction("do_sample=True", f"the temperature of {FILE}", "one above 0")
    choices = known.get("n", 1)
    if choices > 1 and not drawing:
        raise RequestError(
            "n answers of one prompt would all be the same: the request is greedy",
            expected="n=1, or a temperature above 0",
            found=f"n={choices}",
            remedy="set a temperature above 0, or leave n out",
        )
    parameters = SamplingParameters(
        temperature=temperature,
        bad_words_ids=spelled(known.get("bad_words", ()), spell),
        min_new_tokens=known.get("min_new_tokens", max(0, defaults.min_length - prompt)),
        **{name: known[name] for name in _PLAIN if name in known},
    )
    check_ids(parameters, vocabulary)
    ends = {*known.get("stop_token_ids", ()), *(() if known.get("ignore_eos") else eos)}
    return Settings(
        parameters,
        _length(known.get("max_new_tokens"), defaults.max_length, prompt),
        # Ids that the model has no logits for end nothing, and can't be forbidden either.
        frozenset(token for token in ends if 0 <= token < vocabulary),
        known.get("stop", ()),
        known.get("include_stop_str_in_output", False),
        known.get("logprobs"),
        choices,
        "max_new_tokens" not in said
        and ("max_new_tokens" in known or defaults.max_length is not None),
    )


_PLAIN = (
    "top_k",
    "top_p",
    "min_p",
    "typical_p",
    "seed",
    "repetition_penalty",
    "presence_penalty",
    "frequency_penalty",
    "no_repeat_ngram_size",
    "logit_bias",
    "suppress_tokens",
)


def _length(new_tokens: int | None, max_length: int | None, prompt: int) -> int:
    if new_tokens is not None:
        return new_tokens
    if max_length is None:
        return MAX_NEW_TOKENS
    if max_length <= prompt:
        raise RequestError(
            f"the prompt is as long as the max_length of {FILE}",
            expected=f"less than {max_length} tokens",
            found=f"{prompt} tokens",
            remedy="say max_new_tokens, or shorten the prompt",
        )
    return max_length - prompt
