"""``glmc run``: hands over to the runtime, which knows nothing of the compiler."""

from __future__ import annotations

import typer

from glmc_runtime.cli import main as runtime_main


def run_command(context: typer.Context) -> int:
    """Generate text from an artifact; all flags are the runtime's."""
    return runtime_main(["run", *context.args], program="glmc")
