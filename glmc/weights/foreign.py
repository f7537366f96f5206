"""Weights in formats that glmc does not read, each refused by name with its own remedy."""

from __future__ import annotations

from pathlib import Path

from glmc.errors import CheckpointError
from glmc.presets.quantised import METHODS, UNQUANTISED

# transformers itself reads the pickle, once, and writes the safetensors beside it.
CONVERT = (
    'python -c "from transformers import AutoModelForCausalLM as M; '
    "d = '{directory}'; M.from_pretrained(d, dtype='auto').save_pretrained(d)\""
)
_MERGE = (
    'python -c "from peft import AutoPeftModelForCausalLM as M; '
    "M.from_pretrained('{directory}').merge_and_unload().save_pretrained('MERGED')\""
)
_PICKLES = (".bin", ".pt", ".pth", ".ckpt")
# Pickles of a training run that are no weights.
_TRAINING = ("training_args", "optimizer", "scheduler", "rng_state", "scaler", "trainer_state")
# Files that quantising tools leave beside the weights, with the method they mean.
QUANTISING_FILES = {
    "hf_quant_config.json": "modelopt",
    "quantize_config.json": "gptq",
    "quant_config.json": "awq",
    "quant_model_description.json": "msmodelslim",
    "quant_model_description_w8a8.json": "msmodelslim",
    "quant_model_description_w8a8_dynamic.json": "msmodelslim",
}


def refuse_adapter(directory: Path) -> None:
    """transformers with peft puts an adapter on another model; alone it is no checkpoint."""
    adapters = [
        name
        for name in ("adapter_config.json", "adapter_model.safetensors", "adapter_model.bin")
        if (directory / name).is_file()
    ]
    if adapters:
        raise CheckpointError(
            "the directory holds an adapter (LoRA) of another model",
            place=str(directory),
            expected="the weights of a whole model",
            found=", ".join(adapters),
            remedy="merge it into its base model and compile the result: "
            f"{_MERGE.format(directory=directory)}; or move these files away to compile the "
            "weights without it",
        )


def refuse_quantising_files(directory: Path) -> None:
    for name, method in QUANTISING_FILES.items():
        if (directory / name).is_file():
            raise CheckpointError(
                f"the checkpoint is quantised: {METHODS[method]}",
                place=str(directory / name),
                expected="bfloat16, float16 or float32 weights",
                found=f"{name}, which is written beside quantised weights",
                remedy=f"{UNQUANTISED}; if these weights are not quantised, remove the file",
            )


def no_weights(directory: Path) -> CheckpointError:
    """What to do about a directory without safetensors that transformers would load."""
    files = sorted(path.name for path in directory.iterdir() if path.is_file())
    gguf = [name for name in files if name.endswith(".gguf")]
    pickles = [name for name in files if name.endswith(_PICKLES) and not name.startswith(_TRAINING)]
    others = [name for name in files if name.endswith((".h5", ".msgpack", ".npz"))]
    tensors = [name for name in files if name.endswith(".safetensors")]
    if tensors:
        return _other_names(directory, tensors)
    if pickles:
        return CheckpointError(
            "the weights are pickled: glmc reads safetensors only, which can run no code",
            place=str(directory),
            expected="model.safetensors",
            found=_few(pickles),
            remedy=f"convert them once: {CONVERT.format(directory=directory)}",
        )
    if gguf:
        return CheckpointError(
            f"the weights are quantised: {METHODS['gguf']}",
            place=str(directory),
            expected="model.safetensors",
            found=_few(gguf),
            remedy="use the safetensors checkpoint of the same model",
        )
    if others:
        return CheckpointError(
            "the weights are of TensorFlow, Flax or NumPy",
            place=str(directory),
            expected="model.safetensors",
            found=_few(others),
            remedy="use the safetensors checkpoint of the same model",
        )
    return CheckpointError(
        "the directory holds no weights",
        place=str(directory),
        expected="model.safetensors, or model.safetensors.index.json and its files",
        found="no file of weights",
        remedy="download the weights, or compile with --random-weights or --no-weights",
    )


def _other_names(directory: Path, names: list[str]) -> CheckpointError:
    """safetensors that transformers does not look at: a variant, another tool's, a part."""
    remedy = "rename the file to model.safetensors if it holds the model in transformers' names"
    if any(name.startswith("consolidated") for name in names):
        remedy = "this is the layout of the trainer: download the files that transformers reads"
    elif any(name.startswith("model-") and "-of-" in name for name in names):
        remedy = "complete the download: model.safetensors.index.json or some of its files are gone"
    elif all(name.startswith("model.") for name in names):
        remedy = f"this is a variant: rename {names[0]} to model.safetensors to use it"
    return CheckpointError(
        "no file has a name that transformers loads",
        place=str(directory),
        expected="model.safetensors, or model.safetensors.index.json and its files",
        found=_few(names),
        remedy=remedy,
    )


def _few(names: list[str]) -> str:
    return ", ".join(names[:8]) + (f" and {len(names) - 8} more" if len(names) > 8 else "")
