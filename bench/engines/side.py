"""``python -m bench.engines.side ADDRESS``: vLLM in a process of its own, which is told what to do.

Times are those of a client of the engine's own step loop: between the outputs of its steps, with
scheduler, sampling and the queue between its processes. Nothing here knows which side it is.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from multiprocessing.connection import Client, Connection
from time import perf_counter, sleep
from typing import Any

import torch

from bench.engines.hosts import (
    spread,
    timed_calls,
    timed_steps,
    times_of_calls,
    times_of_steps,
)
from bench.engines.work import Traffic, prompts, unlike_prompts
from bench.spread import BIAS

_WARM = 8  # steps after the last request has begun, which are not counted


@dataclass
class Side:
    """An engine and its vocabulary."""

    llm: Any
    vocabulary: int

    def __post_init__(self) -> None:
        self._named = 0

    def decode(self, batch: int, context: int, steps: int, seed: int) -> dict[str, Any]:
        """Milliseconds of a step that gives each of ``batch`` sequences a token, with ``context``
        tokens in the cache in the middle. The same ``seed`` finds its prompts in the cache."""
        times = self._decoded(batch, context, steps, seed)
        return {"ms": (times[-1] - times[0]) / (len(times) - 1) * 1e3}

    def trace(self, batch: int, context: int, steps: int, seed: int) -> dict[str, Any]:
        """The same steps in a file of torch's profiler, in the folder that the engine was given."""
        times = self._decoded(batch, context, steps, seed, self.llm.start_profile)
        self.llm.stop_profile()
        return {"ms": (times[-1] - times[0]) / (len(times) - 1) * 1e3}

    def _decoded(
        self,
        batch: int,
        context: int,
        steps: int,
        seed: int,
        warm: Callable[[], object] = lambda: None,
    ) -> list[float]:
        """When each of the steps ended; ``warm`` is called before the first that counts."""
        length = context - _WARM - steps // 2
        ask = prompts(self.vocabulary, seed, batch, length)
        # Those that begin first go on until the last one has had its steps.
        wanted = _WARM + steps
        done, begun, ends = 0, set(), []
        identifiers = [self._add(prompt, wanted + 256) for prompt in ask]
        while done < wanted:
            outputs = self.llm.llm_engine.step()
            begun |= {output.request_id for output in outputs if output.outputs}
            if len(begun) == batch and outputs:
                done += 1
                ends.append(perf_counter())
                if done == _WARM:
                    warm()
                    ends[-1] = perf_counter()
        self.llm.llm_engine.abort_request(identifiers)
        self._drain()
        return ends[_WARM - 1 :]

    def experts(
        self, batch: int, context: int, steps: int, seed: int, dense_layers: int
    ) -> dict[str, Any]:
        """Distinct experts per layer of a decode step of as many sequences, over the layers after
        the first ``dense_layers``; of an engine that returns them."""
        length = context - steps // 2
        ask = prompts(self.vocabulary, seed, batch, length)
        names = {self._add(prompt, steps + 1) for prompt in ask}
        chosen = {}
        while self.llm.llm_engine.has_unfinished_requests():
            for output in self.llm.llm_engine.step():
                if output.finished:
                    every = output.outputs[0].routed_experts
                    chosen[output.request_id] = _of_steps(every, length, steps)
        # [sequences, steps, layers, top_k], layers without experts among them. Which sequences
        # shared a step does not matter: each step has one token of every sequence.
        routed = torch.stack([torch.as_tensor(chosen[name]) for name in names])
        counts = [
            len(routed[:, step, layer].unique())
            for step in range(steps)
            for layer in range(dense_layers, routed.shape[2])
        ]
        return {"experts": sum(counts) / len(counts)}

    def first(self, length: int, seed: int) -> dict[str, Any]:
        """Milliseconds from a request to its first token."""
        (ask,) = unlike_prompts(self.vocabulary, seed, [length])
        started = perf_counter()
        self._add(ask, 1)
        while not any(output.outputs for output in self.llm.llm_engine.step()):
            pass
        taken = perf_counter() - started
        self._drain()
        return {"ms": taken * 1e3}

    def together(self, lengths: list[int], seed: int) -> dict[str, Any]:
        """Milliseconds from requests of these lengths, all at once, to the first token of each."""
        ask = unlike_prompts(self.vocabulary, seed, lengths)
        started = perf_counter()
        waiting = {self._add(prompt, 1) for prompt in ask}
        while waiting:
            outputs = self.llm.llm_engine.step()
            waiting -= {output.request_id for output in outputs if output.outputs}
        taken = perf_counter() - started
        self._drain()
        return {"ms": taken * 1e3}

    def serve(self, traffic: dict[str, Any], seed: int, rate: float | None) -> dict[str, Any]:
        """Requests as they arrive: when each had its first token and the others."""
        waiting = Traffic(**traffic).drawn(self.vocabulary, seed, rate)
        arrived: dict[str, float] = {}
        outputs: dict[str, list[float]] = {}
        tokens = 0
        started = perf_counter()
        engine = self.llm.llm_engine
        while waiting or engine.has_unfinished_requests():
            now = perf_counter() - started
            while waiting and waiting[0].after <= now:
                request = waiting.pop(0)
                name = self._add(request.prompt, request.new)
                arrived[name] = request.after
            if not engine.has_unfinished_requests():
                sleep(max(0.0, waiting[0].after - (perf_counter() - started)))
                continue
            for output in engine.step():
                count = len(output.outputs[0].token_ids) if output.outputs else 0
                if count:
                    tokens += count
                    seen = perf_counter() - started
                    outputs.setdefault(output.request_id, []).extend([seen] * count)
        taken = perf_counter() - started
        firsts = [times[0] - arrived[name] for name, times in outputs.items()]
        gaps = [
            (times[-1] - times[0]) / (len(times) - 1)
            for times in outputs.values()
            if len(times) > 1
        ]
        return {
            "seconds": taken,
            "requests": len(outputs),
            "tokens": tokens,
            "first_ms": quantiles(firsts),
            "token_ms": quantiles(gaps),
        }

    def host(self, batch: int, context: int, steps: int, seed: int) -> dict[str, Any]:
        """Milliseconds of the host within the model's calls of a step, of a decode of its own."""
        self.llm.apply_model(timed_calls)
        self.decode(batch, context, steps, seed)
        return {"calls": self.llm.apply_model(times_of_calls)[0]}

    def steps(self, traffic: dict[str, Any], seed: int, rate: float) -> dict[str, Any]:
        """:meth:`serve` with the time that each of its steps takes on the device."""
        self.llm.collective_rpc(timed_steps)
        served = self.serve(traffic, seed, rate)
        return served | {"steps": self.llm.collective_rpc(times_of_steps)[0]}

    def spread(self, bias: float = BIAS) -> dict[str, Any]:
        """Give the model weights of a useful spread, where it has any."""
        return {"parameters": self.llm.apply_model(partial(spread, bias=bias))[0]}

    def counts(self) -> dict[str, Any]:
        """What compiled plans have counted in this server."""
        try:
            from glmc_engines.core.counters import shared_counts
        except ImportError:
            return {}
        found: dict[str, int] = {}
        for count in shared_counts():
            found[count.name] = found.get(count.name, 0) + count.value
        return found

    def _add(self, prompt: list[int], new: int) -> str:
        from vllm import SamplingParams
        from vllm.sampling_params import RequestOutputKind

        self._named += 1
        name = str(self._named)
        params = SamplingParams(
            temperature=0.0,
            max_tokens=new,
            ignore_eos=True,  # and no min_tokens, which vLLM looks at in every step
            detokenize=False,
            output_kind=RequestOutputKind.DELTA,
        )
        self.llm.llm_engine.add_request(name, {"prompt_token_ids": prompt}, params)
        return name

    def _drain(self) -> None:
        while self.llm.llm_engine.has_unfinished_requests():
            self.llm.llm_engine.step()


