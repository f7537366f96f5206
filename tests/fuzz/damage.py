"""Damage to an artifact, drawn at random: bytes, files, JSON, weights. One seed, one damage.

Half of the cases put the hashes right afterwards, as whoever changes an artifact on purpose can.
"""

from __future__ import annotations

import hashlib
import json
import os
import random
import struct
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

MANIFEST = "manifest.json"
Damage = Callable[[Path, random.Random], str]

# What a field may be replaced by: other kinds, and numbers at the ends of their range.
HOSTILE: tuple[Any, ...] = (
    None,
    True,
    False,
    0,
    -1,
    1,
    7,
    2**31,
    2**63,
    -(2**63),
    10**30,
    0.5,
    float("nan"),
    float("inf"),
    "",
    "x",
    "../../etc/passwd",
    "\x1b]0;x\x07",
    "\ud800",
    "aten.any_in_place",
    "kunlun_ops.matmul",
    "tokens*99999999999999",
    [],
    [0],
    [-1, 2**40],
    ["x"],
    {},
    {"value": [1, 2]},
    {"buffer": 0},
    {"weight": "x"},
)


def apply(folder: Path, seed: str) -> tuple[str, bool]:
    """Damage the artifact in ``folder``; what was done, and whether its hashes are right again.

    A change of the manifest counts as one with right hashes: it has none.
    """
    draw = random.Random(seed)
    kind = draw.choices(tuple(KINDS), [weight for _, weight in KINDS.values()])[0]
    done = KINDS[kind][0](folder, draw)
    rehashed = draw.random() < 0.5
    if rehashed:
        put_hashes_right(folder)
    of_manifest = kind == "manifest" or MANIFEST in done
    return f"{kind}: {done}", rehashed or of_manifest


def put_hashes_right(folder: Path) -> None:
    """Let the manifest list the plain files that are there, with their sizes and hashes."""
    path = folder / MANIFEST
    if path.is_symlink() or not path.is_file():
        return  # a pipe would be waited for
    try:
        manifest = json.loads(path.read_text(encoding="utf-8"))
        manifest["files"] = {
            file.relative_to(folder).as_posix(): _entry(file)
            for file in sorted(folder.rglob("*"))
            if file.is_file() and not file.is_symlink() and file != path
        }
    except (OSError, ValueError, TypeError):
        return  # the manifest itself is what was damaged
    path.write_text(json.dumps(manifest), encoding="utf-8")


def _entry(file: Path) -> dict[str, Any]:
    data = file.read_bytes()
    return {"sha256": hashlib.sha256(data).hexdigest(), "size": len(data)}


def _files(folder: Path) -> list[Path]:
    return sorted(file for file in folder.rglob("*") if file.is_file())


def _name(folder: Path, file: Path) -> str:
    return file.relative_to(folder).as_posix()


def _bytes(folder: Path, draw: random.Random) -> str:
    """Bytes of any file, flipped, cut off, repeated or put in."""
    file = draw.choice(_files(folder))
    data = bytearray(file.read_bytes())
    place = draw.randrange(len(data) + 1)
    how = draw.choice(("flip", "cut", "insert", "repeat", "zero"))
    if how == "flip":
        for _ in range(draw.choice((1, 8, 64))):
            data[draw.randrange(len(data))] ^= 1 << draw.randrange(8)
    elif how == "cut":
        del data[place:]
    elif how == "insert":
        data[place:place] = draw.randbytes(draw.choice((1, 7, 4096)))
    elif how == "repeat":
        data[place:place] = data[max(0, place - 100) : place]
    else:
        data[place : place + 512] = bytes(len(data[place : place + 512]))
    file.write_bytes(bytes(data))
    return f"{how} in {_name(folder, file)}"


def _tree(folder: Path, draw: random.Random) -> str:
    """Files that are gone, too many, swapped, or no plain files."""
    files = _files(folder)
    file, other = draw.choice(files), draw.choice(files)
    how = draw.choice(("remove", "surplus", "swap", "link", "pipe", "folder", "loop"))
    place = folder / draw.choice(("more.bin", "plans/more.json", "weights/more.safetensors"))
    if how == "remove":
        file.unlink()
    elif how == "surplus":
        place.write_bytes(draw.randbytes(20))
    elif how == "swap":
        first, second = file.read_bytes(), other.read_bytes()
        file.write_bytes(second)
        other.write_bytes(first)
        return f"swap {_name(folder, file)} and {_name(folder, other)}"
    elif how == "link":
        file.rename(folder.with_name("kept"))
        file.symlink_to(folder.with_name("kept"))
    elif how == "loop":
        place.symlink_to(folder)
    else:
        file.unlink()
        os.mkfifo(file) if how == "pipe" else file.mkdir()
    return f"{how} {_name(folder, file)}"


