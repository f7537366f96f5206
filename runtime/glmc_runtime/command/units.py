"""Bytes, times, counts and shares as people read them: one form of each in every table, line and
log."""

from __future__ import annotations


def bytes_text(size: float) -> str:
    """1536 -> '1.5 KiB'."""
    for unit in ("B", "KiB", "MiB", "GiB"):
        if size < 1024:
            return f"{size:.0f} B" if unit == "B" else f"{size:.1f} {unit}"
        size /= 1024
    return f"{size:.1f} TiB"


def count_text(count: int) -> str:
    """1438000 -> '1.4 M', 352.8e9 -> '352.8 B'; below a million with commas."""
    for unit, size in (("T", 1e12), ("B", 1e9), ("M", 1e6)):
        if count >= size:
            return f"{count / size:.1f} {unit}"
    return f"{count:,}"


def seconds_text(seconds: float) -> str:
    """0.012 -> '12 ms', 31.726 -> '31.7 s', 312 -> '5 min 12 s', 7384 -> '2 h 3 min'."""
    if seconds < 1:
        return f"{seconds * 1000:.0f} ms"
    if seconds < 120:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes} min {rest} s" if minutes < 60 else f"{minutes // 60} h {minutes % 60} min"


def share_text(share: float) -> str:
    """0.083 -> '8%', 0.004 -> '0.4%', 0.0001 -> 'less than 0.1%'; nothing that is there is '0%'."""
    if 0 < share < 0.001:
        return "less than 0.1%"
    return f"{share:.1%}" if 0 < share < 0.0095 else f"{share:.0%}"
