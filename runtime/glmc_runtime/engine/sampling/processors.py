"""Logits processors: changes to a request's logits before a token is chosen, greedy or not.

The order is that of transformers' ``_get_logits_processor``, where a bias stands for its
``sequence_bias``; the penalties of OpenAI's interface follow the repetition penalty, as in vLLM.
All of it is done in float32 on the device of the logits.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Mapping
from collections.abc import Sequence as ListLike

import torch

from glmc_runtime.engine.sampling.parameters import SamplingParameters

Processor = Callable[[torch.Tensor, "History"], torch.Tensor]


class History:
    """The tokens of a request, and which of the vocabulary they are."""

    def __init__(self, prompt: ListLike[int]) -> None:
        self.tokens = list(prompt)
        self.prompt = len(self.tokens)
        self._seen: torch.Tensor | None = None
        self._counts: torch.Tensor | None = None

    def add(self, token: int) -> None:
        """Note the next token of the answer."""
        self.tokens.append(token)
        if self._seen is not None:
            self._seen[token] = True
        if self._counts is not None:
            self._counts[token] += 1

    def seen(self, row: torch.Tensor) -> torch.Tensor:
        """Whether each token stands in prompt or answer."""
        if self._seen is None:
            self._seen = torch.zeros(row.shape, dtype=torch.bool, device=row.device)
            self._seen[_ids(self.tokens, row.device)] = True
        return self._seen

    def counts(self, row: torch.Tensor) -> torch.Tensor:
        """How often each token stands in the answer."""
        if self._counts is None:
            self._counts = torch.zeros(row.shape, dtype=torch.float32, device=row.device)
            answer = _ids(self.tokens[self.prompt :], row.device)
            self._counts.index_put_((answer,), torch.ones_like(answer).float(), accumulate=True)
        return self._counts


def processors(parameters: SamplingParameters, ends: frozenset[int]) -> list[Processor]:
    """What a request needs of the changes below, in their order. ``ends`` end its answer."""
    wanted: list[Processor] = []
    if parameters.logit_bias:
        wanted.append(_LogitBias(parameters.logit_bias))
    if parameters.repetition_penalty != 1:
        wanted.append(_RepetitionPenalty(parameters.repetition_penalty))
    if parameters.frequency_penalty or parameters.presence_penalty:
        wanted.append(_AnswerPenalties(parameters.frequency_penalty, parameters.presence_penalty))
    if parameters.no_repeat_ngram_size:
        wanted.append(_NoRepeatedNgram(parameters.no_repeat_ngram_size))
    # As in transformers, a bad word that is nothing but an end of the answer does not count.
    words = [
        tuple(word) for word in parameters.bad_words_ids if len(word) > 1 or word[0] not in ends
    ]
    if words:
        wanted.append(_BadWords(words))
    if parameters.min_new_tokens and ends:
        wanted.append(_MinimumLength(parameters.min_new_tokens, ends))
    if parameters.suppress_tokens:
        wanted.append(_Suppressed(parameters.suppress_tokens))
    return wanted


class _LogitBias:
    def __init__(self, biases: Mapping[int, float]) -> None:
        self._tokens = _ids(list(biases), torch.device("cpu"))
        self._values = torch.tensor(list(biases.values()), dtype=torch.float32, device="cpu")

    def __call__(self, row: torch.Tensor, history: History) -> torch.Tensor:
        if self._tokens.device != row.device:
            self._tokens, self._values = self._tokens.to(row.device), self._values.to(row.device)
        return row.index_add(0, self._tokens, self._values)


class _RepetitionPenalty:
    def __init__(self, penalty: float) -> None:
        self._penalty = penalty

    def __call__(self, row: torch.Tensor, history: History) -> torch.Tensor:
        penalised = torch.where(row < 0, row * self._penalty, row / self._penalty)
        return torch.where(history.seen(row), penalised, row)


class _AnswerPenalties:
    def __init__(self, frequency: float, presence: float) -> None:
        self._frequency = frequency
        self._presence = presence

    def __call__(self, row: torch.Tensor, history: History) -> torch.Tensor:
        counts = history.counts(row)
        return row - self._frequency * counts - self._presence * (counts > 0)


class _NoRepeatedNgram:
    """Which tokens came after each run of ``size - 1`` tokens; kept as tokens come."""

    def __init__(self, size: int) -> None:
        self._size = size
        self._after: dict[tuple[int, ...], set[int]] = {}
        self._read = 0

    def __call__(self, row: torch.Tensor, history: History) -> torch.Tensor:
        tokens, before = history.tokens, self._size - 1
        for place in range(max(self._read, before), len(tokens)):
            run = tuple(tokens[place - before : place])
            self._after.setdefault(run, set()).add(tokens[place])
        self._read = len(tokens)
        run = tuple(tokens[len(tokens) - before :])
        return _without(row, self._after.get(run, ()) if len(run) == before else ())


class _BadWords:
    def __init__(self, words: list[tuple[int, ...]]) -> None:
        self._always = [word[0] for word in words if len(word) == 1]
        self._after = [word for word in words if len(word) > 1]

    def __call__(self, row: torch.Tensor, history: History) -> torch.Tensor:
        tokens = history.tokens
        banned = [word[-1] for word in self._after if tuple(tokens[1 - len(word) :]) == word[:-1]]
        return _without(row, [*self._always, *banned])


class _MinimumLength:
    def __init__(self, length: int, ends: frozenset[int]) -> None:
        self._length = length
        self._ends = sorted(ends)

    def __call__(self, row: torch.Tensor, history: History) -> torch.Tensor:
        short = len(history.tokens) - history.prompt < self._length
        return _without(row, self._ends if short else ())


class _Suppressed:
    def __init__(self, tokens: ListLike[int]) -> None:
        self._tokens = list(tokens)

    def __call__(self, row: torch.Tensor, history: History) -> torch.Tensor:
        return _without(row, self._tokens)


def _ids(tokens: ListLike[int], device: torch.device) -> torch.Tensor:
    return torch.tensor(list(tokens), dtype=torch.int64, device=device)


def _without(row: torch.Tensor, tokens: Collection[int]) -> torch.Tensor:
    """``row`` with these tokens made impossible."""
    if not tokens:
        return row
    return row.index_fill(0, _ids(list(tokens), row.device), -math.inf)
