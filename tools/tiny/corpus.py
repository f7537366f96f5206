"""The training text: what a Python installation says about itself, and texts of free licences.

Nothing is downloaded and nothing of it is committed. Three sources, each found generically:

* docstrings of the standard library, read with ``ast`` so that no module is executed;
* ``pydoc_data/topics.py``, the language reference as ``help()`` shows it;
* licence texts: Python's own, and ``/usr/share/common-licenses`` where the system has it.

The standard library is under the PSF licence; the licence texts allow verbatim copies.
"""

from __future__ import annotations

import ast
import hashlib
import inspect
import sysconfig
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from glmc.errors import UsageError

COMMON_LICENSES = Path("/usr/share/common-licenses")

# Whole modules that are never trained on, so that a test can measure the loss on unseen text of
# any Python that it runs under.
HELD_OUT_MODULES = frozenset({"bisect", "fractions", "heapq", "sched", "shelve", "textwrap"})

SKIPPED_FOLDERS = frozenset(
    {"__pycache__", "idle_test", "lib2to3", "pydoc_data", "site-packages", "test", "tests"}
)
SHORTEST_DOCSTRING = 60
LONGEST_ANSWER = 600
# One docstring in so many is shown as a question and an answer too, for the role tokens.
CHAT_EVERY = 6


@dataclass(frozen=True)
class Document:
    """One training text.

    ``question`` is empty for running text; otherwise ``text`` is the assistant's answer to it.
    """

    source: str
    text: str
    question: str = ""


@dataclass(frozen=True)
class Corpus:
    """Training and held-out documents in a fixed order."""

    training: tuple[Document, ...]
    held_out: tuple[Document, ...]

    def size(self) -> int:
        """Bytes of UTF-8 of all training text, questions included."""
        return sum(len((d.question + d.text).encode()) for d in self.training)

    def sha256(self) -> str:
        """Digest of training questions and texts in order, each ended by a zero byte."""
        digest = hashlib.sha256()
        for document in self.training:
            digest.update(document.question.encode() + b"\0" + document.text.encode() + b"\0")
        return digest.hexdigest()

    def bytes_by_source(self) -> dict[str, int]:
        """Training bytes of each source, in order of first appearance."""
        sizes: dict[str, int] = {}
        for document in self.training:
            length = len((document.question + document.text).encode())
            sizes[document.source] = sizes.get(document.source, 0) + length
        return sizes


def gather_corpus() -> Corpus:
    """Read all sources of this machine.

    Raises UsageError when the Python installation ships no readable standard library.
    """
    library = Path(sysconfig.get_path("stdlib"))
    training: list[Document] = []
    held_out: list[Document] = []
    for path in _library_files(library):
        module = _module_name(path.relative_to(library))
        documents = list(_docstrings(path, module))
        (held_out if module in HELD_OUT_MODULES else training).extend(documents)
    if not training or not held_out:
        raise UsageError(
            "the standard library of this Python has no docstrings to train on",
            place=str(library),
            expected="readable .py files",
            found=f"{len(training)} training and {len(held_out)} held-out docstrings",
            remedy="run with a Python installed from source or from a full package",
        )
    training.extend(_topics(library / "pydoc_data" / "topics.py"))
    training.extend(_licences(library))
    return Corpus(_without_duplicates(training), tuple(held_out))


def _library_files(library: Path) -> Iterator[Path]:
    for path in sorted(library.rglob("*.py")):
        folders = path.relative_to(library).parts[:-1]
        # A stdlib folder named config-3.x holds build settings, no prose.
        if not SKIPPED_FOLDERS.intersection(folders) and not any(
            folder.startswith("config-") for folder in folders
        ):
            yield path


def _module_name(path: Path) -> str:
    parts = path.with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def _docstrings(path: Path, module: str) -> Iterator[Document]:
    """Documents of one file: a heading as in the manual, an empty line, the docstring."""
    tree = ast.parse(path.read_bytes(), filename=path.name)
    for index, (heading, docstring) in enumerate(_walk(tree, module)):
        text = inspect.cleandoc(docstring).strip()
        if len(text) < SHORTEST_DOCSTRING:
            continue
        yield Document("docstrings", f"{heading}\n\n{text}\n")
        if index % CHAT_EVERY == 0 and len(text) <= LONGEST_ANSWER:
            name = heading.split("(")[0].split(" ")[-1]
            yield Document("docstrings as chat", text, question=f"What is {name}?")


def _walk(tree: ast.Module, module: str) -> Iterator[tuple[str, str]]:
    """(heading, docstring) of the module and of everything defined in it, in source order."""
    pending: list[tuple[ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef, str]]
    pending = [(tree, module)]
    while pending:
        node, name = pending.pop()
        docstring = ast.get_docstring(node, clean=False)
        if docstring is not None:
            yield _heading(node, name), docstring
        children = [
            (child, f"{name}.{child.name}")
            for child in node.body
            if isinstance(child, (ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef))
        ]
        pending.extend(reversed(children))


def _heading(
    node: ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef, name: str
) -> str:
    if isinstance(node, ast.Module):
        return f"module {name}"
    if isinstance(node, ast.ClassDef):
        return f"class {name}"
    return f"{name}({ast.unparse(node.args)})"


def _topics(path: Path) -> Iterator[Document]:
    """The language reference that ``help()`` prints: a dict literal of topic to text."""
    if not path.is_file():
        return
    tree = ast.parse(path.read_bytes(), filename=path.name)
    for node in tree.body:
        if isinstance(node, ast.Assign) and isinstance(node.value, ast.Dict):
            topics = ast.literal_eval(node.value)
            for name in sorted(topics):
                yield Document("language reference", topics[name].strip() + "\n")


def _licences(library: Path) -> Iterator[Document]:
    paths = [library / "LICENSE.txt"]
    if COMMON_LICENSES.is_dir():
        paths += [path for path in sorted(COMMON_LICENSES.iterdir()) if not path.is_symlink()]
    for path in paths:
        if path.is_file():
            yield Document("licences", path.read_text(encoding="utf-8").strip() + "\n")


def _without_duplicates(documents: list[Document]) -> tuple[Document, ...]:
    unique = {(document.question, document.text): document for document in documents}
    return tuple(unique.values())
