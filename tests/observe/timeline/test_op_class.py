"""Kernel names of the libraries, ops and modules, each by the kind of op that it is."""

from __future__ import annotations

import pytest

from glmc.observe.timeline.kernel_names import KERNELS, MODULES, OP_CLASSES, OPS
from glmc.observe.timeline.op_class import class_of, op_class
from glmc.observe.timeline.table import Kind, TimelineEvent

NAMES = {
    "nvjet_sm90_tst_64x8_64x16_2x1_v_bz_bias_TNT": "linear",
    "void cublasLt::splitKreduce_kernel<32, 16, int, float, __nv_bfloat16>(float)": "linear",
    "void cutlass::Kernel2<cutlass_80_simt_sgemm_64x64_8x5_tn_align1>": "linear",
    "void dot_kernel<float, 128, 0, cublasDotParams<float> >": "linear",
    "void xblas_xpu3::fc_cdnn_infer<float16, float16, float16, float16, float, 1>": "linear",
    "void cutlass::device_kernel<flash::enable_sm90_or_later<flash::FlashAttnFwdSm90<int> > >": (
        "attention"
    ),
    "void flash::prepare_varlen_num_blocks_kernel<1, false>(int)": "attention",
    "rope_decode_attention_kernel": "attention",
    "fused_moe_kernel": "moe experts",
    "void vllm::moe::moe_sum_vec_kernel<c10::BFloat16, 8>": "moe experts",
    "void vllm::moe::moe_align_block_size_kernel<int>(int const*)": "moe experts",
    "sorted_up_kernel": "moe experts",
    "void vllm::moe::grouped_topk_fused_small_expert_count_kernel<float>": "router",
    "choose_kernel": "router",
    "triton_red_fused__to_copy_fused_add_rms_norm_moe_forward_shared_0": "norm",
    "triton_red_fused__to_copy_embedding_rms_norm_0": "norm",
    "triton_poi_fused_mul_silu_slice_0": "activation",
    "void vllm::act_and_mul_kernel<c10::BFloat16>": "activation",
    "void vllm::reshape_and_cache_flash_kernel<__nv_bfloat16>": "rope and cache",
    "qkv_rope_cache_kernel": "rope and cache",
    "void at::native::reduce_kernel<512, 1, at::native::ReduceOp<float, ArgMaxOps> >": "sampling",
    "Memcpy HtoD (Pinned -> Device)": "copy",
    "memcpy32_post": "copy",
    "xpukernel_xpu3::constant<float>": "copy",
    "void at::native::vectorized_elementwise_kernel<4, at::native::FillFunctor<int> >": "copy",
    "ncclDevKernel_AllReduce_Sum_bf16_RING_LL(ncclDevKernelArgsStorage<4096>)": "collective",
    "void vllm::cross_device_reduce_1stage<__nv_bfloat16, 4>": "collective",
    "void kl3_all_reduce_butterfly<float16>": "collective",
    "void flashinfer::trtllm_allreduce_fusion::allreduce_fusion_kernel_oneshot": "collective",
    "aten::_grouped_mm": "moe experts",
    "cpu.linear": "linear",
    "triton_poi_fused_2": "other",
    "some_new_kernel": "other",
}


@pytest.mark.parametrize("name", NAMES)
def test_a_name_of_a_library(name: str) -> None:
    assert class_of(name) == NAMES[name]


def test_an_op_of_a_plan_is_asked_before_the_function_that_computes_it() -> None:
    assert class_of("kunlun_ops.fused_gemm", "moe_gate", planned=True) == "router"
    assert class_of("kunlun_ops.rmsnorm", "qkv_rope_cache", planned=True) == "rope and cache"
    assert class_of("kunlun_ops.rmsnorm", "qkv_rope_cache") == "norm"


def test_the_launching_op_says_what_a_kernel_of_aten_is_for() -> None:
    elementwise = "void at::native::vectorized_elementwise_kernel<4, BinaryFunctor>"
    assert class_of(elementwise, "aten::silu") == "activation"
    assert class_of(elementwise) == "other"


def test_the_module_says_it_where_neither_does() -> None:
    inside = "Glm4MoeDecoderLayer_3/Glm4MoeRMSNorm_7"
    assert class_of("aten::mul", "aten::mul", inside) == "norm"
    assert class_of("aten::mm", "aten::mm", "Glm4MoeMoE_0/Glm4MoeNaiveMoe_0") == "moe experts"
    assert class_of("aten::mm", "aten::mm", "Glm4MoeAttention_0/Linear_1") == "linear"
    shared = "model.layers.1.mlp.shared_experts"
    assert class_of("cpu.linear", "shared_expert", shared, planned=True) == "linear"


def test_a_collective_is_one_whatever_its_name() -> None:
    event = TimelineEvent(0, 1, "device 0", Kind.COLLECTIVE, "nvjet_x")
    assert op_class(event) == "collective"


def test_every_row_has_a_class_of_the_list_and_a_source() -> None:
    for row in (*KERNELS, *OPS, *MODULES):
        assert row.op_class in OP_CLASSES and row.source
