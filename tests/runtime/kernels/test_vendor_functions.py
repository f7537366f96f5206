"""The table of vendor functions: what follows from a row, and what each row must say."""

from __future__ import annotations

import inspect

import pytest

from glmc_runtime.doctor.attention import ATTENTION_PROBES
from glmc_runtime.doctor.experts import CHAIN_FIRST, CHAIN_LAST
from glmc_runtime.doctor.references import PROBES
from glmc_runtime.errors import PlanError
from glmc_runtime.kernels.schema import integer, tensor, written
from glmc_runtime.kernels.vendor_functions import VENDOR_FUNCTIONS, vendor_function
from glmc_runtime.kernels.vendor_functions.row import (
    P_A,
    P_B,
    P_C,
    PROFILES,
    WHEELS,
    Keyword,
    VendorFunction,
    keywords,
    optional,
    unused,
)

rows = pytest.mark.parametrize("row", VENDOR_FUNCTIONS.values(), ids=VENDOR_FUNCTIONS)
# What guard steps and the emulator poison: written, and never read.
OUTPUTS = {
    "rmsnorm": {"output"},
    "add_rmsnorm": {"output", "residual_output"},
    "swiglu": {"y"},
    "rotary_embedding": set(),
    "matmul": {"out"},
    "reshape_and_cache_flash": set(),
    "prefill_attention": {"out", "softmax_lse"},
    "speculative_attention": {"out"},
    "paged_attention": {"out"},
    "moe_sigmoid_group_topk_norm": {"topk_index", "norm_score"},
    "gen_block_statistic": set(),
    "moe_pre_sorted": {"moe_expand", "moe_index"},
    "moe_fc": {"y"},
    "moe_post": {"y"},
}
IN_PLACE = {
    "rotary_embedding": {"query", "key"},
    "reshape_and_cache_flash": {"key_cache", "value_cache"},
    "moe_sigmoid_group_topk_norm": {"block_statistic"},
    "gen_block_statistic": {"block_statistic"},
    "moe_pre_sorted": {"expert_m", "sorted_tokens_num_lod"},
}


def toy() -> VendorFunction:
    return VendorFunction(
        "toy",
        keywords(
            tensor("x", "rows width"),
            optional(integer("turns", 1), 1, profiles=(P_A,)),
            optional(written("y", "rows width", like="x"), spelling=((P_C, "target"),)),
            *unused(bias=None),
            Keyword("lens_cpu", None, profiles=(P_C,), on_host=True),
        ),
        profiles=(P_A, P_C),
        aliases=(("y", "x"),),
    )


def test_a_variant_has_the_keywords_of_its_profile_in_its_spelling() -> None:
    row = toy()
    assert set(row.variants) == {P_A, P_C}
    assert row.variants[P_A].names == ("x", "turns", "y", "bias")
    assert row.variants[P_C].names == ("x", "target", "bias", "lens_cpu")
    assert row.variants[P_C].required == ("x", "target")
    assert row.variants[P_C].spelled("y") == "target" and row.variants[P_A].spelled("y") == "y"
    assert row.outputs == {"y", "target"} and row.written == ("y",) and row.host == ("lens_cpu",)


def test_a_signature_is_the_vendors_order_and_the_required_behind_a_default_go_by_name() -> None:
    row = toy()
    assert str(row.variants[P_A].signature) == "(x, turns=1, *, y, bias=None)"
    assert str(row.variants[P_C].signature) == "(x, target, bias=None, lens_cpu=None)"


def test_a_schema_has_what_is_passed_and_nothing_else() -> None:
    schema = toy().variants[P_C].schema
    assert [argument.name for argument in schema.arguments] == ["x", "target"]
    assert schema.aliases == {("y", "x")} and not schema.host
    assert not schema.arguments[0].writes and schema.arguments[1].writes
    reads_host = VENDOR_FUNCTIONS["paged_attention"].variants[P_B].schema
    assert reads_host.host


def test_a_keyword_may_not_be_named_twice() -> None:
    with pytest.raises(PlanError, match="names a keyword twice"):
        VendorFunction("toy", keywords(tensor("x", "rows"), *unused(x=None)))


def test_what_is_written_and_what_is_updated_in_place() -> None:
    assert {name: set(row.outputs) for name, row in VENDOR_FUNCTIONS.items()} == OUTPUTS
    for name, row in VENDOR_FUNCTIONS.items():
        assert set(row.written) == OUTPUTS[name] | IN_PLACE.get(name, set()), name


@rows
def test_an_artifact_passes_all_that_the_vendor_requires(row: VendorFunction) -> None:
    for variant in row.variants.values():
        passed = {argument.name for argument in variant.schema.arguments}
        assert set(variant.required) <= passed <= set(variant.names)
        assert variant.schema.host == bool(set(row.host) & passed)


@rows
def test_what_is_read_on_the_host_is_marked(row: VendorFunction) -> None:
    assert set(row.host) == {word.name for word in row.keywords if word.name.endswith("_cpu")}


@rows
def test_rows_have_a_source_and_name_their_own_keywords(row: VendorFunction) -> None:
    assert row.source and set(row.profiles) <= set(PROFILES)
    names = {keyword.name for keyword in row.keywords}
    assert {name for pair in row.aliases for name in pair} | set(row.hostile) <= names
    assert set(WHEELS) == set(PROFILES)


@rows
def test_the_doctor_knows_what_a_function_must_compute(row: VendorFunction) -> None:
    chain = {CHAIN_FIRST, "moe_fc", CHAIN_LAST}
    assert row.name in {*PROBES, *ATTENTION_PROBES, *chain}


def test_names_of_other_families_have_no_row() -> None:
    assert vendor_function("kunlun_ops.swiglu") is VENDOR_FUNCTIONS["swiglu"]
    for name in ("swiglu", "xspeedgate_ops.swiglu", "kunlun_ops.load", "kunlun_ops.swiglu.x"):
        assert vendor_function(name) is None


def test_the_defaults_of_the_table_are_pythons_own() -> None:
    function = VENDOR_FUNCTIONS["rmsnorm"].variants[P_A].signature.parameters
    assert function["eps"].default == 1e-5 and function["x"].default is inspect.Parameter.empty
