"""A checkpoint as the stock model of Hugging Face in eager spelling: the reference of records."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
import transformers

from glmc.errors import CheckpointError, UsageError


def load_eager(directory: Path, dtype: str | None = None, device: str = "cpu") -> Any:
    """The model on a device, experts as a plain loop; ``dtype`` None is the checkpoint's.

    Raises :class:`CheckpointError`, and :class:`UsageError` for a device that is not there.
    """
    place = _device_of(device)
    modern = int(transformers.__version__.split(".", maxsplit=1)[0]) >= 5
    # transformers 4 knows no other experts than the loop.
    experts = {"experts_implementation": "eager"} if modern else {}
    logging = transformers.utils.logging
    shown = logging.is_progress_bar_enabled()
    logging.disable_progress_bar()
    try:
        model = transformers.AutoModelForCausalLM.from_pretrained(
            directory,
            dtype=dtype or "auto",
            attn_implementation="eager",
            trust_remote_code=False,
            local_files_only=True,
            **experts,
        )
    except (OSError, ValueError, KeyError, RuntimeError, TypeError, AttributeError) as error:
        raise CheckpointError(
            "Hugging Face can't load the checkpoint",
            place=str(directory),
            found=f"{type(error).__name__}: {str(error).strip().partition(chr(10))[0]}",
        ) from error
    finally:
        if shown:
            logging.enable_progress_bar()
    return model.requires_grad_(False).eval().to(place)


def _device_of(name: str) -> torch.device:
    """The device; an allocation says whether it is there."""
    try:
        device = torch.device(name)
        torch.empty(1, device=device)
    except (RuntimeError, AssertionError, NotImplementedError) as error:
        raise UsageError(
            f"there is no device '{name}' here",
            expected="cpu, cuda or cuda:N",
            found=str(error).strip().partition("\n")[0],
            remedy="--device cpu",
        ) from error
    return device
