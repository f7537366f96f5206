"""``glmc presets``: the published models that glmc knows by name."""

from __future__ import annotations

import json

import typer

from glmc.cli.options import Json


def presets_command(as_json: Json = False) -> None:
    """List the presets: published configurations, compiled with --no-weights or random weights."""
    from rich.table import Table

    from glmc.cli.say import console
    from glmc.presets.names import preset_names
    from glmc.presets.published import load_preset
    from glmc_runtime.command.units import count_text

    presets = [load_preset(name) for name in preset_names()]
    if as_json:
        rows = [
            {
                "name": preset.name,
                "repository": preset.repository,
                "parameters": preset.parameters,
                "config": dict(preset.config),
                "confidence": dict(preset.confidence),
                "expected_matches": dict(preset.matches),
            }
            for preset in presets
        ]
        typer.echo(json.dumps(rows, indent=1))
        return
    table = Table(title="Presets")
    for column in ("name", "architecture"):
        table.add_column(column)
    for column in ("layers", "with experts", "parameters", "context"):
        table.add_column(column, justify="right")
    for preset in presets:
        table.add_row(
            preset.name,
            str(preset.config["architectures"][0]),
            str(preset.config["num_hidden_layers"]),
            str(preset.matches["moe_gate"]),
            count_text(preset.parameters),
            f"{preset.config['max_position_embeddings']:,}",
        )
    console().print(table)
