"""A session: an engine, and the texts and options of requests on top of it.

Made by :func:`glmc_runtime.load`. What an engine does with sequences,
:mod:`glmc_runtime.engine.engine` says; here are prompts in, and texts, events and completions out.
"""

from __future__ import annotations

from collections.abc import Sequence as ListLike
from functools import partial
from typing import Any

from glmc_runtime.arguments import flag, integer, prompts_of, token_ids
from glmc_runtime.engine.assemble import Machine
from glmc_runtime.engine.engine import Engine
from glmc_runtime.engine.sampling import SamplingParameters
from glmc_runtime.engine.sequences import Sequence, sequence_of
from glmc_runtime.errors import GlmcError, RequestError
from glmc_runtime.generate.bad_words import spellings
from glmc_runtime.generate.events import Completion
from glmc_runtime.generate.generation import Generation
from glmc_runtime.generate.generation_config import Defaults, read_defaults, settle
from glmc_runtime.generate.options import RequestOptions, Settings, options_for
from glmc_runtime.generate.stream import EventStream
from glmc_runtime.generate.text import Text
from glmc_runtime.loading.loader import Artifact


class Session(Engine):
    """An engine that also reads prompts and writes texts; ``text`` is the artifact's tokenizer and
    chat template."""

    def __init__(self, artifact: Artifact, machine: Machine) -> None:
        super().__init__(artifact, machine)
        self.text = Text(artifact.files.below("tokenizer"))
        self._defaults: Defaults | None = None

    def stream(
        self,
        prompts: str | ListLike[int] | ListLike[str | ListLike[int]],
        *,
        options: RequestOptions | ListLike[RequestOptions | None] | None = None,
        sampling: SamplingParameters | ListLike[SamplingParameters] | None = None,
        generation_config: bool = True,
        prefill_tokens: int | None = None,
        **common: Any,
    ) -> EventStream:
        """Generate for all prompts (texts or token ids) and yield one event per new token.

        What a request may ask for are the fields of
        :class:`glmc_runtime.generate.options.RequestOptions`: as keywords for all prompts
        (``max_new_tokens=32, stop=["\n\n"]``), or as ``options``, one for all or a list with one
        each; ``sampling`` is the same for the parameters that choose tokens alone. What is left out
        has the value of the checkpoint's generation_config.json, which ``generation_config`` False
        ignores; see docs/requests.md for all of it.

        At most ``prefill_tokens`` tokens of prompts are computed between two tokens of a running
        text (None: as many as the largest prefill bucket); fewer make texts steadier and slower.
        Requests are checked here, before the first event: raises :class:`RequestError` and, for a
        request that the KV cache can never hold, :class:`CapacityError`.
        """
        limit = None
        if prefill_tokens is not None:
            limit = integer("prefill_tokens", prefill_tokens, least=1)
        defaults = self._defaults_of(flag("generation_config", generation_config))
        asked = prompts_of(prompts)
        each = options_for(len(asked), options, sampling, common)
        generation = Generation(self, self.text, limit)
        for prompt, own in zip(asked, each, strict=True):
            tokens = self.text.encode(prompt) if isinstance(prompt, str) else prompt
            sequence = self.sequence(tokens)
            generation.add(sequence, self._settings(own, defaults, len(sequence)))
        return EventStream(generation, self._machine.exclusive)

    def resume(
        self,
        sequence: Sequence,
        tokens: ListLike[int],
        *,
        options: RequestOptions | None = None,
        generation_config: bool = True,
        **common: Any,
    ) -> EventStream:
        """Append ``tokens`` to a sequence of the caller's own and generate after them, as
        :meth:`stream` does; what the sequence has cached is not computed again.

        Then the answer is in it as well, all but its newest token, and its blocks stay its own:
        resume it once more, :meth:`truncate` it first, or :meth:`release` it. Raises what
        ``stream`` raises, with the sequence as it was.
        """
        before = len(sequence_of(sequence))
        whole = self.sequence([*sequence.tokens, *token_ids("the tokens", tokens)])
        if len(whole) == sequence.cached:
            raise RequestError(
                "all tokens of the sequence are cached: there is nothing to go on from",
                remedy="append tokens, or truncate it by one",
            )
        defaults = self._defaults_of(flag("generation_config", generation_config))
        (own,) = options_for(1, options, None, common)
        settings = self._settings(own, defaults, len(whole))
        if settings.n > 1:
            raise RequestError("a sequence has one answer", expected="n=1", found=f"n={settings.n}")
        generation = Generation(self, self.text)
        sequence.tokens.extend(whole.tokens[before:])
        try:
            generation.add(sequence, settings, keeps=True)
        except GlmcError:
            del sequence.tokens[before:]
            raise
        return EventStream(generation, self._machine.exclusive)

    def generate(
        self,
        prompts: str | ListLike[int] | ListLike[str | ListLike[int]],
        *,
        options: RequestOptions | ListLike[RequestOptions | None] | None = None,
        sampling: SamplingParameters | ListLike[SamplingParameters] | None = None,
        generation_config: bool = True,
        prefill_tokens: int | None = None,
        **common: Any,
    ) -> list[Completion]:
        """Like :meth:`stream`, but collected: one completion per prompt, in their order; with ``n``
        as many for each, side by side."""
        stream = self.stream(
            prompts,
            options=options,
            sampling=sampling,
            generation_config=generation_config,
            prefill_tokens=prefill_tokens,
            **common,
        )
        return stream.completions()

    def _defaults_of(self, wanted: bool) -> Defaults:
        """What the checkpoint's generation_config.json says, read when it is first asked for."""
        if not wanted:
            return Defaults()
        if self._defaults is None:
            self._defaults = read_defaults(self.artifact.files.below("tokenizer"))
        return self._defaults

    def _settings(self, options: RequestOptions, defaults: Defaults, prompt: int) -> Settings:
        return settle(
            options,
            defaults,
            prompt,
            self.manifest.model.eos_token_ids,
            self.manifest.model.vocabulary,
            lambda word: spellings(partial(self.text.encode, add_special_tokens=False), word),
        )
