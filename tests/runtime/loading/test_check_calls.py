"""Calls that their kernel's schema refuses, and calls that read what is not there."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from glmc_runtime.engine.assemble import assemble
from glmc_runtime.engine.options import LoadOptions
from glmc_runtime.errors import ExtensionError, PlanError
from glmc_runtime.format.extent import Extent
from glmc_runtime.format.phases import DECODE, PhaseKey
from glmc_runtime.format.plan import (
    BufferArgument,
    CacheArgument,
    Call,
    ExtentArgument,
    InputArgument,
    ListArgument,
    PhasePlan,
    ValueArgument,
    ViewArgument,
    WeightArgument,
)
from glmc_runtime.kernels import register
from glmc_runtime.kernels.schema import schema, written
from glmc_runtime.loading.check import check_plan
from glmc_runtime.loading.loader import Artifact, load_artifact
from glmc_runtime.replay.bind import PhaseBinder
from tests.runtime.toy_vendor import write_vendor_toy

ONE, TOKENS = Extent(constant=1), Extent.of(tokens=1)


@pytest.fixture(scope="module")
def toy(toy_path: Path) -> Artifact:
    return load_artifact(toy_path)


@pytest.fixture(scope="module")
def vendor(tmp_path_factory: pytest.TempPathFactory) -> Artifact:
    return load_artifact(write_vendor_toy(tmp_path_factory.mktemp("vendor") / "toy"))


def changed(plan: PhasePlan, function: str, change: Callable[[Call], Call]) -> PhasePlan:
    """The plan with another form of its first call of ``function``."""
    number = next(n for n, call in enumerate(plan.calls) if call.function == function)
    calls = list(plan.calls)
    calls[number] = change(calls[number])
    return replace(plan, calls=tuple(calls))


def with_arguments(call: Call, **arguments: Any) -> Call:
    kept = {name: item for name, item in call.arguments.items() if name not in arguments}
    given = {name: item for name, item in arguments.items() if item is not None}
    return replace(call, arguments={**kept, **given})


def refused(artifact: Artifact, plan: PhasePlan, text: str) -> PlanError:
    with pytest.raises(PlanError, match=text) as caught:
        check_plan(plan, artifact.manifest)
    return caught.value


@pytest.mark.parametrize(
    ("function", "arguments", "text"),
    [
        ("aten.linear", {"surplus": ValueArgument(1)}, "no argument 'surplus'"),
        ("aten.linear", {"weight": None}, "lacks 'weight'"),
        ("aten.linear", {"weight": ValueArgument(None)}, "'weight' is not what"),
        ("aten.linear", {"weight": ValueArgument(3)}, "'weight' is not what"),
        ("aten.linear", {"weight": ExtentArgument(TOKENS)}, "'weight' is not what"),
        ("aten.linear", {"weight": WeightArgument("places")}, "has the wrong shape"),
        ("aten.linear", {"weight": WeightArgument("qkv", (0, 16))}, "has the wrong shape"),
        ("aten.linear", {"weight": WeightArgument("qkv", (8, 8))}, "dimension of size 0"),
        ("aten.linear", {"x": InputArgument("positions")}, "'x' has the wrong dtype"),
        ("aten.linear", {"x": CacheArgument("key", 0)}, "'x' has the wrong shape|'weight'"),
        ("aten.linear", {"bias": ValueArgument({"a": [1]})}, "'bias': a constant is of no kind"),
        ("aten.linear", {"bias": ValueArgument([[1]])}, "'bias': a constant is of no kind"),
        ("aten.split_columns", {"sizes": ValueArgument([16, 16])}, "'sizes' is not the widths"),
        ("aten.split_columns", {"sizes": ValueArgument([16, 16.0, 16])}, "no kind"),
        ("aten.split_columns", {"sizes": ValueArgument([True, 16, 16])}, "no kind"),
        ("aten.split_columns", {"sizes": ValueArgument("x")}, "'sizes' is not what"),
        ("aten.split_columns", {"out_1": None}, "writes 'out_1', which is no"),
        ("aten.split_columns", {"out_9": BufferArgument(0)}, "lacks 'out'"),
        # Positions stay below the context, and so below the vocabulary.
        ("aten.embedding", {"ids": InputArgument("positions")}, None),
        ("aten.embedding", {"weight": WeightArgument("words", (0, 63))}, "point outside"),
        ("aten.embedding", {"ids": InputArgument("slot_mapping")}, "point outside"),
        ("aten.embedding", {"ids": InputArgument("token_ids", (ONE,))}, "wrong shape"),
        ("aten.add", {"y": ValueArgument(float("nan"))}, "'y' is not what"),
        ("aten.add", {"y": ValueArgument(float("inf"))}, "'y' is not what"),
        ("aten.add", {"y": ValueArgument(10**400)}, "'y' is not what"),
        ("aten.add", {"y": ValueArgument(True)}, "'y' is not what"),
        ("aten.add", {"y": ValueArgument(2)}, None),
        ("aten.add", {"out": BufferArgument(3)}, "has not the shape of the others"),
        ("aten.add", {"x": BufferArgument(9)}, "before anything was written"),
        ("aten.add", {"x": BufferArgument(0, (Extent.of(tokens=1000),))}, "view is larger"),
        ("aten.add", {"x": BufferArgument(0, (ONE,) * 9)}, "too many dimensions"),
        ("aten.add", {"x": BufferArgument(0, (TOKENS, TOKENS))}, "quadratic"),
        ("aten.index_select", {"rows": InputArgument("positions")}, "wrong shape|point outside"),
        ("test.cache_write", {"slots": InputArgument("positions")}, "does not hold"),
        ("test.cache_write", {"slots": InputArgument("token_ids")}, "does not hold"),
        ("test.cache_write", {"value_cache": CacheArgument("key", 0)}, "in the same memory"),
        ("test.decode_attention", {"sequences": ValueArgument(7)}, "sequences = 7"),
        ("test.decode_attention", {"sequences": ExtentArgument(TOKENS)}, "sequences = tok"),
        ("test.decode_attention", {"cu_seqlens_q": InputArgument("cu_seqlens_q")}, "wrong memory"),
    ],
)
def test_arguments_that_a_schema_refuses(
    toy: Artifact, function: str, arguments: dict[str, Any], text: str | None
) -> None:
    # Decode gives logits after every token and selects none.
    key = PhaseKey("prefill" if function == "aten.index_select" else "decode")
    plan = changed(toy.plans[key], function, lambda call: with_arguments(call, **arguments))
    if text is None:
        check_plan(plan, toy.manifest)
    else:
        error = refused(toy, plan, text)
        assert function in error.place and "layer 0" in error.place


def test_a_table_is_read_as_it_is_declared(toy: Artifact) -> None:
    """Its rows would be other rows, and a sequence's last blocks are after its end."""
    table = InputArgument("block_tables", (Extent.of(sequences=2), Extent(constant=8)), real=True)
    plan = changed(
        toy.plans[DECODE.key],
        "test.decode_attention",
        lambda call: with_arguments(call, block_tables=table),
    )
    refused(toy, plan, "wrong shape|part of a step input")