def _json(name: str) -> Damage:
    """One to three fields of a JSON file: other values, gone, twice, renamed, exchanged."""

    def damage(folder: Path, draw: random.Random) -> str:
        files = sorted(folder.glob(name))
        file = draw.choice(files)
        data = json.loads(file.read_text(encoding="utf-8"))
        done = [_change(data, draw) for _ in range(draw.choice((1, 1, 1, 2, 3)))]
        file.write_text(json.dumps(data), encoding="utf-8")
        return f"{_name(folder, file)} {'; '.join(done)}"

    return damage


def _change(data: Any, draw: random.Random) -> str:
    places = list(_places(data, ""))
    # As many calls and buffers as a plan has, most places are deep inside: half are drawn from the
    # top.
    if draw.random() < 0.5:
        places = [each for each in places if each[2].count(".") <= 2] or places
    holder, key, path = draw.choice(places)
    how = draw.choice(("hostile", "sibling", "sibling", "near", "near", "gone", "twice", "rename"))
    if how == "gone":
        del holder[key]
    elif how == "twice" and isinstance(holder, list):
        holder.insert(key, _copy(holder[key]))
    elif how == "rename" and isinstance(holder, dict):
        holder[draw.choice(("x", f"{key}_", *map(str, holder)))] = holder.pop(key)
    elif how == "sibling":  # what the same field says elsewhere
        others = [there[at] for there, at, _ in _places(data, "") if at == key]
        holder[key] = _copy(draw.choice(others))
    elif how == "near" and type(holder[key]) is int:
        holder[key] += draw.choice((-2, -1, 1, 2, 16, 1 << 20))
    else:
        holder[key] = draw.choice(HOSTILE)
    return f"{how} {path}"


def _copy(value: Any) -> Any:
    return json.loads(json.dumps(value))


def _places(data: Any, path: str) -> Iterator[tuple[Any, Any, str]]:
    """Every holder and key in it, with its path."""
    keys: Iterable[Any] = data if isinstance(data, dict) else range(len(data))
    for key in keys:
        yield data, key, f"{path}.{key}"
        if isinstance(data[key], (dict, list)):
            yield from _places(data[key], f"{path}.{key}")


def _weights(folder: Path, draw: random.Random) -> str:
    """The header of a file of weights, or its length."""
    file = draw.choice(sorted((folder / "weights").iterdir()))
    data = file.read_bytes()
    (length,) = struct.unpack("<Q", data[:8])
    if draw.random() < 0.2:
        length = draw.choice((0, 1, length - 8, length + 8, 2**31, 2**63, 2**64 - 1))
        file.write_bytes(struct.pack("<Q", length) + data[8:])
        return f"header length {length}"
    header = json.loads(data[8 : 8 + length])
    done = _change(header, draw)
    text = json.dumps(header).encode()
    file.write_bytes(struct.pack("<Q", len(text)) + text + data[8 + length :])
    return f"header {done}"


def _template(folder: Path, draw: random.Random) -> str:
    """A chat template that doesn't parse, doesn't end or takes memory."""
    text = draw.choice(TEMPLATES)
    (folder / "tokenizer" / "chat_template.jinja").write_text(text, encoding="utf-8")
    return f"template {text!r:.60}"


TEMPLATES = (
    "{% break %}",
    "{{ 'a' * 10 ** 10 }}",
    "{% for i in range(10 ** 9) %}{% endfor %}",
    "{% for a in 'x' * 9999 %}{% for b in 'x' * 9999 %}{{ a }}{% endfor %}{% endfor %}",
    "{{ messages.__class__.__mro__ }}",
    "{% macro f() %}{{ f() }}{% endmacro %}{{ f() }}",
    "{{ [1] | batch(10 ** 11, 1) | list }}",
    "{{ '%2000000000d' % 1 }}",
    "{{ raise_exception('no') }}",
    "{% if %}",
    "\x00\ud7ff",
    "{{ messages[99].content }}",
)

# By name: the damage, and how often it is drawn.
KINDS: dict[str, tuple[Damage, int]] = {
    "bytes": (_bytes, 16),
    "tree": (_tree, 6),
    "manifest": (_json(MANIFEST), 24),
    "plan": (_json("plans/*.json"), 34),
    "weights": (_weights, 8),
    "tokenizer": (_json("tokenizer/*.json"), 6),
    "documents": (_json("[hr]*.json"), 3),
    "template": (_template, 3),
}
