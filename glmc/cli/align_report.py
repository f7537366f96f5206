"""What ``glmc align`` prints: the sides, a table, what only one side has, the first divergence."""

from __future__ import annotations

from glmc.check.align.result import Alignment
from glmc.check.align.summary import by_layer, worst_first
from glmc.check.align.words import header_lines, paragraph, unpaired_lines
from glmc.cli.align_tables import layers_table, values_table
from glmc.cli.say import console, say
from glmc_runtime.printable import printable


def show(alignment: Alignment, *, every: bool, worst: bool) -> None:
    """A line for each layer or, with either flag, for each value."""
    say("\n".join(map(printable, header_lines(alignment))))
    out, emulated = console(), alignment.emulated
    if every or worst:
        values = worst_first(alignment.values) if worst else alignment.values
        table, left_out = values_table(values, emulated=emulated, width=out.width)
    else:
        layers = by_layer(alignment.values)
        table, left_out = layers_table(layers, emulated=emulated, width=out.width)
    if alignment.values:
        out.print(table)
    if left_out:
        names = ", ".join(left_out)
        say(f"no room in {out.width} columns: {names}; --csv FILE and --json have all")
    for line in unpaired_lines(alignment, names=every):
        say(printable(line))
    say(f"\n{paragraph(alignment)}")
