"""Device graphs on a real device: captured at load, replayed with other lengths and batches."""

from __future__ import annotations

import json
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
import torch

import glmc_runtime
from glmc_runtime.doctor import examine
from glmc_runtime.format.manifest import Guards
from glmc_runtime.format.phases import DECODE
from glmc_runtime.kernels import Thunk
from glmc_runtime.replay.cache import SCRATCH_BLOCK
from glmc_runtime.replay.graph import CudaGraphs
from glmc_runtime.replay.inputs import STAGES
from glmc_runtime.replay.step import ScheduledTokens, Step
from glmc_runtime.replay.timeline.graph_nodes import graph_nodes
from glmc_runtime.replay.timeline.timer import Looked, Place
from tests.runtime.toy import reference_greedy, write_toy
from tests.runtime.toy_vendor import write_vendor_toy

pytestmark = [
    pytest.mark.cuda,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs an NVIDIA GPU"),
]
PROMPTS = [[3, 14, 15], [9, 2, 6, 5, 3, 5], [1], list(range(30)), [8, 9], [40, 41], [50]]


@pytest.fixture(scope="module")
def path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("cuda") / "toy"
    return write_toy(root, target="cuda", guards=Guards("0.1.0", "2.5", "cuda"))


def test_captured_decode_matches_plain_torch_in_every_bucket(path: Path) -> None:
    session = glmc_runtime.load(path)
    assert session.device.type == "cuda"
    captures = session.statistics.to_json()["captures"]
    assert [(item["bucket"], item["graphs"]) for item in captures] == [(1, 2), (2, 2), (4, 2)]
    for number in (1, 2, 3, 4, 7):
        completions = session.generate(PROMPTS[:number], max_new_tokens=12, ignore_eos=True)
        assert [item.tokens for item in completions] == [
            reference_greedy(prompt, 12) for prompt in PROMPTS[:number]
        ]


def test_a_replayed_step_takes_no_device_memory_but_the_logits_it_hands_over(path: Path) -> None:
    session = glmc_runtime.load(path)
    sequences = [session.sequence(prompt) for prompt in PROMPTS[:3]]
    session.prefill(sequences)
    session.decode(sequences, [1, 2, 3])
    torch.cuda.synchronize()
    before = torch.cuda.memory_stats()["allocation.all.allocated"]
    for token in range(5):
        session.decode(sequences, [token] * 3)
    torch.cuda.synchronize()
    assert torch.cuda.memory_stats()["allocation.all.allocated"] == before + 5


def test_a_timeline_has_the_call_of_each_kernel_of_a_graph(path: Path, tmp_path: Path) -> None:
    session, file = glmc_runtime.load(path), tmp_path / "t.json"
    with session.timeline(file):
        found = session.generate(PROMPTS[:2], max_new_tokens=6, ignore_eos=True)
    assert [item.tokens for item in found] == [reference_greedy(each, 6) for each in PROMPTS[:2]]
    data = json.loads(file.read_text())
    assert data["glmc"]["attribution"] == "exact"
    events = [event for event in data["traceEvents"] if event["ph"] == "X"]
    steps = [event["args"] for event in events if event["cat"] == "step"]
    assert [args["replayed"] for args in steps] == [False, *[True] * 5]
    calls = [
        [event for event in events if event["cat"] == "call" and event["args"]["step"] == number]
        for number in range(1, 6)
    ]
    places = [[event["args"]["call"] for event in mine] for mine in calls]
    count = len(session.artifact.plans[DECODE.key].calls)
    assert all(mine == sorted(set(mine)) == places[0] for mine in places)
    assert len(places[0]) > count // 2 and max(places[0]) == count - 1
    assert all(event["args"]["kernels"] for mine in calls for event in mine)


def test_a_capture_that_is_thrown_away_runs_nothing(path: Path) -> None:
    graphs, x = CudaGraphs(), torch.ones(3, device="cuda")
    thunks: tuple[Thunk, ...] = (lambda: x.add_(1), lambda: None, lambda: x.mul_(2).sub_(1))
    (replay,) = graphs.capture(thunks)
    torch.cuda.synchronize()
    before = x.clone()

    def recapture(look: Callable[[int], Looked]) -> list[tuple[Place, Looked]]:
        return list(zip((0, 1, 2), graphs.captured_again(thunks, look), strict=True))

    nodes = graph_nodes(recapture)
    assert not isinstance(nodes, str), nodes
    assert [node.place for node in nodes] == [0, 2, 2]
    assert all(node.kind == "kernel" and node.name and node.grid for node in nodes)
    assert [node.after for node in nodes] == [(), (0,), (1,)]
    torch.cuda.synchronize()
    assert torch.equal(x, before)
    replay()
    assert torch.equal(x, (before + 1) * 2 - 1)


def test_what_can_not_be_captured_is_an_error_and_the_device_stays_usable(path: Path) -> None:
    graphs = CudaGraphs()
    x = torch.ones(3, device="cuda")
    with pytest.raises(RuntimeError):
        graphs.capture((x.item,))
    (replay,) = graphs.capture((lambda: x.add_(1),))
    torch.cuda.synchronize()
    before = float(x[0])
    replay()
    assert float(x[0]) == before + 1


@pytest.fixture(scope="module")
def emulated(tmp_path_factory: pytest.TempPathFactory) -> Path:
    pytest.importorskip("glmc_kunlun_emulator")
    return write_vendor_toy(tmp_path_factory.mktemp("emulated") / "toy")


