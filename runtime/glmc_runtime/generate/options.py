"""The options of one request, as a caller says them, and what they come to.

An option that is left out, or None, has the value of the checkpoint's generation_config.json
(:mod:`glmc_runtime.generate.generation_config`), else the one of the table in docs/requests.md.
"""

from __future__ import annotations

import difflib
from collections.abc import Mapping
from collections.abc import Sequence as ListLike
from dataclasses import dataclass, fields, replace
from functools import partial
from typing import Any

from glmc_runtime.arguments import flag, integer, items_of, shown, texts, token_ids
from glmc_runtime.engine.sampling.parameters import SamplingParameters
from glmc_runtime.errors import RequestError

MAX_NEW_TOKENS = 128
# What transformers calls an option where OpenAI and vLLM have the other name.
OTHER_NAMES = {
    "stop_strings": "stop",
    "bad_words_ids": "bad_words",
    "num_return_sequences": "n",
}


@dataclass(frozen=True)
class RequestOptions:
    """Options of :meth:`glmc_runtime.generate.session.Session.generate`, for one prompt or for all.

    ``do_sample`` False is greedy, True draws; left out, a ``temperature`` above 0 draws. The
    sampling options are those of :class:`glmc_runtime.engine.sampling.SamplingParameters`, where
    ``bad_words`` may hold texts beside lists of token ids.

    An answer ends at an eos id of the model (unless ``ignore_eos``), at any of ``stop_token_ids``,
    where its text holds any of the ``stop`` strings, after ``max_new_tokens``, or at the end of the
    context. ``include_stop_str_in_output`` leaves the stop string in the text. ``logprobs`` is how
    many of the likeliest tokens are named beside the chosen one, with their log probabilities, and
    ``n`` how many answers are drawn for the prompt; answer number i draws by ``seed + i``.
    """

    max_new_tokens: int | None = None
    min_new_tokens: int | None = None
    do_sample: bool | None = None
    temperature: float | None = None
    top_k: int | None = None
    top_p: float | None = None
    min_p: float | None = None
    typical_p: float | None = None
    seed: int | None = None
    repetition_penalty: float | None = None
    presence_penalty: float | None = None
    frequency_penalty: float | None = None
    no_repeat_ngram_size: int | None = None
    logit_bias: Mapping[int, float] | None = None
    bad_words: ListLike[str | ListLike[int]] | None = None
    suppress_tokens: ListLike[int] | None = None
    stop: str | ListLike[str] | None = None
    include_stop_str_in_output: bool | None = None
    stop_token_ids: ListLike[int] | None = None
    ignore_eos: bool | None = None
    logprobs: int | None = None
    n: int | None = None

    def __post_init__(self) -> None:
        """Everything that can be told without the model is checked here."""
        for name, bounds in _COUNTS.items():
            self._change(name, partial(integer, **bounds))
        for name in ("do_sample", "include_stop_str_in_output", "ignore_eos"):
            self._change(name, flag)
        self._change("stop", _stop_strings)
        for name in ("stop_token_ids", "suppress_tokens"):
            self._change(name, _ids)
        self._change("bad_words", _bad_words)
        SamplingParameters(**self._sampling())
        if self.do_sample and self.temperature == 0:
            raise contradiction("do_sample=True", "temperature=0", "a temperature above 0")
        if self.do_sample is False and self.temperature:
            raise contradiction(
                "do_sample=False", f"temperature={self.temperature}", "temperature 0, or none"
            )

    def _change(self, name: str, change: Any) -> None:
        value = getattr(self, name)
        if value is not None:
            object.__setattr__(self, name, change(name, value))

    def said(self) -> dict[str, Any]:
        """The options that are not left out."""
        pairs = [(each.name, getattr(self, each.name)) for each in fields(self)]
        return {name: value for name, value in pairs if value is not None}

    def _sampling(self) -> dict[str, Any]:
        return {name: value for name, value in self.said().items() if name in _SAMPLING}


_SAMPLING = {each.name for each in fields(SamplingParameters)}
_NEUTRAL = SamplingParameters()
_COUNTS: dict[str, dict[str, Any]] = {
    "max_new_tokens": {"least": 1},
    "min_new_tokens": {"least": 0},
    "logprobs": {"least": 0},
    "n": {"least": 1, "most": 1024},
}


