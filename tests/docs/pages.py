"""The package that a page shows: its files, under the headings that name them, and its commands."""

from __future__ import annotations

import shutil
from pathlib import Path

from tests.docs.environments import Environment, make_environment
from tests.docs.markdown import ROOT, blocks, section
from tests.support.captures import remember


def shown_files(page: Path) -> dict[str, str]:
    """Each file of the page by the name in its heading."""
    titles = [
        line.removeprefix("## `").removesuffix("`")
        for line in page.read_text(encoding="utf-8").splitlines()
        if line.startswith("## `")
    ]
    shown = blocks(page, "python", "toml")
    files = {title: block.text for title, block in zip(titles, shown, strict=True)}
    for title, text in files.items():
        if text.rstrip("\n") not in section(page, f"`{title}`"):
            raise ValueError(f"{page.name}: the section of {title} shows another file")
    return files


def shown_commands(page: Path) -> list[str]:
    """The commands of the page in order, word for word."""
    lines = [line for block in blocks(page, "console") for line in block.lines]
    return [line.removeprefix("$ ") for line in lines if line.startswith("$ ")]


def page_environment(page: Path, package: str, folder: Path) -> Environment:
    """An environment in a checkout that has ``models``, ``pyproject.toml`` with the options of
    pytest and, in ``package``, the page's files.

    For modules with ``shared_captures``, since pages compile models/tiny-moe in forks.
    """
    checkout = folder / "checkout"
    (checkout / package).mkdir(parents=True)
    (checkout / "models").symlink_to(ROOT / "models")
    shutil.copy(ROOT / "pyproject.toml", checkout)
    for name, text in shown_files(page).items():
        (checkout / package / name).write_text(text)
    remember(ROOT / "models" / "tiny-moe")
    return make_environment(folder / "environment", checkout)
