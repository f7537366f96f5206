"""A record as small as HDF5 makes it: for those that the repository ships.

``python -m tests.check.align.packed_record FROM TO [--keep rows:1]``. Elements are deflated and
attributes stand in the headers; names, their order, attributes and values stay. With ``--keep`` the
file has the rows that a record made with that option would have had.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import h5py

from glmc_runtime.record.h5_facts import recorded_run
from glmc_runtime.record.keep import Keep

_WORTH = 200
"""Bytes of elements beyond which deflating them pays for its header."""
_ATTRIBUTES = 64
"""More than any tensor has: HDF5 gives those of a crowded header a heap of several KiB."""


def pack(source: Path, made: Path, keep: Keep | None = None) -> None:
    """Raises RecordError for what is no record of ours, and ValueError for rows that were not
    stored."""
    prompts = recorded_run(source).prompts
    known: dict[int, Any] = {}  # by address: a tensor may have several names
    with (
        h5py.File(source, "r") as old,
        h5py.File(made, "w", track_order=True, libver=("v110", "v110")) as new,
    ):
        _describe(new, old)
        for step, tensors in old.items():
            group = new.create_group(step, track_order=True)
            lengths = [len(each) if step == "0" else 1 for each in prompts]
            for name, data in tensors.items():
                address = h5py.h5o.get_info(data.id).addr
                if address in known:
                    group[name] = known[address]
                else:
                    known[address] = _packed(group, name, data, keep or Keep(), lengths)


def _packed(group: Any, name: str, data: Any, keep: Keep, lengths: Sequence[int]) -> Any:
    shape = tuple(map(int, data.attrs["shape"]))
    values, rows = data[()], keep.chosen(shape, lengths)
    if rows is not None:
        stored = data.attrs["rows"].tolist() if "rows" in data.attrs else range(values.size)
        values = values.reshape(-1, shape[-1])[[stored.index(row) for row in rows]]
    properties = h5py.h5p.create(h5py.h5p.DATASET_CREATE)
    properties.set_attr_phase_change(_ATTRIBUTES, 0)
    packed: dict[str, Any] = {}
    if values.nbytes > _WORTH:
        packed = {"chunks": values.shape, "compression": "gzip", "compression_opts": 9}
        packed["shuffle"] = True
    else:
        properties.set_layout(h5py.h5d.COMPACT)
    made = group.create_dataset(name, data=values, track_times=False, dcpl=properties, **packed)
    _describe(made, data)
    if rows is not None:
        made.attrs["rows"] = list(rows)
    return made


def _describe(new: Any, old: Any) -> None:
    for name, value in old.attrs.items():
        new.attrs[name] = value


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("source", type=Path)
    parser.add_argument("made", type=Path)
    parser.add_argument("--keep", type=Keep.parse, default="all")
    given = parser.parse_args()
    pack(given.source, given.made, given.keep)
