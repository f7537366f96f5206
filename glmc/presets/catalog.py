"""Models by preset name or checkpoint directory: config, shape, dtype and expected matches."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch

from glmc.errors import ConfigError
from glmc.ir.program import ModelShape
from glmc.plain_file import read_plain
from glmc.presets.absent import SUPPLIED_BY
from glmc.presets.fields import ModelFields, read_fields, stop_ids
from glmc.presets.matches import expected_matches
from glmc.presets.names import place_of, require_model
from glmc.presets.names import preset_names as preset_names
from glmc.presets.parameters import parameter_count
from glmc.presets.published import Preset as Preset
from glmc.presets.published import load_preset as load_preset


@dataclass(frozen=True)
class ModelSource:
    """What a compile starts from.

    ``config`` is the transformers config object. ``directory`` is the checkpoint, or None for a
    preset. ``expected_matches`` is per pass name; ``dtype`` the published one of the weights.
    """

    name: str
    directory: Path | None
    fields: ModelFields
    config: Any
    shape: ModelShape
    dtype: torch.dtype
    eos_token_ids: tuple[int, ...]
    expected_matches: Mapping[str, int]


def load_config(source: str | Path, supplied: Mapping[str, Any] | None = None) -> ModelSource:
    """Read a preset by name or the config.json of a checkpoint directory.

    ``supplied`` are fields that options give where the file has none: dtype and
    max_position_embeddings. A directory wins over a preset of the same name only when it is
    written as a path (with a separator). Raises :class:`ConfigError`: see
    :func:`glmc.presets.fields.read_fields`.
    """
    directory, name = place_of(source)
    if directory is None:
        preset = load_preset(name)
        ends = preset.config.get("eos_token_id")
        return _model_source(name, None, preset.config, ends, supplied)
    require_model(directory)
    data = _read_json(directory / "config.json")
    generation = directory / "generation_config.json"
    # Generation settings are what the publisher wants decoding to stop at; they go first.
    ends = _read_json(generation).get("eos_token_id") if generation.is_file() else None
    if ends is None:
        ends = data.get("eos_token_id")
    return _model_source(name, directory, data, ends, supplied)


def model_shape(fields: ModelFields, name: str, eos_token_ids: tuple[int, ...]) -> ModelShape:
    """The facts that later stages need, with the exact number of parameters."""
    return ModelShape(
        name=name,
        architecture=fields.architecture,
        layers=fields.num_hidden_layers,
        vocabulary=fields.vocab_size,
        hidden=fields.hidden_size,
        query_heads=fields.num_attention_heads,
        kv_heads=fields.num_key_value_heads,
        head_dim=fields.head_dim,
        maximum_positions=fields.longest_context,
        eos_token_ids=eos_token_ids,
        parameters=parameter_count(fields),
        tied_embeddings=fields.tie_word_embeddings,
    )


def with_fields(source: ModelSource, fields: ModelFields) -> ModelSource:
    """The model with other fields, such as fewer layers."""
    from glmc.presets.build import build_config

    return replace(
        source,
        fields=fields,
        config=build_config(fields, {}),
        shape=model_shape(fields, source.name, fields.eos_token_ids),
        eos_token_ids=fields.eos_token_ids,
        expected_matches=expected_matches(fields),
    )


def _model_source(
    name: str,
    directory: Path | None,
    data: Mapping[str, Any],
    ends: Any,
    supplied: Mapping[str, Any] | None,
) -> ModelSource:
    from glmc.presets.build import build_config

    place = name if directory is None else str(directory / "config.json")
    fields = read_fields(data, place=place, supplied=supplied)
    if fields.dtype is None:
        raise ConfigError(
            "config.json does not name the dtype of the weights",
            place=place,
            expected="'dtype' or 'torch_dtype'",
            remedy=f'pass {SUPPLIED_BY["dtype"]}, or add "dtype": "bfloat16" as in the published '
            "checkpoints",
        )
    eos = stop_ids(fields, ends, place=place)
    return ModelSource(
        name=name,
        directory=directory,
        fields=fields,
        config=build_config(fields, data),
        shape=model_shape(fields, name, eos),
        dtype=fields.dtype,
        eos_token_ids=eos,
        expected_matches=expected_matches(fields),
    )


def _read_json(path: Path) -> dict[str, Any]:
    try:
        data = json.loads(read_plain(path).decode("utf-8"))
    except FileNotFoundError as error:
        raise ConfigError(
            f"{path.name} is missing",
            place=str(path.parent),
            remedy="pass the directory of a complete checkpoint",
        ) from error
    except (OSError, ValueError, RecursionError) as error:
        raise ConfigError(
            f"{path.name} can't be read: {error}",
            place=str(path),
            remedy="download the file again",
        ) from error
    if not isinstance(data, dict):
        raise ConfigError(f"{path.name} is no JSON object", place=str(path))
    return data
