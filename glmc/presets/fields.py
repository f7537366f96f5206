"""The fields of a config.json that change the mathematics, all of them read, none guessed.

A field that is absent has the meaning of ``absent.py``, or is an error.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch

from glmc.errors import ConfigError
from glmc.presets.absent import ABSENT, advice
from glmc.presets.architectures import ARCHITECTURES, MODEL_TYPES, read_architecture
from glmc.presets.quantised import refuse_quantised
from glmc.presets.rope import longest_context, resolve_rope

__all__ = ["ARCHITECTURES", "MODEL_TYPES", "ModelFields", "MoeFields", "fields_of", "read_fields"]
# The only file of weights that config.json may name; see glmc/weights/files.py.
WEIGHTS = "model.safetensors"
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
    """A config in one spelling. ``rope_scaling`` is None for the plain table, else ``rope_type``
    with all constants of that kind. ``dtype`` is None when the config names none."""

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

    @property
    def longest_context(self) -> int:
        """``max_position_embeddings``, or as far as the scaling of the rope goes beyond it."""
        return longest_context(self.rope_scaling, self.max_position_embeddings)


def fields_of(config: Any) -> ModelFields:
    """The fields of a transformers config object of a supported architecture."""
    return read_fields(config.to_dict(), place=type(config).__name__)


def read_fields(
    data: Mapping[str, Any], *, place: str, supplied: Mapping[str, Any] | None = None
) -> ModelFields:
    """Read config.json data; ``place`` is named in errors.

    Takes the spelling of transformers 4 (``rope_theta``, ``partial_rotary_factor``,
    ``rope_scaling``, ``torch_dtype``) and of 5 (``rope_parameters``, ``dtype``). ``supplied`` are
    values of options for fields that the file lacks. Raises :class:`ConfigError` with every missing
    field, for a field of the wrong kind or out of range, and for an architecture, activation, rope
    variant or quantisation that glmc does not compile.
    """
    architecture = read_architecture(data, place)
    refuse_quantised(data, place)
    _refuse_unread(data, place)
    flat = {name: value for name, value in data.items() if value is not None}
    supplied_values = {name: value for name, value in (supplied or {}).items() if value is not None}
    if "max_position_embeddings" in supplied_values:
        flat.setdefault("max_position_embeddings", supplied_values["max_position_embeddings"])
    # A null is told from an absent field here: transformers reads it in a way of its own.
    partial = ABSENT[architecture]["partial_rotary_factor"]
    rope = resolve_rope({**data, **flat}, partial=partial, place=place)
    flat.update(rope_theta=rope.theta, partial_rotary_factor=rope.partial)
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
        rope_scaling=rope.scaling,
        eos_token_ids=token_ids(flat.get("eos_token_id"), place=place),
        dtype=_dtype(flat, supplied_values.get("dtype"), place),
        moe=experts,
        **values,
    )
    _check(fields, place)
    return fields


def stop_ids(fields: ModelFields, ids: Any, *, place: str) -> tuple[int, ...]:
    """The ids that end a text, from ``eos_token_id``; absent, those of the architecture, as far as
    the vocabulary has them. Raises :class:`ConfigError` for ids that it does not have."""
    if ids is None:
        usual = ABSENT[fields.architecture]["eos_token_id"]
        return usual if all(token < fields.vocab_size for token in usual) else ()
    eos = token_ids(ids, place=place)
    if not all(0 <= token < fields.vocab_size for token in eos):
        raise ConfigError("eos_token_id is outside the vocabulary", place=place, found=str(eos))
    return eos


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

    def alias(self, name: str, other: str) -> None:
        """Read ``other``, transformers' second name of the field, where ``name`` is absent."""
        if other in self.data:
            if self.data.get(name, self.data[other]) != self.data[other]:
                raise ConfigError(
                    f"'{name}' and '{other}' are one field, given with two values",
                    place=self.place,
                    found=f"{self.data[name]!r} and {self.data[other]!r}",
                    remedy=f"remove '{other}' from config.json",
                )
            self.data = {**self.data, name: self.data[other]}

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
                remedy=advice(self.missing),
            )


def _read_moe(reader: _Reader) -> MoeFields:
    for name, other in (
        ("n_routed_experts", "num_local_experts"),
        ("num_nextn_predict_layers", "num_mtp_layers"),
    ):
        reader.alias(name, other)
    # The modules of transformers leave these layers out, so absent means one, as published.
    reader.data = {"num_nextn_predict_layers": 1, **reader.data}
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


def _refuse_unread(data: Mapping[str, Any], place: str) -> None:
    """Fields with which transformers changes layers or files, and which glmc does not read."""
    if data.get("per_layer_config"):
        raise ConfigError(
            "glmc does not compile layers with a config of their own",
            place=f"{place}, field 'per_layer_config'",
            expected="one config for all layers",
            found=str(data["per_layer_config"]),
            remedy="no GLM-4 has that: compare config.json with the published one",
        )
    if data.get("transformers_weights", WEIGHTS) != WEIGHTS:
        raise ConfigError(
            "config.json names another file of weights",
            place=f"{place}, field 'transformers_weights'",
            expected=WEIGHTS,
            found=repr(data["transformers_weights"]),
            remedy=f"rename that file to {WEIGHTS} and remove the field",
        )


def _dtype(data: Mapping[str, Any], supplied: Any, place: str) -> torch.dtype | None:
    """The dtype of the weights; with both names transformers obeys ``dtype``."""
    value = data.get("dtype", data.get("torch_dtype", supplied))
    if value is None:
        return None
    name = str(value).removeprefix("torch.")
    if name not in DTYPES and supplied is not None:
        name = str(supplied)
    if name not in DTYPES:
        raise ConfigError(
            "glmc does not compile weights of this dtype",
            place=place,
            expected=", ".join(DTYPES),
            found=name,
            remedy="name the dtype to compute in by --dtype, or use the bfloat16 checkpoint",
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
            "eos_token_id is in the vocabulary",
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