def test_an_emulated_artifact_makes_the_same_tokens_on_the_device(emulated: Path) -> None:
    prompts = PROMPTS[:4]
    tokens = {}
    for device in ("cpu", "cuda"):
        session = glmc_runtime.load(emulated, emulate=True, device=device, timing=True)
        assert (session.device.type, session.emulated) == (device, True)
        assert session.statistics.captures == {}
        completions = session.generate(prompts, max_new_tokens=8, ignore_eos=True)
        tokens[device] = [completion.tokens for completion in completions]
        assert session.statistics.guard_steps["decode"] == 2
    assert tokens["cuda"] == tokens["cpu"]


def test_host_inputs_stay_in_host_memory(emulated: Path) -> None:
    session = glmc_runtime.load(emulated, emulate=True, device="cuda")
    row = ScheduledTokens((3,), 0, [SCRATCH_BLOCK])
    step = Step([row, row], 2, 2, session.manifest.cache.block_size)
    for phase, replay in session._replays.items():
        seen = 0
        with torch.inference_mode():
            for _, arguments in replay.trace(step):
                for name, value in arguments.items():
                    if isinstance(value, torch.Tensor):
                        assert value.is_cuda is not name.endswith("_cpu"), (phase, name)
                        seen += 1
        assert seen, phase


def test_the_doctor_passes_on_the_device(emulated: Path) -> None:
    report = examine(emulated, emulate=True, device="cuda")
    assert report.passed, report.text()
    assert report.device == "cuda"


@pytest.fixture(scope="module")
def greedy(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("greedy") / "toy"
    return write_toy(root, greedy=True, target="cuda", guards=Guards("0.1.0", "2.5", "cuda"))


def test_running_ahead_on_the_device_gives_the_same_tokens(greedy: Path) -> None:
    session = glmc_runtime.load(greedy)
    assert session.greedy
    for number in (1, 2, 3, 4, 7):
        completions = session.generate(PROMPTS[:number], max_new_tokens=12, ignore_eos=True)
        assert [item.tokens for item in completions] == [
            reference_greedy(prompt, 12) for prompt in PROMPTS[:number]
        ]
    assert session.statistics.async_decode.ahead > 20
    assert session.cache.allocator.available == session.cache.allocator.usable


def test_a_step_ahead_waits_for_nothing_but_its_tokens(greedy: Path) -> None:
    """Steps leave and come while the device computes: no call of torch synchronises, and none
    takes device memory."""
    session = glmc_runtime.load(greedy)
    sequences = [session.sequence(prompt) for prompt in PROMPTS[:4]]
    tokens = session.prefill(sequences).argmax(-1).tolist()
    texts = [[token] for token in tokens]
    with session.greedy_steps(sequences, tokens) as steps:
        next(steps)
        torch.cuda.synchronize()
        before = torch.cuda.memory_stats()["allocation.all.allocated"]
        torch.cuda.set_sync_debug_mode("error")
        try:
            for _ in range(20):
                for text, token in zip(texts, next(steps), strict=True):
                    text.append(token)
        finally:
            torch.cuda.set_sync_debug_mode("default")
        assert torch.cuda.memory_stats()["allocation.all.allocated"] == before
    for prompt, text in zip(PROMPTS, texts, strict=False):
        expected = reference_greedy(prompt, 22)
        assert text == [expected[0], *expected[2:]]


def test_host_memory_that_is_copied_from_is_pinned(greedy: Path) -> None:
    session = glmc_runtime.load(greedy)
    stages = session._replays[DECODE.key]._inputs._stages
    assert len(stages) == STAGES
    assert all(stage.memory.is_pinned() for stage in stages)


@pytest.mark.parametrize(
    "options",
    [
        {"repetition_penalty": 1.3, "no_repeat_ngram_size": 2, "bad_words": [[5], [3, 14]]},
        {"presence_penalty": 0.7, "frequency_penalty": 0.4, "logit_bias": {9: 3.0, 11: -4.0}},
        {"temperature": 1.1, "top_k": 20, "top_p": 0.9, "min_p": 0.01, "seed": 5, "n": 3},
        {"suppress_tokens": [3, 4], "min_new_tokens": 9, "logprobs": 3},
    ],
    ids=repr,
)
def test_options_of_requests_on_a_device_give_the_tokens_of_the_host(
    path: Path, toy_path: Path, options: dict[str, Any]
) -> None:
    host, device = glmc_runtime.load(toy_path), glmc_runtime.load(path)
    expected = host.generate(PROMPTS, max_new_tokens=12, **options)
    found = device.generate(PROMPTS, max_new_tokens=12, **options)
    assert [item.tokens for item in found] == [item.tokens for item in expected]
    for one, two in zip(found, expected, strict=True):
        for mine, theirs in zip(one.logprobs or (), two.logprobs or (), strict=True):
            assert mine.logprob == pytest.approx(theirs.logprob, abs=1e-3)
    assert device.cache.allocator.available == device.cache.allocator.usable


@pytest.mark.parametrize("greedy", [False, True])
def test_threads_share_a_session_each_on_a_stream_of_its_own(tmp_path: Path, greedy: bool) -> None:
    guards = Guards("0.1.0", "2.5", "cuda")
    root = write_toy(tmp_path / "toy", greedy=greedy, target="cuda", guards=guards)
    session = glmc_runtime.load(root)
    expected = [reference_greedy(prompt, 12) for prompt in PROMPTS]

    def work(thread: int) -> bool:
        stream = torch.cuda.Stream() if thread % 2 else torch.cuda.current_stream()
        with torch.cuda.stream(stream):
            for turn in range(8):
                numbers = [(thread + turn) % 7, (3 * thread + turn) % 7]
                found = session.generate(
                    [PROMPTS[number] for number in numbers], max_new_tokens=12, ignore_eos=True
                )
                if [item.tokens for item in found] != [expected[number] for number in numbers]:
                    return False
        return True

    with ThreadPoolExecutor(6) as pool:
        assert all(pool.map(work, range(6)))
    assert session.cache.allocator.available == session.cache.allocator.usable
