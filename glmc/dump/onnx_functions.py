"""What glmc:: ops mean, in ONNX: function bodies in its text form, for the ops it can express."""

from __future__ import annotations

from functools import cache
from typing import Any

OPSET = 18
DOMAIN = "glmc"
_TYPES = {"float32": 1, "uint8": 2, "int8": 3, "int32": 6, "int64": 7, "bool": 9, "float16": 10}
_TYPES |= {"float64": 11, "bfloat16": 16}

_RMS_NORM = """
  wide = Cast <to = 1> (summed)
  two = Constant <value_float = 2.0> ()
  square = Pow (wide, two)
  last = Constant <value_ints = [-1]> ()
  mean = ReduceMean (square, last)
  epsilon = Constant <value_float: float = @eps> ()
  shifted = Add (mean, epsilon)
  root = Sqrt (shifted)
  divided = Div (wide, root)
  narrow = CastLike (divided, summed)
  out = Mul (weight, narrow)
"""
_SWIGLU = """
  gate, up = Split <axis = -1, num_outputs = 2> (both)
  sigmoid = Sigmoid (gate)
  silu = Mul (gate, sigmoid)
  product = Mul (silu, up)
"""
_BODIES = {
    "rms_norm": f"rms_norm <eps> (x, weight) => (out) {{ summed = Identity (x) {_RMS_NORM} }}",
    "add_rms_norm": "add_rms_norm <eps> (x, residual, weight) => (out, total) {"
    f" total = Add (residual, x) summed = Identity (total) {_RMS_NORM} }}",
    "swiglu": f"swiglu (x) => (out) {{ both = Identity (x) {_SWIGLU} out = Identity (product) }}",
    "silu_mul": "silu_mul (gate, up) => (out) {"
    " sigmoid = Sigmoid (gate) silu = Mul (gate, sigmoid) out = Mul (silu, up) }",
    "linear": "linear (x, weight) => (out) {"
    " turned = Transpose <perm = [1, 0]> (weight) out = MatMul (x, turned) }",
    "linear_bias": "linear_bias (x, weight, bias) => (out) {"
    " turned = Transpose <perm = [1, 0]> (weight) product = MatMul (x, turned)"
    " out = Add (product, bias) }",
    "embedding": "embedding (token_ids, weight) => (out) {"
    " out = Gather <axis = 0> (weight, token_ids) }",
    "select_rows": "select_rows (x, rows) => (out) { out = Gather <axis = 0> (x, rows) }",
    "shared_expert": "shared_expert (x, gate_up, down, routed) => (out) {"
    " turned = Transpose <perm = [1, 0]> (gate_up) both = MatMul (x, turned)"
    f" {_SWIGLU} back = Transpose <perm = [1, 0]> (down)"
    " own = MatMul (product, back) out = Add (routed, own) }",
}


def onnx_type(dtype: str) -> int:
    """ONNX's number of a dtype."""
    return _TYPES[dtype]


def has_body(name: str) -> bool:
    """Whether ONNX can express the op of this name (``linear_bias`` is a linear with a bias)."""
    return name in _BODIES


@cache
def body(name: str) -> Any:
    """The onnx.FunctionProto of an op."""
    import onnx.parser

    head = f'<opset_import: ["" : {OPSET}], domain: "{DOMAIN}">'
    return onnx.parser.parse_function(f"{head} {_BODIES[name]}")
