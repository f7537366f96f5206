"""The package that a page shows: its files, under the headings that name them."""

from __future__ import annotations

from pathlib import Path

from tests.docs.markdown import blocks, section
from tests.support.distributions import install_project


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


def install_page(page: Path, folder: Path) -> Path:
    """Install the package of a page into ``folder``."""
    files = shown_files(page)
    modules = {name: text for name, text in files.items() if name.endswith(".py")}
    return install_project(folder, files["pyproject.toml"], modules)
