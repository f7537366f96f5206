"""The rope of a config.json, resolved in one place from every spelling that transformers reads.

Files of transformers 4 have ``rope_theta``, ``partial_rotary_factor`` and ``rope_scaling`` (with
``type`` or ``rope_type``), files of transformers 5 have ``rope_parameters``. transformers 5 takes
``rope_scaling`` in place of the whole of ``rope_parameters`` when it is there, and the values at
the top level only for what the block lacks. Two blocks of one meaning are one; two that differ
are refused, since transformers would drop one of them without a word.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

from glmc.errors import ConfigError

# Kinds whose frequencies do not change with the length of the sequence.
ROPE_TYPES = ("default", "linear", "yarn", "llama3")
# What transformers 5 takes for a block without rope_theta (RotaryEmbeddingConfigMixin).
_DEFAULT_THETA = 10000.0
_TOP = ("rope_theta", "partial_rotary_factor")
_WHY_NOT = {
    "dynamic": "its table changes when a sequence grows beyond max_position_embeddings; up to "
    "there it is the plain one",
    "longrope": "its table changes with the length of the sequence",
    "proportional": "no GLM is published with it",
}


@dataclass(frozen=True)
class Rope:
    """A rope by its meaning.

    ``theta`` is None when no block and no field gives it. ``scaling`` is None for the plain table,
    else ``rope_type`` with every constant of that kind, defaults filled in.
    """

    theta: float | None
    partial: float
    scaling: Mapping[str, Any] | None


def longest_context(scaling: Mapping[str, Any] | None, positions: int) -> int:
    """How many positions a rope is made for, with ``max_position_embeddings`` of ``positions``.

    YaRN stretches the length of pretraining, linear interpolation the positions of the config
    (vLLM reckons the same way); the other kinds add none.
    """
    kind = None if scaling is None else scaling["rope_type"]
    if scaling is None or kind not in ("linear", "yarn"):
        return positions
    original = scaling.get("original_max_position_embeddings", positions)
    return max(positions, int(scaling["factor"] * original))


def resolve_rope(data: Mapping[str, Any], *, partial: float, place: str) -> Rope:
    """Read the rope of config.json data; ``partial`` is what an absent partial_rotary_factor means.

    Raises :class:`ConfigError` with the names of both when two blocks or fields contradict each
    other, and for a kind of rope that glmc does not compile.
    """
    blocks = {
        name: dict(block)
        for name in ("rope_scaling", "rope_parameters")
        if (block := _block(data, name, place))
    }
    if not blocks:
        return _resolved({}, data, "config.json", partial, place)
    ropes = [_resolved(block, data, name, partial, place) for name, block in blocks.items()]
    if len(ropes) == 2:
        # transformers drops rope_parameters, its theta included, as soon as rope_scaling is there.
        rope = ropes[0]
        theta = _DEFAULT_THETA if rope.theta is None else rope.theta
        rope = replace(rope, theta=theta)
        if rope != ropes[1]:
            raise ConfigError(
                "rope_scaling and rope_parameters of config.json mean two ropes",
                place=place,
                expected="one of the two blocks, or the same meaning in both",
                found=f"rope_scaling {data['rope_scaling']} (which transformers obeys, with "
                f"rope_theta {theta:g}), rope_parameters {data['rope_parameters']}",
                remedy="write all values into rope_parameters (rope_type, rope_theta, "
                "partial_rotary_factor, factor, ...) and remove rope_scaling",
            )
        return rope
    return ropes[0]


def _block(data: Mapping[str, Any], name: str, place: str) -> Mapping[str, Any]:
    block = data.get(name)
    if block is None:
        return {}
    if not isinstance(block, Mapping):
        raise ConfigError(
            f"{name} of config.json is no kind of rope",
            place=place,
            expected="a JSON object with rope_type, or null",
            found=repr(block),
            remedy="compare config.json with the published one",
        )
    nested = [key for key, value in block.items() if isinstance(value, Mapping)]
    if nested:
        raise ConfigError(
            "glmc does not compile a rope for each kind of layer",
            place=place,
            expected=f"one rope in {name}",
            found=f"{name} with {', '.join(nested)}",
            remedy="no GLM-4 has that: compare config.json with the published one",
        )
    return {key: value for key, value in block.items() if value is not None or key == "truncate"}


def _resolved(
    block: Mapping[str, Any], data: Mapping[str, Any], name: str, partial: float, place: str
) -> Rope:
    top: dict[str, Any] = {}
    for key in _TOP:
        value, outer = block.get(key), data.get(key)
        if value is not None and outer is not None and value != outer:
            raise ConfigError(
                f"'{key}' is given twice with two values",
                place=place,
                expected=f"{value} as in {name}",
                found=f"{outer!r} at the top level",
                remedy="remove one of the two from config.json: transformers obeys the block",
            )
        top[key] = outer if value is None else value
        if top[key] is not None:
            top[key] = _number(top, key, name, place)
    if top["partial_rotary_factor"] is None:
        if "partial_rotary_factor" in data and data["partial_rotary_factor"] is None:
            raise _unusable(
                place,
                "partial_rotary_factor",
                f"a number: transformers 5 rotates the whole head for null, absent is {partial}",
                "null",
            )
        top["partial_rotary_factor"] = partial
    kind = _kind(block, name, place)
    scaling = _scaling(kind, block, data, name, place)
    return Rope(top["rope_theta"], top["partial_rotary_factor"], scaling)


def _kind(block: Mapping[str, Any], name: str, place: str) -> str:
    kinds = {key: block[key] for key in ("rope_type", "type") if key in block}
    if len(set(map(str, kinds.values()))) > 1:
        raise ConfigError(
            f"'rope_type' and 'type' of {name} name two kinds of rope",
            place=place,
            expected="one of them, or the same in both",
            found=str(kinds),
            remedy=f"remove 'type' from {name}: transformers obeys rope_type",
        )
    if not kinds and set(block) - set(_TOP):
        raise _unusable(
            place, f"rope_type of {name}", "a kind: " + ", ".join(ROPE_TYPES), f"none in {block}"
        )
    kind = next(iter(kinds.values()), "default")
    if kind not in ROPE_TYPES:
        reason = _WHY_NOT.get(str(kind))
        raise ConfigError(
            "glmc does not compile this kind of rope" + (f": {reason}" if reason else ""),
            place=f"{place}, field '{name}'",
            expected=", ".join(ROPE_TYPES),
            found=repr(kind),
            remedy=f"remove {name} for the published context length (and give rope_theta)"
            if name == "rope_parameters"
            else "set rope_scaling to null for the published context length",
        )
    return str(kind)


def _scaling(
    kind: str, block: Mapping[str, Any], data: Mapping[str, Any], name: str, place: str
) -> dict[str, Any] | None:
    """The constants of a kind with defaults filled in; None for the plain table."""

    def number(key: str) -> float:
        return _number(block, key, name, place)

    if kind == "default" or (kind == "linear" and number("factor") == 1):
        return None
    constants: dict[str, Any] = {"rope_type": kind, "factor": number("factor")}
    if kind == "linear":
        return constants
    constants["original_max_position_embeddings"] = _original(block, data, name, place)
    if kind == "llama3":
        return constants | {key: number(key) for key in ("low_freq_factor", "high_freq_factor")}
    has_attention_factor = block.get("attention_factor") is not None
    constants["attention_factor"] = (
        number("attention_factor")
        if has_attention_factor
        else _magnitude(constants["factor"], block)
    )
    for key, usual in (("beta_fast", 32.0), ("beta_slow", 1.0)):
        constants[key] = number(key) if block.get(key) else usual
    # As transformers reads it: absent is true, null is false.
    constants["truncate"] = bool(block.get("truncate", True))
    return constants


def _original(block: Mapping[str, Any], data: Mapping[str, Any], name: str, place: str) -> float:
    """The length of pretraining: at the top level, in the block, or max_position_embeddings."""
    key = "original_max_position_embeddings"
    inner, outer = block.get(key), data.get(key)
    if inner is not None and outer is not None and inner != outer:
        raise ConfigError(
            f"'{key}' is given twice with two values",
            place=place,
            expected=f"{inner} as in {name}",
            found=f"{outer!r} at the top level, which transformers obeys",
            remedy="remove one of the two from config.json",
        )
    positions = data.get("max_position_embeddings")
    for holder, item in ((data, key), (block, key), (data, "max_position_embeddings")):
        if holder.get(item) is not None:
            number = _number(holder, item, name, place)
            return int(number) if number.is_integer() else number
    raise _unusable(place, f"{key} of {name}", "a number of positions", repr(positions))


def _magnitude(factor: float, block: Mapping[str, Any]) -> float:
    """YaRN's factor on cos and sin, when the block does not give it."""

    def scale(weight: float) -> float:
        return 1.0 if factor <= 1 else 0.1 * weight * math.log(factor) + 1.0

    over, under = block.get("mscale"), block.get("mscale_all_dim")
    return float(scale(over) / scale(under)) if over and under else scale(1)


def _number(holder: Mapping[str, Any], key: str, name: str, place: str) -> float:
    value = holder.get(key)
    if isinstance(value, (int, float)) and not isinstance(value, bool) and 0 < value < math.inf:
        return float(value)
    raise _unusable(place, f"{key} of {name}", "a number above 0", repr(value))


def _unusable(place: str, what: str, expected: str, value: str) -> ConfigError:
    return ConfigError(
        f"the rope of config.json can't be resolved: {what}",
        place=place,
        expected=expected,
        found=value,
        remedy="compare config.json with the published one, or with the model card's YaRN block",
    )
