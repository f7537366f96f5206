"""Read releases of engines, run tests inside them, and write docs/engine_releases.md.

python -m tools.engine_releases                     # exit status 1 when the page is out of date
python -m tools.engine_releases --read vllm         # every release from the first of the table on
python -m tools.engine_releases --read vllm==0.33.0
python -m tools.engine_releases --run sglang==0.5.20
python -m tools.engine_releases --run vllm==0.29.0 --only test_compat --only test_offline
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

import typer

from glmc_engines.surface.adapters import adapter_uses
from glmc_engines.surface.engines import Spec
from glmc_runtime.errors import GlmcError
from tools.engine_releases.matrix import run_tests
from tools.engine_releases.page import PAGE, page
from tools.engine_releases.reading import named, read_surfaces, rows_digest
from tools.engine_releases.records import Record, merged, read_records, write_records


def main(
    read: Annotated[
        list[str], typer.Option(metavar="RELEASE", help="Look names up; repeatable.")
    ] = [],  # noqa: B006 - how typer declares an option that may be repeated
    run: Annotated[list[str], typer.Option(metavar="RELEASE", help="Run tests; repeatable.")] = [],  # noqa: B006
    only: Annotated[
        list[str], typer.Option(metavar="FILE", help="Files of tests, by name; repeatable.")
    ] = [],  # noqa: B006
    write: Annotated[bool, typer.Option("--write", help="Write the page anew.")] = False,
    engines: Annotated[Path, typer.Option(help="Environments of the engines.")] = Path(".engines"),
    wheels: Annotated[Path, typer.Option(help="Wheels of engines.")] = Path(".engines/wheels"),
) -> None:
    """Keep the table of releases."""

    def store(record: Record) -> None:
        write_records(merged(read_records(), record))
        PAGE.write_text(page(PAGE.read_text("utf-8"), read_records()), encoding="utf-8")
        print(f"{record.engine} {record.version}", file=sys.stderr, flush=True)

    try:
        read_surfaces(named(read), engines / "releases", store)
        for text in run:
            store(run_tests(Spec.parse(text), engines.resolve(), wheels, only))
    except GlmcError as error:
        typer.echo(str(error), err=True)
        raise typer.Exit(error.exit_status) from error
    records = read_records()
    for line in of_other_rows(records):
        print(line)
    text = PAGE.read_text(encoding="utf-8")
    if write:
        text = page(text, records)
        PAGE.write_text(text, encoding="utf-8")
    if text != page(text, records):
        print(f"{PAGE.name} is not what the records give; --write writes it")
        raise typer.Exit(1)


def of_other_rows(records: list[Record]) -> list[str]:
    """Releases that were read before the adapter's rows became what they are."""
    now = {
        engine: rows_digest(adapter_uses(engine)) for engine in {each.engine for each in records}
    }
    return [
        f"{each.engine} {each.version} was read for other names than the adapter has now"
        for each in records
        if each.surface is not None and each.surface.rows != now[each.engine]
    ]


if __name__ == "__main__":
    typer.run(main)
