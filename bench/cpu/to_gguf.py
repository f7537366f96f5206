"""``python -m bench.cpu.to_gguf TREE CHECKPOINT FILE DTYPE``: a checkpoint as a GGUF file.

llama.cpp's own converter in TREE, a source package of llama-cpp-python, does it, without a
vocabulary: random models have no tokenizer, and the benchmark feeds token ids.
"""

from __future__ import annotations

import logging
import sys
from importlib import import_module
from pathlib import Path
from typing import Any

import torch

_TYPES = {"bfloat16": "MOSTLY_BF16", "float32": "ALL_F32"}


def convert(tree: Path, checkpoint: Path, file: Path, dtype: str) -> None:
    """Write ``file``; its name is unfinished until it is whole."""
    sys.path.insert(0, str(tree / "vendor" / "llama.cpp"))
    conversion = import_module("conversion")  # puts the package gguf of the same folder on the path
    gguf = import_module("gguf")
    params = conversion.ModelBase.load_hparams(checkpoint, False)
    name = conversion.get_model_architecture(params, conversion.ModelType.TEXT)
    known = conversion.get_model_class(name)

    def no_vocabulary(model: Any) -> None:
        model.gguf_writer.add_tokenizer_model("none")
        model.gguf_writer.add_vocab_size(params["vocab_size"])

    members = {"model_arch": known.model_arch, "set_vocab": no_vocabulary}
    made = type(known.__name__, (known,), members)
    unfinished = file.with_suffix(".unfinished")
    with torch.inference_mode():
        made(checkpoint, gguf.LlamaFileType[_TYPES[dtype]], unfinished).write()
    unfinished.rename(file)


if __name__ == "__main__":
    logging.disable(logging.WARNING)
    convert(Path(sys.argv[1]), Path(sys.argv[2]), Path(sys.argv[3]), sys.argv[4])
