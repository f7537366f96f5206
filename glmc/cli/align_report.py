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
    emulated = alignment.emulated
    if every or worst:
        values = worst_first(alignment.values) if worst else alignment.values
        table = values_table(values, emulated=emulated)
    else:
        table = layers_table(by_layer(alignment.values), emulated=emulated)
    if alignment.values:
        console().print(table)
    for line in unpaired_lines(alignment, names=every):
        say(printable(line))
    say(f"\n{paragraph(alignment)}")