@pytest.mark.parametrize(
    ("changes", "text"),
    [
        ({"writes": ()}, "does not write what its kernel writes"),
        ({"writes": ("out", "out")}, "does not write what its kernel writes"),
        ({"writes": ("out", "x")}, "does not write what its kernel writes"),
        ({"function": "cpu.linear"}, "before anything|no argument|lacks|wrong"),
        ({"function": "cuda.linear"}, "for cpu has no kernel 'cuda.linear'"),
        ({"function": "router.sigmoid_group_topk"}, "for cpu has no kernel"),
        ({"function": "kunlun_ops.matmul"}, "calls no vendor function"),
        ({"function": "aten.any_in_place"}, "no kernel 'aten.any_in_place'"),
    ],
)
def test_calls_that_are_not_what_their_kernel_says(
    toy: Artifact, changes: dict[str, Any], text: str
) -> None:
    function = "aten.add"
    plan = changed(toy.plans[DECODE.key], function, lambda call: replace(call, **changes))
    if changes.get("function") == "cpu.linear":
        plan = changed(plan, "cpu.linear", lambda call: with_arguments(call, y=None))
    refused(toy, plan, text)


def test_a_reader_of_host_memory_is_marked(toy: Artifact) -> None:
    plan = toy.plans[DECODE.key]
    (attention,) = (n for n, call in enumerate(plan.calls) if call.host)
    calls = list(plan.calls)
    calls[attention] = replace(calls[attention], host=False)
    refused(toy, replace(plan, calls=tuple(calls)), "marked wrongly")


