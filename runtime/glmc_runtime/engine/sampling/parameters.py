"""Sampling parameters of a request, with every value known."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from collections.abc import Sequence as ListLike
from dataclasses import dataclass, field

from glmc_runtime.arguments import integer, items_of, real, shown, token_ids
from glmc_runtime.errors import RequestError

_SEEDS = 1 << 63


@dataclass(frozen=True)
class SamplingParameters:
    """``temperature`` 0 is greedy: the likeliest token, and the filters and the seed are ignored.

    ``top_k`` 0 keeps all tokens; ``top_p`` keeps the smallest set of likeliest tokens whose
    probability reaches it; ``min_p`` keeps those that have this share of the likeliest one's
    probability; ``typical_p`` keeps the most typical ones of that mass. They apply in this order,
    after the temperature, as in transformers.

    With a ``seed`` a request has random numbers of its own, whatever else is in its batch (its
    logits may differ there in the last bits); None draws another seed each time. Prompts that share
    one seed share its random numbers, too.

    The others change the logits of greedy requests as well
    (:mod:`glmc_runtime.engine.sampling.processors` has their order). ``repetition_penalty`` divides
    the positive logits of all tokens of prompt and answer by itself and multiplies the negative
    ones; ``frequency_penalty`` is subtracted once for each time that a token stands in the answer,
    and ``presence_penalty`` once for all of them. ``logit_bias`` is added, by token id.
    ``no_repeat_ngram_size`` forbids to write so many tokens twice in the same order,
    ``bad_words_ids`` the last token of each list after the others of it, ``suppress_tokens`` any
    of these, and ``min_new_tokens`` an end before so many tokens.
    """

    temperature: float = 0.0
    top_k: int = 0
    top_p: float = 1.0
    seed: int | None = None
    min_p: float = 0.0
    typical_p: float = 1.0
    repetition_penalty: float = 1.0
    presence_penalty: float = 0.0
    frequency_penalty: float = 0.0
    logit_bias: Mapping[int, float] = field(default_factory=dict)
    no_repeat_ngram_size: int = 0
    bad_words_ids: ListLike[ListLike[int]] = ()
    suppress_tokens: ListLike[int] = ()
    min_new_tokens: int = 0

    def __post_init__(self) -> None:
        for name in ("top_k", "no_repeat_ngram_size", "min_new_tokens"):
            self._set(name, integer(f"the sampling option {name}", getattr(self, name), least=0))
        for name in _NUMBERS:
            self._set(name, real(f"the sampling option {name}", getattr(self, name)))
        for name, (holds, expected) in _RANGES.items():
            if not holds(getattr(self, name)):
                raise RequestError(
                    f"the sampling option {name} is out of range",
                    expected=expected,
                    found=shown(getattr(self, name)),
                    remedy=f"set {name} to a number: {expected}",
                )
        if self.seed is not None:
            name = "the sampling option seed"
            self._set("seed", integer(name, self.seed, least=-_SEEDS, most=_SEEDS - 1))
        self._set("logit_bias", _biases(self.logit_bias))
        self._set("bad_words_ids", _words(self.bad_words_ids))
        suppressed = token_ids("the sampling option suppress_tokens", self.suppress_tokens)
        self._set("suppress_tokens", tuple(suppressed))

    @property
    def greedy(self) -> bool:
        return self.temperature == 0

    def _set(self, name: str, value: object) -> None:
        object.__setattr__(self, name, value)


_RANGES: dict[str, tuple[Callable[[float], bool], str]] = {
    "temperature": (lambda value: value >= 0, "at least 0"),
    "top_p": (lambda value: 0 < value <= 1, "above 0, at most 1"),
    "min_p": (lambda value: 0 <= value <= 1, "0 to 1"),
    "typical_p": (lambda value: 0 < value <= 1, "above 0, at most 1"),
    "repetition_penalty": (lambda value: value > 0, "above 0 (1 changes nothing)"),
    "presence_penalty": (lambda value: -2 <= value <= 2, "-2 to 2"),
    "frequency_penalty": (lambda value: -2 <= value <= 2, "-2 to 2"),
}
_NUMBERS = tuple(_RANGES)


def _biases(value: object) -> dict[int, float]:
    """``logit_bias`` by token id. Ids may be texts, as JSON has them."""
    if not isinstance(value, Mapping):
        raise RequestError(
            "the sampling option logit_bias is no mapping",
            expected="a bias for each of some token ids, such as {15: -2.5}",
            found=shown(value),
        )
    biases: dict[int, float] = {}
    for token, bias in value.items():
        if isinstance(token, str) and token.isdecimal() and len(token) < 20:
            token = int(token)
        number = integer("a token id of logit_bias", token)
        biases[number] = real(f"the logit_bias of token {number}", bias)
    return biases


def _words(value: object) -> tuple[tuple[int, ...], ...]:
    """``bad_words_ids``, each a list with at least one id."""
    name = "the sampling option bad_words_ids"
    words = tuple(tuple(token_ids(name, word)) for word in items_of(name, value, "token id lists"))
    if () in words:
        raise RequestError("a bad word has no token", expected="at least one token id")
    return words


def check_ids(parameters: SamplingParameters, vocabulary: int) -> None:
    """Raise :class:`RequestError` for an id that the model does not have."""
    groups = {
        "logit_bias": parameters.logit_bias,
        "bad_words": [token for word in parameters.bad_words_ids for token in word],
        "suppress_tokens": parameters.suppress_tokens,
    }
    for name, ids in groups.items():
        for token in ids:
            if not 0 <= token < vocabulary:
                raise RequestError(
                    f"a token id of {name} is not in the vocabulary",
                    expected=f"0 to {vocabulary - 1}",
                    found=shown(token),
                )
