"""llama.cpp as a library: the one that was built in ``source.tree``, a source package of
llama-cpp-python, called through the bindings of that same folder.

A context is as long as is needed, and stays for what needs one of the same size: its memory is
cleared, as its own benchmark does it. By default its cache is float16, and its flash attention
rounds to it; an exact one has neither.
"""

from __future__ import annotations

import ctypes
import importlib
import os
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np

from bench.cpu.peers import Source

LIBRARY = Path("build/bin/libllama.so")
_BINDINGS = Path("llama_cpp/llama_cpp.py")
_CONVERTER = Path("vendor/llama.cpp/conversion")
_ERROR = 4  # of ggml_log_level
_PAGE = 256  # a context is a multiple of it
_BATCH = 2048  # most tokens of a call, as llama-bench has it


def lacking(tree: Path | None) -> str | None:
    """Why there is no llama.cpp in a folder; None where there is."""
    if tree is None:
        return "no folder is named by --llama-cpp or GLMC_PEER_LLAMA_CPP"
    absent = [str(part) for part in (_BINDINGS, _CONVERTER, LIBRARY) if not (tree / part).exists()]
    return f"{tree} has no {' and no '.join(absent)}" if absent else None


def bindings(tree: Path) -> ModuleType:
    """The module of the folder's C functions, without the package around it, which needs more."""
    package = ModuleType("llama_cpp")
    package.__path__ = [str(tree / "llama_cpp")]
    sys.modules["llama_cpp"] = package
    os.environ["LLAMA_CPP_LIB_PATH"] = str((tree / LIBRARY).parent)
    return importlib.import_module("llama_cpp.llama_cpp")


@dataclass(frozen=True)
class Size:
    """Of a context: tokens of all its sequences, of a call, and sequences."""

    tokens: int
    batch: int
    sequences: int


@dataclass
class Context:
    """A llama.cpp context, and how many tokens each of its sequences has."""

    handle: Any
    size: Size
    lengths: list[int]


class LlamaCpp:
    """A model in a GGUF file."""

    prefills = True
    hashing = None

    def __init__(self, source: Source, tree: Path) -> None:
        self._threads, self._exact = source.threads, source.exact
        self._library = bindings(tree)
        self.version = _version(tree)
        self._log = self._library.llama_log_callback(_log_errors)
        self._library.llama_log_set(self._log, None)
        self._library.llama_backend_init()
        self._model = self._library.llama_model_load_from_file(
            str(source.made).encode(), self._library.llama_model_default_params()
        )
        if not self._model:
            raise RuntimeError(f"llama.cpp can't load {source.made}")
        vocabulary = self._library.llama_model_get_vocab(self._model)
        self._vocabulary = int(self._library.llama_vocab_n_tokens(vocabulary))
        self._spare: Context | None = None

    def prefill(self, prompts: Sequence[list[int]], room: int) -> tuple[Any, Any]:
        longest = max(map(len, prompts)) + room
        size = Size(
            tokens=len(prompts) * -(-longest // _PAGE) * _PAGE,
            batch=max(_BATCH, sum(map(len, prompts))),
            sequences=len(prompts),
        )
        context = self._context(size)
        return context, self._run(context, prompts)

    def decode(self, sequences: Context, tokens: list[int]) -> Any:
        return self._run(sequences, [[token] for token in tokens])

    def release(self, sequences: Context) -> None:
        self._free_spare()
        self._spare = sequences

    def _context(self, size: Size) -> Context:
        """The one that was used last, where it fits, or a new one in its place."""
        spare = self._spare
        if spare is not None and spare.size == size:
            self._library.llama_memory_clear(self._library.llama_get_memory(spare.handle), False)
            self._spare = None
            return Context(spare.handle, size, [0] * size.sequences)
        self._free_spare()
        params = self._library.llama_context_default_params()
        params.n_ctx, params.n_batch, params.n_seq_max = size.tokens, size.batch, size.sequences
        params.n_threads = params.n_threads_batch = self._threads
        if self._exact:
            params.type_k = params.type_v = self._library.GGML_TYPE_F32
            params.flash_attn_type = self._library.LLAMA_FLASH_ATTN_TYPE_DISABLED
        handle = self._library.llama_init_from_model(self._model, params)
        if not handle:
            raise RuntimeError("llama.cpp can't make a context")
        return Context(handle, size, [0] * size.sequences)

    def _free_spare(self) -> None:
        if self._spare is not None:
            self._library.llama_free(self._spare.handle)
            self._spare = None

    def _run(self, context: Context, new: Sequence[list[int]]) -> Any:
        """Append tokens to each sequence; the logits behind the last of each."""
        count = sum(map(len, new))
        batch = self._library.llama_batch_init(count, 0, 1)
        batch.n_tokens = count
        place, last = 0, []
        for number, tokens in enumerate(new):
            for token in tokens:
                batch.token[place] = token
                batch.pos[place] = context.lengths[number]
                batch.n_seq_id[place] = 1
                batch.seq_id[place][0] = number
                batch.logits[place] = 0
                context.lengths[number] += 1
                place += 1
            batch.logits[place - 1] = 1
            last.append(place - 1)
        status = self._library.llama_decode(context.handle, batch)
        self._library.llama_batch_free(batch)
        if status:
            raise RuntimeError(f"llama_decode returned {status}")
        rows = [self._library.llama_get_logits_ith(context.handle, place) for place in last]
        return np.stack([np.ctypeslib.as_array(row, (self._vocabulary,)) for row in rows])


def _version(tree: Path) -> str:
    """The release of the package and the commit of the sources in it, as the library says it."""
    lines = (tree / "PKG-INFO").read_text(encoding="utf-8").splitlines()
    release = next(line.split()[1] for line in lines if line.startswith("Version:"))
    base = ctypes.CDLL(str((tree / LIBRARY).with_name("libggml-base.so")))
    base.ggml_commit.restype = ctypes.c_char_p
    return f"llama.cpp {base.ggml_commit().decode()} of llama-cpp-python {release}"


def _log_errors(level: int, text: bytes, _: object) -> None:
    if level == _ERROR:
        print(text.decode(errors="replace"), end="", file=sys.stderr)


def load(source: Source) -> LlamaCpp:
    if source.tree is None:
        raise RuntimeError("llama.cpp has no folder")
    return LlamaCpp(source, source.tree)