def _of_steps(every: Any, length: int, steps: int) -> Any:
    """Of the experts that an engine returns of a request, those of its decode steps. It has a row
    for each token that was computed, of the prompt as well or not; the last one is not computed."""
    rows = None if every is None else len(every)
    if rows not in (length + steps, steps):
        raise ValueError(
            f"the engine returned the experts of {rows} tokens of a request: expected {steps}, or "
            f"{length + steps} with those of its prompt"
        )
    return every[-steps:]


def quantiles(seconds: list[float]) -> dict[str, float]:
    """Milliseconds: half of them, and all but a hundredth, took at most as long."""
    values = torch.tensor(seconds, dtype=torch.float64) * 1e3
    return {f"p{share}": float(values.quantile(share / 100)) for share in (50, 99)}


def main() -> int:
    with Client(sys.argv[1]) as parent:
        return _told(parent)


def _told(parent: Connection) -> int:
    from vllm import LLM

    options = parent.recv()
    vocabulary = options.pop("vocabulary")
    started = perf_counter()
    side = Side(LLM(**options), vocabulary)
    parent.send({"start_s": perf_counter() - started})
    while (order := parent.recv()) is not None:
        name, arguments = order
        do: Callable[..., dict[str, Any]] = getattr(side, name)
        parent.send(do(**arguments))
    return 0


if __name__ == "__main__":  # the engine starts a process that imports this module
    sys.exit(main())
