"""Records of a graph's launch and its nodes: counts, functions, sizes, two streams, copies."""

from __future__ import annotations

from collections.abc import Sequence

import pytest

from glmc_runtime.replay.timeline.graph_match import is_alike, matched
from glmc_runtime.replay.timeline.graph_nodes import KERNEL, MEMCPY, MEMSET, GraphNode
from glmc_runtime.replay.timeline.kineto import DeviceWork
from glmc_runtime.replay.timeline.timer import Place

ONE, TWO = (1, 1, 1), (2, 1, 1)


def node(
    place: Place,
    name: str | None = "norm",
    after: tuple[int, ...] | None = None,
    kind: str = KERNEL,
    grid: tuple[int, ...] = ONE,
) -> GraphNode:
    return GraphNode(place, kind, name, grid, (128, 1, 1), after)


def chain(*nodes: GraphNode) -> list[GraphNode]:
    """Each waits for the one before it."""
    return [
        GraphNode(each.place, each.kind, each.name, each.grid, each.block, (at - 1,) if at else ())
        for at, each in enumerate(nodes)
    ]


def work(
    name: str = "norm",
    begin: float = 0.0,
    stream: int = 7,
    kind: str = KERNEL,
    grid: tuple[int, ...] = ONE,
) -> DeviceWork:
    sizes = (grid, (128, 1, 1)) if kind == KERNEL else (None, None)
    return DeviceWork(kind, name, 0, stream, begin, begin + 2.0, 5, *sizes)


def places(found: object) -> list[Place]:
    assert isinstance(found, list), found
    return [place for place, _ in found]


def test_a_chain_is_matched_in_order() -> None:
    nodes = chain(node(0, "norm"), node(1, "gemm"), node(1, "reduce"), node(2, "norm"))
    records = [work(name, at) for at, name in enumerate(("norm", "gemm", "reduce", "norm"))]
    found = matched(nodes, records)
    assert places(found) == [0, 1, 1, 2]
    assert [record for _, record in found if not isinstance(record, str)] == records


@pytest.mark.parametrize("count", [1, 3])
def test_another_number_of_kernels_attributes_nothing(count: int) -> None:
    found = matched(chain(node(0), node(1)), [work(begin=at) for at in range(count)])
    assert found == f"{count} kernels recorded, 2 expected"


def test_another_function_attributes_nothing() -> None:
    found = matched(chain(node(0, "norm"), node(1, "gemm")), [work("norm"), work("silu", 1)])
    assert isinstance(found, str)
    assert "record 1 of 2 is silu (1, 1, 1)" in found and "expected gemm (1, 1, 1)" in found


def test_another_grid_attributes_nothing() -> None:
    found = matched(chain(node(0), node(1, grid=TWO)), [work(), work(begin=1)])
    assert isinstance(found, str) and "record 1 of 2" in found


def test_two_streams_are_told_apart_by_what_waits_for_what() -> None:
    """The shared expert beside the routed ones: 1 to 2 beside 3 to 4, after 0 and before 5."""
    nodes = [
        node(0, "norm", ()),
        node(1, "gemm", (0,)),
        node(2, "silu", (1,)),
        node(3, "route", (0,)),
        node(4, "experts", (3,)),
        node(5, "norm", (2, 4)),
    ]
    order = [("norm", 7), ("route", 9), ("gemm", 7), ("experts", 9), ("silu", 7), ("norm", 7)]
    records = [work(name, at, stream) for at, (name, stream) in enumerate(order)]
    assert places(matched(nodes, records)) == [0, 3, 1, 4, 2, 5]


def test_two_calls_that_look_alike_beside_each_other_are_not_guessed() -> None:
    nodes = [node(0, "norm", ()), node(1, "gemm", (0,)), node(2, "gemm", (0,))]
    found = matched(nodes, [work("norm"), work("gemm", 1, 7), work("gemm", 2, 9)])
    assert isinstance(found, str) and found.startswith("several calls run gemm")


def test_two_kernels_of_one_call_beside_each_other_are_both_its() -> None:
    nodes = [node(0, "norm", ()), node(1, "gemm", (0,)), node(1, "gemm", (0,))]
    assert places(matched(nodes, [work("norm"), work("gemm", 1, 7), work("gemm", 2, 9)])) == [
        0,
        1,
        1,
    ]


def test_copies_and_fills_count_as_such() -> None:
    nodes = chain(
        node("step inputs", None, kind=MEMCPY), node(0, None, kind=MEMSET), node(0), node(1)
    )
    records = [
        work("Memcpy HtoD", 0, kind=MEMCPY),
        work("Memset", 1, kind=MEMSET),
        work(begin=2),
        work(begin=3),
    ]
    assert places(matched(nodes, records)) == ["step inputs", 0, 0, 1]


def test_fills_that_are_not_all_recorded_are_left_out() -> None:
    nodes = chain(node(0, None, kind=MEMSET), node(0), node(1, None, kind=MEMSET), node(1))
    records = [work("Memset", 0, kind=MEMSET), work(begin=1), work(begin=2)]
    found = matched(nodes, records)
    assert places(found) == [0, 1]


def test_what_leaves_no_record_is_passed_over() -> None:
    nodes = chain(node(0), node(0, None, kind=""), node(1, None, kind=""), node(1))
    assert places(matched(nodes, [work(), work(begin=1)])) == [0, 1]


def test_without_edges_one_stream_is_a_chain_and_two_are_not() -> None:
    nodes = [node(0, "norm"), node(1, "gemm")]
    assert places(matched(nodes, [work("norm"), work("gemm", 1)])) == [0, 1]
    found = matched(nodes, [work("norm", 0, 7), work("gemm", 1, 9)])
    assert isinstance(found, str) and "several streams" in found


@pytest.mark.parametrize(
    ("demangled", "mangled"),
    [
        ("_add_rms_norm_kernel", "_add_rms_norm_kernel"),
        ("nvjet_sm90_tst_64x8_64x16_4x1_v_bz_TNT", "nvjet_sm90_tst_64x8_64x16_4x1_v_bz_TNT"),
        (
            "void at::native::vectorized_elementwise_kernel<4, at::native::FillFunctor<int>, "
            "std::array<char*, 1ul> >(int, at::native::FillFunctor<int>)",
            "_ZN2at6native29vectorized_elementwise_kernelILi4ENS0_11FillFunctorIiEE",
        ),
        ("void (anonymous namespace)::scan<float>(float*)", "_ZN12_GLOBAL__N_14scanIfEEvPf"),
        ("void cutlass::device_kernel<flash::Combine>(P)", "_ZN7cutlass13device_kernelIN5flash"),
        (
            "std::enable_if<!(false), void>::type internal::gemvx::kernel<int, 7>(int)",
            "_ZN8internal5gemvx6kernelIiLi7EEENSt9enable_ifIXntLb0EEvE4typeET_",
        ),
    ],
)
def test_a_mangled_name_has_that_of_its_function(demangled: str, mangled: str) -> None:
    assert is_alike(node(0, mangled), work(demangled))
    assert not is_alike(node(0, "_Z5otherv"), work(demangled))


def test_a_long_graph_takes_no_time(monkeypatch: pytest.MonkeyPatch) -> None:
    """No recursion, and nothing that grows with the square of its nodes."""
    count = 20_000
    nodes = chain(*(node(at, None, kind="") for at in range(count)), node(count))
    assert places(matched(nodes, [work()])) == [count]
    looked: Sequence[GraphNode] = chain(*(node(at) for at in range(count)))
    assert places(matched(looked, [work(begin=at) for at in range(count)])) == list(range(count))
