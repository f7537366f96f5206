"""From fields to the config object of the installed transformers, 4.57 or 5.x."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict
from typing import Any

import transformers
from huggingface_hub.errors import StrictDataclassError

from glmc.errors import ConfigError
from glmc.presets.fields import ModelFields

_CLASSES = {
    "GlmForCausalLM": "GlmConfig",
    "Glm4ForCausalLM": "Glm4Config",
    "Glm4MoeForCausalLM": "Glm4MoeConfig",
}

# Kept from the file as they are: they do not change the result of inference. The id of padding,
# which does not either, is left out: one outside the vocabulary keeps the class from being built.
_CARRIED = ("initializer_range", "bos_token_id", "attention_dropout")


def build_config(fields: ModelFields, data: Mapping[str, Any]) -> Any:
    """The transformers config with every field of ``fields`` set.

    What came out is read back and compared: raises :class:`ConfigError` when the installed
    transformers dropped or changed a field.
    """
    values: dict[str, Any] = asdict(fields)
    moe = values.pop("moe")
    architecture = values.pop("architecture")
    scaling = values.pop("rope_scaling")
    eos = list(values.pop("eos_token_ids"))
    if moe is None:
        del values["use_qk_norm"]
    else:
        values.update(moe)
    if int(transformers.__version__.split(".")[0]) >= 5:
        values["rope_parameters"] = {
            "rope_type": "default",
            **(scaling or {}),
            "rope_theta": values.pop("rope_theta"),
            "partial_rotary_factor": values.pop("partial_rotary_factor"),
        }
    else:
        values["rope_scaling"] = scaling
        _require_factor_obeyed(fields)
    values.update({name: data[name] for name in _CARRIED if name in data})
    try:
        config = getattr(transformers, _CLASSES[architecture])(
            **values,
            pad_token_id=None,
            eos_token_id=eos or None,
            architectures=[architecture],
            use_cache=True,
        )
    except (StrictDataclassError, TypeError, ValueError, KeyError) as error:
        raise ConfigError(
            f"transformers {transformers.__version__} refuses the config: {error}",
            remedy="compare config.json with the published one",
        ) from error
    _compare(fields, config)
    return config


def _require_factor_obeyed(fields: ModelFields) -> None:
    """transformers 4 takes YaRN's factor from the two lengths, whatever the block says."""
    scaling = fields.rope_scaling
    if scaling is None or scaling["rope_type"] != "yarn":
        return
    implied = fields.max_position_embeddings / scaling["original_max_position_embeddings"]
    if implied != scaling["factor"]:
        raise ConfigError(
            f"transformers {transformers.__version__} ignores the factor of rope_scaling",
            expected=f"max_position_embeddings / original_max_position_embeddings = {implied:g}",
            found=f"factor {scaling['factor']:g}",
            remedy="install transformers 5, which obeys the factor",
        )


def _compare(fields: ModelFields, config: Any) -> None:
    from glmc.presets.fields import fields_of

    built = asdict(fields_of(config))
    changed = [
        f"{name}: {value!r} became {built[name]!r}"
        for name, value in asdict(fields).items()
        if built[name] != value and not (name == "eos_token_ids" and not value)
    ]
    if changed:
        raise ConfigError(
            f"transformers {transformers.__version__} changed fields of the config",
            found="; ".join(changed),
            remedy="install transformers 4.57 or newer; report this if it is",
        )
