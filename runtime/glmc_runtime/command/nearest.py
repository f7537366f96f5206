"""The nearest of the names that there are, for a name that there is not."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from types import MappingProxyType

_NONE: Mapping[str, str] = MappingProxyType({})


def did_you_mean(name: str, names: Iterable[str], aliases: Mapping[str, str] = _NONE) -> str:
    """``did you mean 'rope'?``, or nothing where no name is near. ``aliases`` are what others call
    some of the names."""
    near = nearest(name, names, aliases)
    return f"did you mean {' or '.join(map(repr, near))}?" if near else ""


def nearest(name: str, names: Iterable[str], aliases: Mapping[str, str] = _NONE) -> list[str]:
    """The names that differ by a slip of the keyboard, or that begin or end with all of it."""
    from difflib import get_close_matches

    known = {_folded(each): each for each in names}
    word = _folded(name)
    if aliases.get(word) in known.values():
        return [aliases[word]]
    close = get_close_matches(word, known, 2, 0.7)
    if not close:  # letters in another order, which short names are too short for to be close
        close = [each for each in known if sorted(each) == sorted(word)][:3]
    if not close and len(word) > 1:
        close = [each for each in known if each.startswith(word) or each.endswith(word)][:3]
    return [known[each] for each in close]


def _folded(name: str) -> str:
    return name.lower().replace("-", "_")