@dataclass(frozen=True)
class Settings:
    """What the options of one request came to, every value known. ``ends`` are token ids.

    ``length_of_file``: the length is that of the checkpoint's generation_config.json, a bound.
    """

    sampling: SamplingParameters
    max_new_tokens: int
    ends: frozenset[int]
    stop: tuple[str, ...] = ()
    include_stop: bool = False
    logprobs: int | None = None
    n: int = 1
    length_of_file: bool = False

    def sampling_of(self, choice: int) -> SamplingParameters:
        """The parameters of answer number ``choice``: each draws by a seed of its own."""
        seed = self.sampling.seed
        if not choice or seed is None:
            return self.sampling
        wrapped = (seed + choice + (1 << 63)) % (1 << 64) - (1 << 63)
        return replace(self.sampling, seed=wrapped)


def options_of(values: Mapping[str, Any]) -> RequestOptions:
    """Options by name; raises :class:`RequestError` for a name that is none."""
    known = [each.name for each in fields(RequestOptions)]
    named: dict[str, Any] = {}
    for name, value in values.items():
        own = OTHER_NAMES.get(name, name)
        if own not in known:
            near = difflib.get_close_matches(str(name), [*known, *OTHER_NAMES], 3)
            raise RequestError(
                f"there is no option '{name}'",
                expected=", ".join(near or known),
                found=shown(name),
            )
        if own in named:
            raise RequestError(
                f"the option {own} is given twice", expected="one of its names", found=str(name)
            )
        named[own] = value
    return RequestOptions(**named)


def options_for(
    number: int,
    options: object,
    sampling: object,
    keywords: Mapping[str, Any],
) -> list[RequestOptions]:
    """The options of each of ``number`` prompts: ``options`` and ``sampling`` are one for all or a
    list with one each, and the ``keywords`` hold for all."""
    common = options_of(keywords).said()
    each = _one_each("options", options, number, (RequestOptions, Mapping))
    drawn = _one_each("sampling", sampling, number, (SamplingParameters,))
    result = []
    for own, parameters in zip(each, drawn, strict=True):
        if isinstance(own, Mapping):
            own = options_of(own)
        special = {} if own is None else own.said()
        every, changed = _said_by(parameters)
        names = [*common, *special, *changed]
        twice = sorted({name for name in names if names.count(name) > 1})
        if twice:
            raise RequestError(
                f"the option {twice[0]} is given twice",
                expected="once: in options, in sampling or as a keyword",
            )
        result.append(RequestOptions(**{**every, **common, **special}))
    return result


def _said_by(parameters: SamplingParameters | None) -> tuple[dict[str, Any], list[str]]:
    """All of the parameters, so that no file decides about them, and those that say something."""
    if parameters is None:
        return {}, []
    values: dict[str, Any] = {}
    changed = []
    for each in fields(SamplingParameters):
        name = "bad_words" if each.name == "bad_words_ids" else each.name
        values[name] = getattr(parameters, each.name)
        if values[name] != getattr(_NEUTRAL, each.name):
            changed.append(name)
    return values, changed


def _one_each(name: str, value: object, number: int, kinds: tuple[type, ...]) -> list[Any]:
    if value is None or isinstance(value, kinds):
        return [value] * number
    words = " or ".join(kind.__name__ for kind in kinds)
    items = items_of(name, value, words)
    if len(items) != number:
        raise RequestError(
            f"the number of {name} is not that of the prompts"
            if name == "options"
            else "the number of sampling options is not that of the prompts",
            expected=str(number),
            found=str(len(items)),
        )
    for place, item in enumerate(items):
        if item is not None and not isinstance(item, kinds):
            raise RequestError(
                f"{name} hold something else",
                place=f"item {place}",
                expected=words,
                found=shown(item),
            )
    return items


def _ids(name: str, value: object) -> tuple[int, ...]:
    if isinstance(value, int):
        return (integer(name, value),)
    return tuple(token_ids(name, value))


def _stop_strings(name: str, value: object) -> tuple[str, ...]:
    strings = texts(name, value)
    if "" in strings:
        raise RequestError("a stop string is empty", expected="at least one character")
    return tuple(dict.fromkeys(strings))


def _bad_words(name: str, value: object) -> tuple[str | tuple[int, ...], ...]:
    words: list[str | tuple[int, ...]] = []
    for word in [value] if isinstance(value, str) else items_of(name, value, "words"):
        words.append(str(word) if isinstance(word, str) else tuple(token_ids(name, word)))
        if not words[-1]:
            raise RequestError("a bad word is empty", expected="at least one character or token id")
    return tuple(words)


def contradiction(option: str, other: str, expected: str) -> RequestError:
    return RequestError(f"{option} and {other} contradict each other", expected=expected)
