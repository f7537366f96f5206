"""Quantised checkpoints, refused by the name of their format."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from glmc.errors import ConfigError

# quant_method of transformers (and of the tools that write it) -> how the field calls it.
METHODS: dict[str, str] = {
    "fp8": "FP8 in blocks with scales (weight_scale_inv)",
    "fbgemm_fp8": "FP8 of FBGEMM",
    "compressed-tensors": "compressed-tensors (llm-compressor: FP8, INT8 or packed INT4)",
    "gptq": "GPTQ (qweight, qzeros, scales, g_idx)",
    "awq": "AWQ (qweight, qzeros, scales)",
    "auto-round": "AutoRound (packed INT4)",
    "bitsandbytes": "bitsandbytes (8 bits, or 4 bits NF4)",
    "gguf": "GGUF of llama.cpp",
    "mlx": "MLX (packed groups with scales and biases)",
    "mxfp4": "MXFP4",
    "modelopt": "NVIDIA ModelOpt (NVFP4 or FP8)",
    "torchao": "torchao",
    "hqq": "HQQ",
    "quanto": "Quanto",
    "aqlm": "AQLM",
    "eetq": "EETQ (INT8)",
    "vptq": "VPTQ",
    "higgs": "HIGGS",
    "spqr": "SpQR",
    "quark": "AMD Quark",
    "bitnet": "BitNet",
    "msmodelslim": "msModelSlim (Ascend W8A8 or W4A8)",
}
UNQUANTISED = "use the unquantised checkpoint of the same model"
# config.json fields that say a checkpoint is quantised, and the method where the field implies it.
_FIELDS = {
    "quantization_config": None,
    "compression_config": "compressed-tensors",
    "quantization": "mlx",
    "quantize": "msmodelslim",
}


def refuse_quantised(data: Mapping[str, Any], place: str) -> None:
    """Raise :class:`ConfigError` when a field says that the weights are quantised."""
    for field, implied in _FIELDS.items():
        value = data.get(field)
        if value is None or value is False:
            continue
        block = value if isinstance(value, Mapping) else {}
        method = block.get("quant_method", implied)
        if method is None and (block.get("load_in_4bit") or block.get("load_in_8bit")):
            method = "bitsandbytes"
        details = [
            f"{name} {block[name]!r}"
            for name in ("format", "fmt", "bits", "quant_algo", "weight_block_size")
            if block.get(name) is not None
        ]
        described = METHODS.get(str(method), "a format that glmc does not know")
        raise ConfigError(
            f"the checkpoint is quantised: {described}",
            place=f"{place}, field '{field}'",
            expected="bfloat16, float16 or float32 weights: glmc has no kernel for others",
            found=f"{field} with method {method!r}" + "".join(f", {item}" for item in details),
            remedy=UNQUANTISED,
        )
