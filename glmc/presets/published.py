"""A preset: the configuration of a published model, and what must match in it."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from importlib import resources
from typing import Any

from glmc.errors import ConfigError
from glmc.presets.names import preset_names
from glmc_runtime.command.nearest import did_you_mean


@dataclass(frozen=True)
class Preset:
    """A published model. ``confidence`` grades each config field: A is the raw config or a
    checkpoint header, B two independent secondary sources, C a single one."""

    name: str
    repository: str
    config: Mapping[str, Any]
    confidence: Mapping[str, str]
    parameters: int
    matches: Mapping[str, int]


def load_preset(name: str) -> Preset:
    """A preset by name; raises :class:`ConfigError` for an unknown one."""
    if name not in preset_names():
        raise ConfigError(
            f"there is no preset '{name}'",
            expected=", ".join(preset_names()),
            remedy=did_you_mean(name, preset_names()) or "name one of these, or a directory",
        )
    file = resources.files("glmc.presets").joinpath(f"{name}.json")
    data = json.loads(file.read_text(encoding="utf-8"))
    return Preset(
        name=name,
        repository=data["repository"],
        config=data["config"],
        confidence={
            field: grade for grade, fields in data["confidence"].items() for field in fields
        },
        parameters=data["parameters"],
        matches=data["expected_matches"],
    )
