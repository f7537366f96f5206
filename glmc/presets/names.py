"""Names of the presets, and whether a command's model exists; nothing here needs torch."""

from __future__ import annotations

from contextlib import suppress
from functools import cache
from importlib import resources
from pathlib import Path

from glmc.errors import ConfigError
from glmc_runtime.command.nearest import did_you_mean


@cache
def preset_names() -> tuple[str, ...]:
    """Names of all presets, sorted."""
    files = resources.files("glmc.presets").iterdir()
    return tuple(sorted(file.name[:-5] for file in files if file.name.endswith(".json")))


def place_of(source: str | Path) -> tuple[Path | None, str]:
    """The directory of a model, None of a preset, and its name. A directory wins over a preset of
    the same name only when it is written as a path (with a separator)."""
    if isinstance(source, str) and source in preset_names():
        return None, source
    return Path(source), Path(source).resolve().name


def require_model(source: str | Path) -> None:
    """Raise :class:`ConfigError` unless it is a preset's name or a directory."""
    directory = Path(source)
    if source in preset_names() or directory.is_dir():
        return
    raise ConfigError(
        f"'{source}' is neither a preset nor a checkpoint directory",
        expected=f"a directory with config.json, or one of: {', '.join(preset_names())}",
        found="a file" if directory.is_file() else "nothing at that path",
        remedy=_near(str(source)) or _how_to_get(str(source)),
    )


def _near(source: str) -> str:
    """Presets of a similar name; a command that needs weights would refuse them next."""
    meant = did_you_mean(source, preset_names())
    if not meant:
        return ""
    return (
        f"{meant} A preset has no weights: for these, name a checkpoint's directory{_hub(source)}"
    )


def _hub(source: str) -> str:
    """How to get what may be the name of a repository; nothing for what can't be one."""
    path = Path(source)
    if source.count("/") != 1 or source.startswith((".", "/", "~")) or path.parent.is_dir():
        return ""
    return f", downloaded by: hf download {source} --local-dir {path.name}"


def _beside(path: Path) -> str:
    """Checkpoints of a similar name in the same directory."""
    with suppress(OSError):  # a directory that can't be read has no name to offer
        beside = [each for each in path.parent.iterdir() if (each / "config.json").is_file()]
        return did_you_mean(str(path), map(str, beside))
    return ""


def _how_to_get(source: str) -> str:
    """A remedy for what is no directory: a file of another format, or the name of a repository."""
    path = Path(source)
    if path.suffix == ".gguf":
        return "glmc reads no GGUF file: pass the directory of the model's safetensors checkpoint"
    if path.is_file():
        return f"pass the directory of the checkpoint: {path.parent}"
    return _beside(path) or f"pass the directory of a checkpoint{_hub(source)}, or a preset name"