@pytest.mark.parametrize(
    "argument",
    [
        ViewArgument(BufferArgument(0), "aten.view.default", ([1],)),
        ListArgument((BufferArgument(0),)),
    ],
)
def test_arguments_of_traced_programs_are_in_no_artifact(toy: Artifact, argument: Any) -> None:
    plan = changed(
        toy.plans[DECODE.key], "aten.linear", lambda call: with_arguments(call, x=argument)
    )
    refused(toy, plan, "is in no artifact")


def test_a_kernel_without_a_schema_can_not_be_named(
    toy: Artifact, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("glmc_runtime.kernels._BINDERS", {})
    register("bare.kernel")(lambda arguments: lambda: None)
    plan = changed(
        toy.plans[DECODE.key], "aten.embedding", lambda call: replace(call, function="bare.kernel")
    )
    with pytest.raises(ExtensionError, match="has no schema") as caught:
        check_plan(plan, toy.manifest)
    assert "schema(" in caught.value.expected


def test_the_vendors_plan_is_legal(vendor: Artifact) -> None:
    for plan in vendor.plans.values():
        check_plan(plan, vendor.manifest)


@pytest.mark.parametrize("item", [[1, 2], 3, "x", None], ids=repr)
def test_a_call_takes_no_constant_for_a_tensor(vendor: Artifact, item: Any) -> None:
    plan, tried = vendor.plans[DECODE.key], set()
    for number, call in enumerate(plan.calls):
        for name, argument in call.arguments.items():
            constant = isinstance(argument, (ValueArgument, ExtentArgument))
            if constant or name in call.writes or (call.function, name) in tried:
                continue
            if call.function == "aten.add" and name == "y" and item == 3:
                continue  # which may be a number
            tried.add((call.function, name))
            wrong = with_arguments(call, **{name: ValueArgument(item)})
            calls = (*plan.calls[:number], wrong, *plan.calls[number + 1 :])
            with pytest.raises(PlanError):
                check_plan(replace(plan, calls=calls), vendor.manifest)
    assert len(tried) > 35


@pytest.mark.parametrize(
    ("function", "arguments", "text"),
    [
        ("rmsnorm", {"eps": ValueArgument(-1.0)}, "'eps' is not what"),
        ("rmsnorm", {"eps": ValueArgument("small")}, "'eps' is not what"),
        ("rmsnorm", {"x": BufferArgument(1)}, "in the same memory|before anything"),
        ("rotary_embedding", {"head_size": ValueArgument(0)}, "'head_size' is not what"),
        ("rotary_embedding", {"head_size": ValueArgument(48)}, "do not fit together"),
        ("rotary_embedding", {"head_size": ValueArgument(8)}, "do not fit together"),
        ("rotary_embedding", {"positions": InputArgument("token_ids")}, "does not hold"),
        ("reshape_and_cache_flash", {"slot_mapping": InputArgument("positions")}, "not hold"),
        ("reshape_and_cache_flash", {"BLHD_LAYOUT": ValueArgument(True)}, "'BLHD_LAYOUT' is"),
        ("moe_fc", {"moe_topk": ValueArgument(4)}, "wrong shape"),
        ("moe_fc", {"moe_topk": ValueArgument(0)}, "'moe_topk' is not what"),
        ("moe_fc", {"act": ValueArgument("SWISH_GLU")}, "'act' is not what"),
        ("moe_sigmoid_group_topk_norm", {"n_group": ValueArgument(2)}, "'n_group' is not"),
        ("moe_sigmoid_group_topk_norm", {"block_statistic": BufferArgument(0)}, "no argument"),
        ("speculative_attention", {"qlen": ValueArgument(2)}, "'qlen' is not what"),
        ("speculative_attention", {"max_context_len": ValueArgument(10**6)}, "do not fit"),
        ("speculative_attention", {"block_size": ValueArgument(8)}, "'block_size' is not"),
        ("speculative_attention", {"batch_num": ExtentArgument(TOKENS)}, "'batch_num' is"),
    ],
)
def test_vendor_calls_that_a_schema_refuses(
    vendor: Artifact, function: str, arguments: dict[str, Any], text: str
) -> None:
    name = f"kunlun_ops.{function}"
    plan = changed(vendor.plans[DECODE.key], name, lambda call: with_arguments(call, **arguments))
    refused(vendor, plan, text)


def _without(plan: PhasePlan, function: str, number: int) -> PhasePlan:
    """The plan with one of its calls of ``function`` doing something harmless in its place."""
    places = [n for n, call in enumerate(plan.calls) if call.function == function]
    calls = list(plan.calls)
    calls[places[number]] = replace(calls[0])
    return replace(plan, calls=tuple(calls))


def test_counts_are_zeros_before_they_are_counted_up(vendor: Artifact) -> None:
    plan = vendor.plans[DECODE.key]
    zeros = [n for n, call in enumerate(plan.calls) if call.function == "aten.zero"]
    found = []
    for number in range(len(zeros)):
        try:
            check_plan(_without(plan, "aten.zero", number), vendor.manifest)
        except PlanError as error:
            found.append(error.message)
    assert sum("does not hold" in text or "before anything" in text for text in found) >= 3


def test_a_histogram_is_of_the_ids_that_it_sorts(vendor: Artifact) -> None:
    """Of others, the kernel would sort rows to after the end."""
    plan = vendor.plans[DECODE.key]
    place = next(
        n for n, call in enumerate(plan.calls) if call.function.endswith("gen_block_statistic")
    )
    ids = plan.calls[place].arguments["topk_ids"]
    zero = next(call for call in plan.calls if call.function == "aten.zero")
    again = replace(zero, arguments={"out": ids})
    refused(vendor, _with(plan, place + 1, again), "was not made of what")


@register(
    "test.foreign_experts",
    schema(written("ids", "tokens top_k", "int32", below="1", negative=True)),
)
def _foreign_experts(arguments: dict[str, Any]) -> Callable[[], None]:
    raise NotImplementedError


def test_ids_of_no_expert_are_sorted_only_where_the_flag_says_so(vendor: Artifact) -> None:
    """Elsewhere the kernel takes -1 for a place before its histogram."""
    plan, sort = vendor.plans[DECODE.key], "kunlun_ops.moe_pre_sorted"
    place = next(
        n for n, call in enumerate(plan.calls) if call.function.endswith("gen_block_statistic")
    )
    ids = plan.calls[place].arguments["topk_ids"]
    name, zero = "test.foreign_experts", plan.calls[place - 1]
    call = replace(zero, function=name, writes=("ids",), arguments={"ids": ids})
    foreign = _with(plan, place, call)
    refused(vendor, foreign, "'topk_index' may hold -1")
    allowed = changed(
        foreign, sort, lambda call: with_arguments(call, index_have_neg=ValueArgument(True))
    )
    check_plan(allowed, vendor.manifest)
    left_out = changed(foreign, sort, lambda call: with_arguments(call, index_have_neg=None))
    refused(vendor, left_out, "lacks 'index_have_neg'")


def _with(plan: PhasePlan, place: int, call: Call) -> PhasePlan:
    """The plan with one call more, before the one at ``place``."""
    segments = tuple(
        replace(
            segment,
            first=segment.first + (segment.first >= place),
            last=segment.last + (segment.last >= place - 1),
        )
        for segment in plan.segments
    )
    calls = (*plan.calls[:place], call, *plan.calls[place:])
    return replace(plan, calls=calls, segments=segments)


def test_logits_are_written_and_of_the_vocabulary(toy: Artifact) -> None:
    plan = toy.plans[DECODE.key]
    other = next(buffer.id for buffer in plan.buffers if buffer.name == "last")
    refused(toy, replace(plan, output=other), "is no logits")
    facts = replace(toy.manifest.model, vocabulary=63)
    with pytest.raises(PlanError, match="is no logits"):
        check_plan(plan, replace(toy.manifest, model=facts))


def test_nothing_is_bound_or_imported_for_a_plan_that_is_refused(
    toy: Artifact, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The last call of the last phase is wrong, and no call was bound before that was known."""

    def bound(*arguments: object) -> None:
        raise AssertionError("a call was bound")

    monkeypatch.setattr(PhaseBinder, "bind", bound)
    monkeypatch.setattr("glmc_runtime.kernels.any_op.aten", bound)
    plan = toy.plans[DECODE.key]
    arguments = {
        "op": ValueArgument("import_module.__call__.__call__"),
        "target": ValueArgument("this"),
        "operands": ValueArgument([]),
    }
    last = replace(plan.calls[-1], function="aten.any_in_place", arguments=arguments, writes=())
    wrong = replace(plan, calls=(*plan.calls[:-1], last))
    artifact = replace(toy, plans={**toy.plans, DECODE.key: wrong})
    with pytest.raises(PlanError, match="no kernel"):
        assemble(artifact, LoadOptions(kv_blocks=8))
