"""The fields of a config.json that change the mathematics, all of them read, none assumed.

The defaults of the config classes differ from the published models (``rope_theta`` 1e4 against
1e6, ``attention_bias`` False against True, a ``head_dim`` of hidden / heads against 128), so a
field that is absent is an error and never a default.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch

from glmc.errors import ConfigError

MODEL_TYPES: dict[str, str] = {
    "glm": "GlmForCausalLM",
    "glm4": "Glm4ForCausalLM",
    "glm4_moe": "Glm4MoeForCausalLM",
}
ARCHITECTURES: tuple[str, ...] = tuple(MODEL_TYPES.values())
# Rope variants whose frequencies do not change with the length of the sequence.
ROPE_TYPES = ("default", "linear", "yarn", "llama3")
DTYPES = {"bfloat16": torch.bfloat16, "float16": torch.float16, "float32": torch.float32}


@dataclass(frozen=True)
class MoeFields:
    """The mixture of experts; layers below ``first_k_dense_replace`` are dense."""

    moe_intermediate_size: int
    n_routed_experts: int
    n_shared_experts: int
    num_experts_per_tok: int
    n_group: int
    topk_group: int
    norm_topk_prob: bool
    routed_scaling_factor: float
    first_k_dense_replace: int
    num_nextn_predict_layers: int


@dataclass(frozen=True)
class ModelFields:
    """A config in one spelling. ``rope_scaling`` is None for the plain table, else the published
    mapping with ``rope_type`` and its constants. ``dtype`` is None when the config names none."""

    architecture: str
    vocab_size: int
    hidden_size: int
    intermediate_size: int
    num_hidden_layers: int
    num_attention_heads: int
    num_key_value_heads: int
    head_dim: int
    max_position_embeddings: int
    rms_norm_eps: float
    rope_theta: float
    partial_rotary_factor: float
    rope_scaling: Mapping[str, Any] | None
    attention_bias: bool
    use_qk_norm: bool
    tie_word_embeddings: bool
    hidden_act: str
    eos_token_ids: tuple[int, ...]
    dtype: torch.dtype | None
    moe: MoeFields | None

    @property
    def model_type(self) -> str:
        return next(kind for kind, name in MODEL_TYPES.items() if name == self.architecture)

    @property
    def dense_layers(self) -> int:
        """Layers with a dense feed-forward part."""
        layers = self.num_hidden_layers
        return layers if self.moe is None else min(self.moe.first_k_dense_replace, layers)

    @property
    def moe_layers(self) -> int:
        return self.num_hidden_layers - self.dense_layers


def fields_of(config: Any) -> ModelFields:
    """The fields of a transformers config object of a supported architecture."""
    return read_fields(config.to_dict(), place=type(config).__name__)


def read_fields(data: Mapping[str, Any], *, place: str) -> ModelFields:
    """Read config.json data; ``place`` is named in errors.

    Takes the spelling of transformers 4.57 (``rope_theta``, ``partial_rotary_factor``,
    ``rope_scaling``, ``torch_dtype``) and of 5.x (``rope_parameters``, ``dtype``). Raises
    :class:`ConfigError` with every missing field, for a field of the wrong kind or out of range,
    and for an architecture, activation, rope variant or quantisation that glmc does not compile.
    """
    architecture = _architecture(data, place)
    _refuse_quantised(data, place)
    flat = _with_flat_rope(data, place)
    reader = _Reader(flat, place)
    moe = architecture == "Glm4MoeForCausalLM"
    values: dict[str, Any] = {name: reader.size(name) for name in _SIZES}
    values.update({name: reader.number(name) for name in _NUMBERS})
    values.update({name: reader.flag(name) for name in _FLAGS})
    values["use_qk_norm"] = reader.flag("use_qk_norm") if moe else False
    values["hidden_act"] = reader.text("hidden_act")
    experts = _read_moe(reader) if moe else None
    reader.finish()
    fields = ModelFields(
        architecture=architecture,
        rope_scaling=flat.get("rope_scaling"),
        eos_token_ids=token_ids(flat.get("eos_token_id"), place=place),
        dtype=_dtype(flat, place),
        moe=experts,
        **values,
    )
    _check(fields, place)
    return fields


_SIZES = (
    "vocab_size",
    "hidden_size",
    "intermediate_size",
    "num_hidden_layers",
    "num_attention_heads",
    "num_key_value_heads",
    "head_dim",
    "max_position_embeddings",
)
_NUMBERS = ("rms_norm_eps", "rope_theta", "partial_rotary_factor")
_FLAGS = ("attention_bias", "tie_word_embeddings")


def token_ids(value: Any, *, place: str) -> tuple[int, ...]:
    """``eos_token_id`` as a tuple: the config holds a number, a list or null."""
    items = [] if value is None else value if isinstance(value, (list, tuple)) else [value]
    if not all(isinstance(item, int) and not isinstance(item, bool) for item in items):
        raise ConfigError("eos_token_id is no token id", place=place, found=repr(value))
    return tuple(items)


class _Reader:
    """Typed access that collects every missing field before it complains."""

    def __init__(self, data: Mapping[str, Any], place: str) -> None:
        self.data = data
        self.place = place
        self.missing: list[str] = []

    def _get(self, name: str) -> Any:
        value = self.data.get(name)
        if value is None:
            self.missing.append(name)
        return value

    def _wrong(self, name: str, expected: str) -> ConfigError:
        return ConfigError(
            f"'{name}' has a value that no model can have",
            place=self.place,
            expected=expected,
            found=repr(self.data[name]),
            remedy="compare config.json with the published one",
        )

    def size(self, name: str, minimum: int = 1) -> int:
        value = self._get(name)
        if value is None:
            return minimum
        if isinstance(value, bool) or not isinstance(value, int) or value < minimum:
            raise self._wrong(name, f"a whole number of at least {minimum}")
        return value

    def number(self, name: str) -> float:
        value = self._get(name)
        if value is None:
            return 1.0
        if isinstance(value, bool) or not isinstance(value, (int, float)) or not value > 0:
            raise self._wrong(name, "a number above 0")
        return float(value)

    def flag(self, name: str) -> bool:
        value = self._get(name)
        if value is not None and not isinstance(value, bool):
            raise self._wrong(name, "true or false")
        return bool(value)

    def text(self, name: str) -> str:
        value = self._get(name)
        if value is not None and not isinstance(value, str):
            raise self._wrong(name, "a word")
        return str(value)

    def finish(self) -> None:
        if self.missing:
            raise ConfigError(
                "config.json lacks fields that change the mathematics",
                place=self.place,
                expected="a value for each: the class defaults are not those of the models",
                found="missing: " + ", ".join(self.missing),
                remedy="take config.json from the published checkpoint, or add the fields",
            )


def _read_moe(reader: _Reader) -> MoeFields:
    if "n_routed_experts" not in reader.data and "num_local_experts" in reader.data:
        reader.data = {**reader.data, "n_routed_experts": reader.data["num_local_experts"]}
    # The modules of transformers leave these layers out, so absent means one, as published.
    extra = reader.data.get("num_nextn_predict_layers", reader.data.get("num_mtp_layers", 1))
    reader.data = {**reader.data, "num_nextn_predict_layers": extra}
    return MoeFields(
        moe_intermediate_size=reader.size("moe_intermediate_size"),
        n_routed_experts=reader.size("n_routed_experts"),
        n_shared_experts=reader.size("n_shared_experts"),
        num_experts_per_tok=reader.size("num_experts_per_tok"),
        n_group=reader.size("n_group"),
        topk_group=reader.size("topk_group"),
        norm_topk_prob=reader.flag("norm_topk_prob"),
        routed_scaling_factor=reader.number("routed_scaling_factor"),
        first_k_dense_replace=reader.size("first_k_dense_replace", minimum=0),
        num_nextn_predict_layers=reader.size("num_nextn_predict_layers", minimum=0),
    )


def _architecture(data: Mapping[str, Any], place: str) -> str:
    given = data.get("architectures") or []
    named = given if isinstance(given, list) else [given]
    found = named[0] if named else MODEL_TYPES.get(str(data.get("model_type")))
    if found in ARCHITECTURES and len(named) <= 1:
        return str(found)
    raise ConfigError(
        "glmc does not compile this architecture",
        place=place,
        expected=" or ".join(ARCHITECTURES),
        found=", ".join(map(str, named)) or f"model_type {data.get('model_type')!r}",
        remedy="use a GLM-4-0414, GLM-Z1, GLM-4.5, 4.5-Air, 4.6 or 4.7 checkpoint",
    )


def _refuse_quantised(data: Mapping[str, Any], place: str) -> None:
    quantisation = data.get("quantization_config")
    if quantisation is not None:
        method = quantisation.get("quant_method") if isinstance(quantisation, dict) else None
        raise ConfigError(
            "the checkpoint is quantised",
            place=place,
            expected="bfloat16, float16 or float32 weights",
            found=f"quantization_config with method {method!r}",
            remedy="use the unquantised checkpoint of the same model",
        )


def _with_flat_rope(data: Mapping[str, Any], place: str) -> dict[str, Any]:
    """Bring ``rope_parameters`` of transformers 5.x to the top level; contradictions are errors."""
    flat = dict(data)
    nested = data.get("rope_parameters")
    scaling = data.get("rope_scaling")
    if isinstance(nested, Mapping):
        for name in ("rope_theta", "partial_rotary_factor"):
            if nested.get(name) is None:
                continue
            if flat.get(name) is not None and flat[name] != nested[name]:
                raise ConfigError(
                    f"'{name}' is given twice with two values",
                    place=place,
                    expected=f"{nested[name]} as in rope_parameters",
                    found=repr(flat[name]),
                    remedy="remove one of the two from config.json",
                )
            flat[name] = nested[name]
        plain = ("rope_theta", "partial_rotary_factor")
        scaling = {key: value for key, value in nested.items() if key not in plain} or scaling
    if scaling is not None:
        kind = scaling.get("rope_type", scaling.get("type")) if isinstance(scaling, dict) else None
        if kind not in ROPE_TYPES:
            raise ConfigError(
                "glmc does not compile this kind of rope",
                place=place,
                expected=", ".join(ROPE_TYPES),
                found=repr(kind),
                remedy="set rope_scaling to null for the published context length",
            )
        scaling = None if kind == "default" else {**scaling, "rope_type": kind}
    flat["rope_scaling"] = scaling
    return flat


def _dtype(data: Mapping[str, Any], place: str) -> torch.dtype | None:
    value = data.get("dtype", data.get("torch_dtype"))
    if value is None:
        return None
    name = str(value).removeprefix("torch.")
    if name not in DTYPES:
        raise ConfigError(
            "glmc does not compile weights of this dtype",
            place=place,
            expected=", ".join(DTYPES),
            found=name,
        )
    return DTYPES[name]


def _check(fields: ModelFields, place: str) -> None:
    """Relations between fields that every model keeps."""
    rotary = fields.head_dim * fields.partial_rotary_factor
    rules: list[tuple[bool, str]] = [
        (fields.hidden_act == "silu", "hidden_act is silu"),
        (
            fields.num_attention_heads % fields.num_key_value_heads == 0,
            "num_attention_heads is a multiple of num_key_value_heads",
        ),
        (
            rotary <= fields.head_dim and rotary == int(rotary) and int(rotary) % 2 == 0,
            "head_dim * partial_rotary_factor is an even number up to head_dim",
        ),
        (
            all(0 <= token < fields.vocab_size for token in fields.eos_token_ids),
            "eos_token_id lies in the vocabulary",
        ),
    ]
    moe = fields.moe
    if moe is not None:
        by_group = moe.n_routed_experts // moe.n_group
        rules += [
            (moe.n_routed_experts % moe.n_group == 0, "n_group divides n_routed_experts"),
            (moe.topk_group <= moe.n_group, "topk_group is at most n_group"),
            (
                moe.num_experts_per_tok <= by_group * moe.topk_group,
                "num_experts_per_tok is at most the number of experts in topk_group groups",
            ),
        ]
    broken = [text for holds, text in rules if not holds]
    if broken:
        raise ConfigError(
            "the fields of config.json contradict each other",
            place=place,
            expected="; ".join(broken),
            found=str(fields),
            remedy="compare config.json with the published one",
        )
